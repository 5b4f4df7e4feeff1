"""Measures a replay that re-embeds many faces under load.

    python -m bench.speed.reembed PHOTOS --embedded
    eval "$(make -s services)"; python -m bench.speed.reembed PHOTOS

PHOTOS has lfw/NAME/NAME_0001.jpg. bench/speed/learned_faces.py makes enough faces from it and writes them as learned,
after many records of recognized images, which a replay does not read. Then one run measures the bare embedder on the
same crops; the replay alone; clients at 30 % of the service's capacity, without a replay and during one that is killed
in the middle and continued. Then it compares and activates, learns more faces, rolls back, after which these faces must
be found, and retires.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from backends.log import CommittedOffset, TopicPartition
from bench.accuracy import lfw
from bench.accuracy.models import LFW
from bench.clients import verdict
from bench.cluster import Cluster
from bench.photos import add_photos_argument
from bench.serving import Serving
from bench.speed.bare import load_networks
from bench.speed.learned_faces import OLD, bare_rate, cut_faces, embed_faces, write_learned, write_recognized
from bench.stores import temporary_stores
from facestream.config import Settings
from facestream.progress import progress_bar
from facestream.runtime.stores import Stores, create_stores, open_stores
from processors.networks import TorchEmbedder
from processors.stages.reembed import GROUP
from stream.catch_up import remaining_lag
from stream.topics import FACES_LEARNED

NEW = "dlib-resnet29"
CLIENTS = 8
SHARE = 0.3  # of the capacity that the paced clients use
WANTED_ALONE, WANTED_BESIDE, WANTED_P99 = 0.9, 0.6, 2.0


@dataclass
class ClientFigures:
    """Seconds from a request to its answer, and the errors."""

    seconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def quantile(self, share: float) -> float:
        return float(np.quantile(self.seconds, share)) if self.seconds else float("nan")


class Replay:
    """`facestream reembed` in a separate process."""

    def __init__(self, stores: Stores, environment: dict[str, str]) -> None:
        self._stores, self._environment = stores, environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(command("reembed", NEW), env=self._environment, stderr=subprocess.DEVNULL)

    async def measure_rate(self, total: int, kill_at: float | None = None) -> float:
        """Waits for the end. Returns faces per second, measured from a tenth (or from the restart after a kill) to nine
        tenths.

        kill_at: the completed share at which it is killed and started again.
        """
        assert self._process is not None
        ends = await self._stores.log.end_offsets(FACES_LEARNED.name)
        points: list[tuple[float, int]] = []
        begin = 0.1
        while self._process.poll() is None:
            left = await remaining_lag(self._stores.log, GROUP + NEW, FACES_LEARNED.name, ends)
            if begin * total < total - left < 0.9 * total:
                points.append((time.monotonic(), left))
            if kill_at is not None and total - left > kill_at * total:
                self._process.kill()
                self._process.wait()
                print(f"  killed at {total - left:,} of {total:,}", flush=True)
                self.start()
                begin, kill_at, points = (total - left) / total + 0.02, None, []
            await asyncio.sleep(0.25)
        if self._process.returncode:
            raise RuntimeError(f"the replay ended with {self._process.returncode}")
        (began, first), (ended, last) = points[0], points[-1]
        return (first - last) / (ended - began)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "facestream.cli", *arguments]


async def ask(session: aiohttp.ClientSession, url: str, path: str, picture: bytes, **fields: str) -> tuple[int, Any]:
    form = aiohttp.FormData(fields)
    form.add_field("file", picture, filename="photo.jpg")
    async with session.post(url + path, data=form) as response:
        return response.status, await response.json()


async def measure_capacity(
    session: aiohttp.ClientSession, url: str, pictures: Sequence[bytes], seconds: float
) -> float:
    """The images per second that are answered when clients send without a pause."""
    done, until = [0], time.monotonic() + seconds

    async def client(number: int) -> None:
        while time.monotonic() < until:
            await ask(session, url, "/recognize", pictures[(number + done[0]) % len(pictures)], directory="lfw-0")
            done[0] += 1

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return done[0] / seconds


async def send_paced(
    session: aiohttp.ClientSession, url: str, pictures: Sequence[bytes], rate: float, stop: asyncio.Event
) -> ClientFigures:
    """Sends requests at even intervals, without waiting for answers."""
    figures, tasks, number = ClientFigures(), set(), 0

    async def one(picture: bytes) -> None:
        began = time.monotonic()
        status, body = await ask(session, url, "/recognize", picture, directory="lfw-0")
        figures.seconds.append(time.monotonic() - began)
        if status != 200:
            figures.failed.append(f"{status}: {body}")

    next_at = time.monotonic()
    while not stop.is_set():
        task = asyncio.create_task(one(pictures[number % len(pictures)]))
        tasks.add(task)
        number, next_at = number + 1, next_at + 1 / rate
        await asyncio.sleep(max(0.0, next_at - time.monotonic()))
    await asyncio.gather(*tasks)
    return figures


@asynccontextmanager
async def open_system(
    folder: Path, weights: Path, in_one: bool
) -> AsyncIterator[tuple[Stores, dict[str, str], Serving | Cluster]]:
    """The stores, the environment of commands, and the service, which is started when the faces are written."""
    data = folder / "data"
    async with AsyncExitStack() as stack:
        settings = {} if in_one else await stack.enter_async_context(temporary_stores("reembed"))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FACESTREAM_")}
        environment |= {
            f"FACESTREAM_{k.upper()}": v for k, v in (settings | {"data": str(data), "weights": str(weights)}).items()
        }
        os.environ.update({k: v for k, v in environment.items() if k.startswith("FACESTREAM_")})
        stores = await stack.enter_async_context(open_stores(Settings()))
        await create_stores(stores)
        cluster = (
            Cluster(settings, data, weights, {"ingest": 1, "process": 1, "sink": 1}, decoders="1") if settings else None
        )
        yield stores, environment, cluster or Serving(data, weights)


async def run(arguments: argparse.Namespace, folder: Path) -> list[str]:
    wrong: list[str] = []
    weights = arguments.weights.resolve()
    models = load_networks(Settings(weights=weights))
    bare_embedder = TorchEmbedder(models.embedder.module, models.embedder.device, mirror=False)
    known = lfw.read_faces(arguments.photos, lfw.list_images(arguments.photos), models)
    faces = []
    with progress_bar("cut", arguments.faces) as tell:
        for face in cut_faces(arguments.photos, known, arguments.faces):
            faces.append(face)
            tell(1)
    print("embedding them in the active generation", flush=True)
    vectors = embed_faces(faces, models.embedder)
    sample = faces[: min(len(faces), 4_096)]
    async with (
        open_system(folder, weights, arguments.embedded) as (stores, environment, serving),
        aiohttp.ClientSession() as session,
    ):
        await write_recognized(stores, arguments.recognized)
        await write_learned(stores, faces, vectors)
        pictures = [(arguments.photos / "lfw" / path).read_bytes() for path in known.paths[:200]]
        async with _served(serving) as url:
            bare = [bare_rate(sample, bare_embedder)]
            print(f"bare embedder: {bare[0]:.0f} faces/s", flush=True)
            replay = Replay(stores, environment)
            replay.start()
            alone = await replay.measure_rate(len(faces))
            bare.append(bare_rate(sample, bare_embedder))
            ratio = alone / float(np.mean(bare))
            of_bare = f"{ratio:.2f} of the bare embedder ({bare[0]:.0f} and {bare[1]:.0f})"
            print(f"replay alone: {alone:.0f} faces/s, {of_bare}", flush=True)
            wrong += (
                []
                if ratio >= WANTED_ALONE
                else [f"the replay alone has {ratio:.2f} of the bare rate, wanted {WANTED_ALONE}"]
            )
            wrong += await _replay_beside_clients(arguments, stores, environment, session, url, pictures, alone)
            wrong += await _switch_and_roll_back(arguments, environment, session, url, pictures)
    return wrong


async def _replay_beside_clients(
    arguments: argparse.Namespace,
    stores: Stores,
    environment: dict[str, str],
    session: aiohttp.ClientSession,
    url: str,
    pictures: Sequence[bytes],
    alone: float,
) -> list[str]:
    """Runs the same replay again from the start, during paced requests."""
    wrong: list[str] = []
    pace = SHARE * await measure_capacity(session, url, pictures, arguments.seconds / 2)
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(arguments.seconds, stop.set)
    without = await send_paced(session, url, pictures, pace, stop)
    await _rewind(stores)
    replay, stop = Replay(stores, environment), asyncio.Event()
    clients = asyncio.create_task(send_paced(session, url, pictures, pace, stop))
    replay.start()
    beside = await replay.measure_rate(arguments.faces, kill_at=0.4)
    stop.set()
    with_it = await clients
    p99 = with_it.quantile(0.99) / without.quantile(0.99)
    ms_without, ms_beside = ([it.quantile(share) * 1e3 for share in (0.5, 0.99)] for it in (without, with_it))
    print(
        f"clients at {pace:.1f}/s: p50 {ms_without[0]:.0f}, p99 {ms_without[1]:.0f} ms without,"
        f" {ms_beside[0]:.0f}, {ms_beside[1]:.0f} ms beside a replay: p99 {p99:.2f} times;"
        f" {len(without.failed)} and {len(with_it.failed)} failed of {len(without.seconds)} and {len(with_it.seconds)}"
    )
    print(f"replay beside them: {beside:.0f} faces/s, {beside / alone:.2f} of its rate alone", flush=True)
    wrong += [f"a request failed: {it}" for it in (without.failed + with_it.failed)[:5]]
    wrong += [] if p99 <= WANTED_P99 else [f"p99 beside a replay is {p99:.2f} times, wanted {WANTED_P99}"]
    wrong += (
        []
        if beside / alone >= WANTED_BESIDE
        else [f"the replay has {beside / alone:.2f} of its rate, wanted {WANTED_BESIDE}"]
    )
    return wrong


async def _switch_and_roll_back(
    arguments: argparse.Namespace,
    environment: dict[str, str],
    session: aiohttp.ClientSession,
    url: str,
    pictures: Sequence[bytes],
) -> list[str]:
    for step in (("compare", OLD, NEW), ("activate", NEW)):
        await _run_models_command(environment, *step)
    wrong: list[str] = []
    limit = asyncio.Semaphore(CLIENTS)

    async def learn_one(number: int) -> None:
        async with limit:
            picture = _vary(pictures[number % len(pictures)], number)
            status, body = await ask(
                session, url, "/learn", picture, directory="more", person=f"more {number}", face="largest"
            )
            if status != 201:
                wrong.append(f"learn {number} ended with {status}: {body}")

    async def recognize_one(number: int) -> None:
        async with limit:
            picture = _vary(pictures[number % len(pictures)], number)
            _, body = await ask(session, url, "/recognize", picture, directory="more", strangers="1", top="10")
            models = body["models"]
            names = {it["id"] for person in body["persons"] for it in person["candidates"]}
            if models["generation"] != OLD or f"more {number}" not in names:
                wrong.append(f"after the rollback, 'more {number}' is not found: {models}, {sorted(names)}")

    await asyncio.gather(*(learn_one(number) for number in range(arguments.more)))
    await _run_models_command(environment, "activate", OLD)
    await asyncio.sleep(2)
    await asyncio.gather(*(recognize_one(number) for number in range(arguments.more)))
    await _run_models_command(environment, "retire", NEW)
    print(f"{arguments.more} learned while '{NEW}' was active, looked for in '{OLD}'", flush=True)
    return wrong


def _vary(picture: bytes, number: int) -> bytes:
    """The same picture in another file: decoders ignore what follows the end of a JPEG."""
    return picture + number.to_bytes(4, "big")


async def _run_models_command(environment: dict[str, str], *arguments: str) -> None:
    done = await asyncio.to_thread(
        subprocess.run, command("models", *arguments), env=environment, capture_output=True, text=True, check=False
    )
    tail = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("{")][-12:]
    print("\n".join(tail), flush=True)
    if done.returncode:
        raise RuntimeError(f"models {arguments} ended with {done.returncode}")


async def _rewind(stores: Stores) -> None:
    """Commits the start of the topic for the replay's group, so that it begins again."""
    consumer = await stores.log.consumer(GROUP + NEW, [FACES_LEARNED.name], member="bench")
    starts = await stores.log.start_offsets(FACES_LEARNED.name)
    while len(consumer.assignment) < len(starts):
        await consumer.poll(1, 1.0, paused=list(consumer.assignment))
    await consumer.commit(
        {TopicPartition(FACES_LEARNED.name, partition): CommittedOffset(start) for partition, start in starts.items()}
    )
    await consumer.close()


@asynccontextmanager
async def _served(serving: Serving | Cluster) -> AsyncIterator[str]:
    if isinstance(serving, Cluster):
        async with serving:
            yield serving.urls[0]
    else:
        await asyncio.to_thread(serving.start)
        try:
            yield serving.url
        finally:
            await asyncio.to_thread(serving.stop)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_photos_argument(parser, LFW)
    parser.add_argument("--faces", type=int, default=50_000)
    parser.add_argument("--recognized", type=int, default=200_000, help="records of images before them")
    parser.add_argument("--more", type=int, default=1_000, help="faces learned before the rollback")
    parser.add_argument("--seconds", type=float, default=60.0, help="of paced clients without a replay")
    parser.add_argument("--embedded", action="store_true", help="one process, instead of the real servers")
    parser.add_argument("--weights", type=Path, default=Path("data/weights"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return verdict(asyncio.run(run(arguments, Path(folder))))


if __name__ == "__main__":
    raise SystemExit(main())
