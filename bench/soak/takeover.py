"""Measures how long clients wait when a process is killed: `eval "$(make -s services)"; python -m bench.soak.takeover`.

One ingest, two processors without models and two sinks run on the real servers. One client for each of eight
directories recognizes all the time, and sends a request again until it is answered. Processors and sinks are killed in
turn with SIGKILL. Each is started again only after the others must have taken over. Required: no request that was under
way or sent after a kill takes longer than ten seconds, loading the galleries included.
"""

import argparse
import asyncio
import io
import statistics
import tempfile
import time
import uuid
from pathlib import Path

import aiohttp
import numpy as np
from PIL import Image

from backends.open import open_vectors
from backends.vectors import Face, FaceVector
from bench.clients import RETRY_S, verdict
from bench.cluster import STAND_IN, Cluster
from bench.stores import temporary_stores
from weights.manifest import manifest

COUNTS = {"ingest": 1, "process": 2, "sink": 2}
DIRECTORIES = [f"d{number}" for number in range(8)]
WANTED_S = 10.0
OTHERS_TAKE_OVER_S = 12.0  # after a kill, until the killed process is started again
PAUSE_S = 4.0  # until the next kill
FACES_PER_WRITE = 500

Requests = list[tuple[float, float]]  # when each was first sent, and when it was answered


async def write_galleries(url: str, faces: int) -> None:
    """Writes `faces` random faces to each directory."""
    known = manifest().generation(manifest().default_generation)
    chance, now = np.random.default_rng(0), int(time.time() * 1000)
    vectors = open_vectors(url)
    try:
        for directory in DIRECTORIES:
            for begin in range(0, faces, FACES_PER_WRITE):
                count = min(FACES_PER_WRITE, faces - begin)
                ids = [str(uuid.uuid4()) for _ in range(count)]
                numbers = chance.normal(size=(count, known.dimension)).astype(np.float32)
                await vectors.put_faces(
                    [
                        FaceVector(directory, known.name, Face(f"person {id_}", id_, id_, id_, now), vector)
                        for id_, vector in zip(ids, numbers, strict=True)
                    ]
                )
    finally:
        await vectors.close()


async def recognize(cluster: Cluster, directory: str, photo: bytes, stop: asyncio.Event, requests: Requests) -> None:
    """Sends one request after the other, each until it is answered, and notes when."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=40)) as session:
        while not stop.is_set():
            key, began = str(uuid.uuid4()), time.monotonic()
            while not await _try_once(session, cluster.urls[0], directory, photo, key):  # noqa: ASYNC110 - no event
                await asyncio.sleep(RETRY_S)
            requests.append((began, time.monotonic()))
            await asyncio.sleep(0.05)


async def _try_once(session: aiohttp.ClientSession, url: str, directory: str, photo: bytes, key: str) -> bool:
    form = aiohttp.FormData({"directory": directory})
    form.add_field("file", photo, filename="photo.jpg")
    try:
        async with session.post(f"{url}/recognize", data=form, headers={"Idempotency-Key": key}) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def longest_wait(requests: Requests, kill: float) -> float:
    """The longest time that a request took which was under way at the kill or sent before others had taken over."""
    return max(end - began for began, end in requests if end > kill and began < kill + OTHERS_TAKE_OVER_S)


async def run(cluster: Cluster, kills: int) -> list[float]:
    """Kills processors and sinks in turn. Returns the longest wait after each kill."""
    pixels = np.random.default_rng(1).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    photo = io.BytesIO()
    Image.fromarray(pixels).save(photo, "jpeg")
    requests: Requests = []
    kills_at: list[tuple[str, float]] = []
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for directory in DIRECTORIES:
            tasks.create_task(recognize(cluster, directory, photo.getvalue(), stop, requests))
        for number in range(kills):
            await asyncio.sleep(PAUSE_S)
            victim = cluster.running[("process", "sink")[number % 2]][number // 2 % 2]
            kills_at.append((victim.name, time.monotonic()))
            victim.kill()
            await asyncio.sleep(OTHERS_TAKE_OVER_S)
            await asyncio.to_thread(victim.start)
        stop.set()
    waits = [longest_wait(requests, at) for _, at in kills_at]
    for number, ((name, _), wait) in enumerate(zip(kills_at, waits, strict=True), 1):
        print(f"kill {number}, {name}: the longest wait was {wait:.1f} s")
    print(
        f"{len(requests)} requests, {kills} kills: median {statistics.median(waits):.1f} s, at most {max(waits):.1f} s"
    )
    return waits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--faces", type=int, default=2_000, help="in each of the eight galleries")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:

        async def measure() -> list[float]:
            data = Path(folder) / "data"
            async with (
                temporary_stores("takeover") as stores,
                Cluster(stores, data, data, COUNTS, processor=STAND_IN) as cluster,
            ):
                await write_galleries(stores["vectors"], arguments.faces)
                return await run(cluster, arguments.kills)

        waits = asyncio.run(measure())
    return verdict([f"a client waited {wait:.1f} s" for wait in waits if wait > WANTED_S])


if __name__ == "__main__":
    raise SystemExit(main())
