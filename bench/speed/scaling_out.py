"""Measures how the stream scales out: `eval "$(make -s services)"; python -m bench.speed.scaling_out`.

Processors without models wait 50 ms for each image, one image at a time, like processors whose GPU is elsewhere. So
their number should multiply the images per second until something else takes the cores of this machine: the servers, or
the other roles. Required: .9 times the number of processors times the rate of one, up to there. Pictures of 64 pixels
are recognized in empty directories by eight clients a processor.
"""

import argparse
import asyncio
import io
import secrets
import tempfile
import time
from pathlib import Path

import aiohttp
import psutil
from PIL import Image

from bench.cluster import STAND_IN, Cluster
from bench.speed.http import HEADERS, multipart
from bench.stores import temporary_stores

WAIT_S = 0.05
CLIENTS = 8  # for each processor
DIRECTORIES = 32
SETTLE_S = 3.0
WANTED = 0.9
BUSY = 0.9  # share of the cores from which on more processors cannot help
# processors, sinks, ingests
COUNTS = [(1, 1, 1), (2, 1, 1), (4, 1, 1), (8, 1, 1), (8, 3, 1), (8, 1, 2), (8, 3, 2)]


def picture() -> bytes:
    file = io.BytesIO()
    Image.frombytes("RGB", (64, 64), secrets.token_bytes(64 * 64 * 3)).save(file, "JPEG")
    return file.getvalue()


async def rate_of(cluster: Cluster, clients: int, seconds: float) -> tuple[float, float]:
    """Images per second, and the share of all cores that was busy meanwhile."""
    answered, counting, photo = 0, False, picture()

    async def recognize(session: aiohttp.ClientSession, number: int) -> None:
        nonlocal answered
        url = cluster.urls[number % len(cluster.urls)]
        while True:
            body = multipart({"directory": f"d{secrets.randbelow(DIRECTORIES)}"}, "a.jpg", photo)
            async with session.post(f"{url}/recognize", data=body, headers=HEADERS) as response:
                await response.read()
                if response.status != 200:
                    raise AssertionError(f"{response.status}: {await response.text()}")
                answered += counting

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks = [asyncio.create_task(recognize(session, number)) for number in range(clients)]
        await asyncio.sleep(SETTLE_S)
        psutil.cpu_percent()
        counting, began = True, time.monotonic()
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        rate, busy = answered / (time.monotonic() - began), psutil.cpu_percent() / 100
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in done:
            task.result()
    return rate, busy


async def run(data: Path, seconds: float) -> bool:
    good, one = True, 0.0
    print(f"{'processors':>10} {'sinks':>6} {'ingests':>8} {'images/s':>9} {'of n times one':>15} {'cores busy':>11}")
    for processors, sinks, ingests in COUNTS:
        counts = {"process": processors, "sink": sinks, "ingest": ingests}
        folder = data / f"{processors}-{sinks}-{ingests}"
        async with (
            temporary_stores("scaling") as stores,
            Cluster(stores, folder, folder, counts, processor=STAND_IN, wait_s=WAIT_S) as cluster,
        ):
            rate, busy = await rate_of(cluster, CLIENTS * processors, seconds)
        one = one or rate
        share = rate / (processors * one)
        good = good and (share >= WANTED or busy >= BUSY)
        print(f"{processors:>10} {sinks:>6} {ingests:>8} {rate:>9.1f} {share:>15.2f} {busy:>11.2f}", flush=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement (default: 15)")
    with tempfile.TemporaryDirectory() as folder:
        good = asyncio.run(run(Path(folder), parser.parse_args().seconds))
    if not good:
        print(f"missed: less than {WANTED} of n times the rate of one processor although cores were free")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
