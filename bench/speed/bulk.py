"""Measures the bulk lane beside interactive clients: `python -m bench.speed.bulk [PHOTOS]`.

One service with the embedded stores. Clients first send pictures as fast as they are answered, to measure the capacity.
Then each round measures `facestream recognize FOLDER` alone, clients paced at a share of the capacity, and both
together. Required: with bulk, the clients' 99th percentile is at most twice that without bulk; and beside the clients,
the bulk rate is at least 80 % of the part of its rate alone that the clients leave.
"""

import argparse
import asyncio
import io
import os
import random
import sys
import tempfile
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from PIL import Image

from bench.photos import add_photos_argument
from bench.serving import Serving

LEARNED = ("obama.jpg", "biden.jpg")
SIDE = 640  # pixels of the pictures' longer side
CAPACITY_CLIENTS, CAPACITY_S = 8, 20.0
SHARE = 0.3  # of the capacity that the paced clients use
MOST_SLOWER, LEAST_BULK = 2.0, 0.8  # required


@dataclass
class PhaseFigures:
    """The figures of one kind of phase over all rounds. latencies: seconds. rates: pictures per second, one per
    round.
    """

    latencies: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    failed: int = 0

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.latencies, percent))


def number_jpeg(jpeg: bytes, number: int) -> bytes:
    """The same picture in another file: with a comment after the first marker."""
    comment = f"picture {number}".encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def read_pictures(folder: Path) -> list[bytes]:
    """The JPEGs of the folder, reduced to SIDE."""
    made = []
    for path in sorted(folder.glob("*.jpg")):
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        image.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        made.append(file.getvalue())
    return made


class RecognizingClients:
    """Clients that send numbered pictures, from the number `first` on."""

    def __init__(self, session: aiohttp.ClientSession, url: str, photos: Sequence[bytes], first: int) -> None:
        self._session, self._url, self._photos, self._next = session, url, photos, first

    async def send(self, figures: PhaseFigures) -> None:
        number = self._next
        self._next += 1
        form = aiohttp.FormData({"directory": "bench"})
        form.add_field("file", number_jpeg(self._photos[number % len(self._photos)], number), filename="photo.jpg")
        began = time.perf_counter()
        async with self._session.post(f"{self._url}/recognize", data=form) as response:
            await response.read()
            figures.failed += response.status != 200
        figures.latencies.append(time.perf_counter() - began)

    async def learn(self, person: str, photo: bytes) -> None:
        form = aiohttp.FormData({"directory": "bench", "person": person})
        form.add_field("file", photo, filename="photo.jpg")
        async with self._session.post(f"{self._url}/learn", data=form) as response:
            response.raise_for_status()

    async def measure_capacity(self, seconds: float) -> float:
        """The pictures per second that are answered when clients send without a pause."""
        figures, deadline = PhaseFigures(), time.perf_counter() + seconds

        async def one() -> None:
            while time.perf_counter() < deadline:
                await self.send(figures)

        await asyncio.gather(*(one() for _ in range(CAPACITY_CLIENTS)))
        return len(figures.latencies) / seconds

    async def send_paced(self, rate: float, stop: asyncio.Event, figures: PhaseFigures) -> None:
        """Sends requests at random moments, `rate` per second, without waiting for answers, until `stop` is set."""
        next_at = time.perf_counter()
        async with asyncio.TaskGroup() as requests:
            while not stop.is_set():
                requests.create_task(self.send(figures))
                next_at += random.expovariate(rate)
                await asyncio.sleep(max(0.0, next_at - time.perf_counter()))


async def run_bulk(url: str, folder: Path, state: Path, figures: PhaseFigures) -> None:
    """Runs the command and records the rate from its first answer to its last."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "facestream.cli", "recognize", str(folder), "--directory", "bench", "--url", url),
        env=os.environ | {"XDG_STATE_HOME": str(state)},
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    assert process.stdout is not None
    times = []
    async for line in process.stdout:
        times.append(time.perf_counter())
        figures.failed += b'"error"' in line[:500]
    if await process.wait() != 0 or len(times) < 2:
        raise AssertionError("the bulk command failed")
    figures.rates.append((len(times) - 1) / (times[-1] - times[0]))


def write_folder(root: Path, photos: Sequence[bytes], first: int, count: int) -> Path:
    folder = root / f"from-{first}"
    folder.mkdir()
    for number in range(first, first + count):
        (folder / f"{number}.jpg").write_bytes(number_jpeg(photos[number % len(photos)], number))
    return folder


async def run_beside_clients(
    clients: RecognizingClients, rate: float, figures: PhaseFigures, work: Coroutine[Any, Any, None]
) -> None:
    """Runs paced clients while `work` runs."""
    stop = asyncio.Event()
    pacing = asyncio.create_task(clients.send_paced(rate, stop, figures))
    await work
    stop.set()
    await pacing


async def run(
    serving: Serving, photos: Sequence[bytes], scratch: Path, total: int, rounds: int, portraits: Path
) -> bool:
    a_round = total // rounds
    without, alone, clients_beside, bulk_beside = PhaseFigures(), PhaseFigures(), PhaseFigures(), PhaseFigures()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        clients = RecognizingClients(session, serving.url, photos, first=2 * total)
        for name in LEARNED:
            await clients.learn(name, (portraits / name).read_bytes())
        await clients.measure_capacity(CAPACITY_S / 4)
        capacity = await clients.measure_capacity(CAPACITY_S)
        rate = SHARE * capacity
        print(f"capacity {capacity:.1f} pictures a second; clients paced at {rate:.1f}", flush=True)
        for number in range(rounds):
            folders = [write_folder(scratch, photos, (2 * number + i) * a_round, a_round) for i in range(2)]
            began = time.perf_counter()
            await run_bulk(serving.url, folders[0], scratch, alone)
            phases = [
                (without, asyncio.sleep(time.perf_counter() - began)),
                (clients_beside, run_bulk(serving.url, folders[1], scratch, bulk_beside)),
            ]
            for figures, work in phases if number % 2 == 0 else reversed(phases):
                await run_beside_clients(clients, rate, figures, work)
            print(
                f"  round {number + 1}: bulk {alone.rates[-1]:.1f}/s alone, {bulk_beside.rates[-1]:.1f}/s beside",
                flush=True,
            )
    left = (1 - SHARE) * np.mean(alone.rates)
    slower = clients_beside.percentile(99) / without.percentile(99)
    kept = float(np.mean(bulk_beside.rates) / left)
    for name, figures in (("without bulk", without), ("beside bulk", clients_beside)):
        p50, p99 = (1e3 * figures.percentile(percent) for percent in (50, 99))
        print(
            f"clients {name}: {len(figures.latencies)} requests, {figures.failed} failed,"
            f" p50 {p50:.0f} ms, p99 {p99:.0f} ms"
        )
    slower_median = clients_beside.percentile(50) / without.percentile(50)
    print(f"p50 × {slower_median:.2f}, p99 × {slower:.2f} (at most {MOST_SLOWER})")
    print(f"bulk: {np.mean(alone.rates):.1f}/s alone, {np.mean(bulk_beside.rates):.1f}/s beside, {alone.failed} failed")
    print(f"bulk keeps {kept:.0%} of what clients leave of it (at least {LEAST_BULK:.0%})")
    failed = without.failed + alone.failed + clients_beside.failed + bulk_beside.failed
    return slower <= MOST_SLOWER and kept >= LEAST_BULK and not failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--count", type=int, default=5_000, help="pictures in bulk beside the clients, and as many alone"
    )
    parser.add_argument("--rounds", type=int, default=4)
    add_photos_argument(parser, "the photos of `make photos`")
    parser.add_argument("--weights", type=Path, default=Path("data/weights"))
    arguments = parser.parse_args()
    photos = read_pictures(arguments.photos)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        with Serving(scratch / "data", arguments.weights.resolve()) as serving:
            well = asyncio.run(run(serving, photos, scratch, arguments.count, arguments.rounds, arguments.photos))
    print("all is well" if well else "a requirement is missed")
    return 0 if well else 1


if __name__ == "__main__":
    raise SystemExit(main())
