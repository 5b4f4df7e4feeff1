"""What the roles take of the CPU for an image, against the bare models: `eval "$(make -s services)"; python -m
bench.speed.efficiency`.

Photos through ingest, a processor with the real models and a sink, each a process of its own, 32 at once; the same
photos through the bare models in this process. Both as images per second of the CPU that they use themselves, client
and servers left out. Wanted: at least 85 %.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from bench.cluster import ROLES, Cluster
from bench.speed import bare as bench_bare
from bench.speed.http import learn, load
from bench.speed.photos import Photos, default_folder, gather
from bench.stores import temporary_stores
from facestream.config import Settings

CONCURRENCY, BATCH = 32, 8
WANTED = 0.85


def bare(photos: Photos, settings: Settings, rounds: int) -> float:
    """Images per second of CPU."""
    networks = bench_bare.load(settings)
    bench_bare.run(networks, photos.listed, 1, settings.max_pixels, lambda _: None)  # the first calls set up kernels
    began = time.process_time()
    timing = bench_bare.run(networks, photos.listed * rounds, BATCH, settings.max_pixels, lambda _: None)
    return timing.count / (time.process_time() - began)


async def roles(photos: Photos, data: Path, weights: Path, rounds: int) -> float:
    """Images per second of CPU of all roles."""
    counts = dict.fromkeys(ROLES, 1)
    async with temporary_stores("efficiency") as stores, Cluster(stores, data, weights, counts) as cluster:
        await learn(cluster.urls[0], photos.learned)
        (ingest,) = cluster.running["ingest"]
        await load(ingest, photos.listed, CONCURRENCY, lambda _: None)
        before = {serving.name: serving.cpu_s() for serving in cluster.all}
        measured = await load(ingest, photos.listed * rounds, CONCURRENCY, lambda _: None)
        used = {serving.name: serving.cpu_s() - before[serving.name] for serving in cluster.all}
    assert not measured.errors, measured.errors[:3]
    for name, seconds in used.items():
        print(f"  {name}: {seconds / measured.count * 1e3:.1f} ms of CPU an image")
    print(
        f"  {measured.count / measured.seconds:.2f} images a second, client {measured.client_cpu_s / measured.count * 1e3:.1f} ms"
    )
    return measured.count / sum(used.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often the list of 24 photos")
    parser.add_argument("--weights", type=Path, default=Path("data/weights"))
    arguments = parser.parse_args()
    settings = Settings(weights=arguments.weights.resolve())
    with tempfile.TemporaryDirectory() as folder:
        photos = gather(default_folder(), Path(folder))
        first = bare(photos, settings, arguments.rounds)
        ours = asyncio.run(roles(photos, Path(folder) / "data", arguments.weights.resolve(), arguments.rounds))
        second = bare(photos, settings, arguments.rounds)
    ratio = ours / ((first + second) / 2)
    verdict = "" if ratio >= WANTED else "   MISSED"
    print(
        f"bare {first:.2f} and {second:.2f} images per CPU second, roles {ours:.2f}: {ratio:.2f} (≥ {WANTED}){verdict}"
    )
    return 0 if ratio >= WANTED else 1


if __name__ == "__main__":
    raise SystemExit(main())
