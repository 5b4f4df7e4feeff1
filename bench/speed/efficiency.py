"""Measures the CPU that the roles use for an image, against the bare loop.

    eval "$(make -s services)"; python -m bench.speed.efficiency [PHOTOS]

Photos go through ingest, a processor with the real models and a sink, each in a separate process, 32 requests at a
time, and through the bare loop in this process. Both are measured in images per second of their own CPU, without client
and servers. Required: at least 85 % of the bare loop.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from bench.cluster import ROLES, Cluster
from bench.photos import add_photos_argument
from bench.speed import bare
from bench.speed.http import learn, recognize_all
from bench.speed.photos import Photos, select_photos
from bench.stores import temporary_stores
from facestream.config import Settings

CONCURRENCY, BATCH = 32, 8
WANTED = 0.85


def run_bare(photos: Photos, settings: Settings, rounds: int) -> float:
    """Images per second of CPU."""
    networks = bare.load_networks(settings)
    bare.run(networks, photos.listed, 1, settings.max_pixels, lambda _: None)  # the first calls set up kernels
    began = time.process_time()
    timing = bare.run(networks, photos.listed * rounds, BATCH, settings.max_pixels, lambda _: None)
    return timing.count / (time.process_time() - began)


async def run_roles(photos: Photos, data: Path, weights: Path, rounds: int) -> float:
    """Images per second of CPU of all roles."""
    counts = dict.fromkeys(ROLES, 1)
    async with temporary_stores("efficiency") as stores, Cluster(stores, data, weights, counts) as cluster:
        await learn(cluster.urls[0], photos.learned)
        (ingest,) = cluster.running["ingest"]
        await recognize_all(ingest, photos.listed, CONCURRENCY, lambda _: None)
        before = {serving.name: serving.cpu_s() for serving in cluster.all}
        measured = await recognize_all(ingest, photos.listed * rounds, CONCURRENCY, lambda _: None)
        used = {serving.name: serving.cpu_s() - before[serving.name] for serving in cluster.all}
    assert not measured.errors, measured.errors[:3]
    for name, seconds in used.items():
        print(f"  {name}: {seconds / measured.count * 1e3:.1f} ms of CPU an image")
    client_ms = measured.client_cpu_s / measured.count * 1e3
    print(f"  {measured.count / measured.seconds:.2f} images a second, client {client_ms:.1f} ms")
    return measured.count / sum(used.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_photos_argument(parser, "photos, at any depth")
    parser.add_argument("--rounds", type=int, default=5, help="how many times the list of photos is processed")
    parser.add_argument("--weights", type=Path, default=Path("data/weights"))
    arguments = parser.parse_args()
    settings = Settings(weights=arguments.weights.resolve())
    with tempfile.TemporaryDirectory() as folder:
        photos = select_photos(arguments.photos)
        first = run_bare(photos, settings, arguments.rounds)
        ours = asyncio.run(run_roles(photos, Path(folder) / "data", arguments.weights.resolve(), arguments.rounds))
        second = run_bare(photos, settings, arguments.rounds)
    ratio = ours / ((first + second) / 2)
    verdict = "" if ratio >= WANTED else "   MISSED"
    print(f"images per CPU second: bare {first:.2f} and {second:.2f}, roles {ours:.2f}")
    print(f"ratio {ratio:.2f} (≥ {WANTED}){verdict}")
    return 0 if ratio >= WANTED else 1


if __name__ == "__main__":
    raise SystemExit(main())
