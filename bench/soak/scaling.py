"""Adds and removes processors and sinks under load.

    eval "$(make -s services)"; python -m bench.soak.scaling [PHOTOS]

Ten ingest replicas, three sinks and four processors run for five minutes. Afterwards every accepted image must have an
answer, every acknowledged learn must exist exactly once, no consumer group may have lag, and no process may have grown.
"""

import argparse
import asyncio
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from bench.clients import ClientReport, Clients, add_arguments, portraits, verdict
from bench.cluster import ROLES, Cluster, unique
from bench.soak.faults import unfinished_work
from bench.stores import temporary_stores

COUNTS = {"ingest": 10, "process": 4, "sink": 3}
CHANGE_EVERY_S = 20.0  # a process is added or removed
GROWTH = 1.1  # of a process during the second half, at most: torch and aiohttp keep memory that they once needed
MEBI = 1 << 20


async def add_and_remove(cluster: Cluster, seconds: float, sizes: dict[str, list[tuple[float, int]]]) -> None:
    """Adds and removes processors and sinks in turn, and records the memory of each process."""
    began, turn = time.monotonic(), 0
    while (elapsed := time.monotonic() - began) < seconds:
        for serving in cluster.all:
            sizes[serving.name].append((elapsed, serving.rss()))
        role = ("process", "sink")[turn % 2]
        if turn % 4 < 2:
            await cluster.add(role)
        elif await cluster.remove(role):
            raise AssertionError(f"a {role} did not end cleanly")
        turn += 1
        print(f"  {elapsed:.0f} s: {', '.join(f'{len(cluster.running[role])} {role}' for role in ROLES)}", flush=True)
        await asyncio.sleep(max(0.0, began + turn * CHANGE_EVERY_S - time.monotonic()))


def growing_processes(sizes: dict[str, list[tuple[float, int]]], seconds: float) -> list[str]:
    """Processes that take more memory in the last fifth of the run than in the middle fifth."""
    wrong = []
    for name, samples in sizes.items():
        middle = [size for at, size in samples if seconds * 0.4 <= at < seconds * 0.6]
        end = [size for at, size in samples if at >= seconds * 0.8]
        if middle and end and max(end) > GROWTH * max(middle):
            wrong.append(f"{name} grew from {max(middle) / MEBI:.0f} to {max(end) / MEBI:.0f} MiB")
    return wrong


async def run(data: Path, weights: Path, photos: list[bytes], seconds: float, clients: int, seed: int) -> list[str]:
    report, directory = ClientReport(), unique("d")
    sizes: dict[str, list[tuple[float, int]]] = defaultdict(list)
    async with (
        temporary_stores("many") as stores,
        Cluster(stores, data, weights, COUNTS, threads="1", decoders="1") as cluster,
    ):
        async with Clients(cluster, photos, report, directory=directory, seed=seed, clients=clients) as load:
            began = time.monotonic()
            await add_and_remove(cluster, seconds, sizes)
            await load.finish()
            took = time.monotonic() - began
            await load.check()
        wrong = report.wrong + await unfinished_work(stores) + growing_processes(sizes, seconds)
    latencies = np.array(report.latencies) * 1e3
    p50, p90, p99 = np.percentile(latencies, [50, 90, 99])
    print(f"{len(latencies)} requests in {took:.0f} s, {len(latencies) / took:.1f} a second")
    print(", ".join(f"{count} {kind}" for kind, count in sorted(report.answers.items())))
    print(f"answered after p50 {p50:.0f}, p90 {p90:.0f}, p99 {p99:.0f} ms")
    for role in ROLES:
        last = [samples[-1][1] for name, samples in sizes.items() if name.startswith(role)]
        print(f"{role}: {np.median(last) / MEBI:.0f} MiB, at most {max(last) / MEBI:.0f}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--clients", type=int, default=16)
    add_arguments(parser)
    arguments = parser.parse_args()
    photos = portraits(arguments.photos)
    with tempfile.TemporaryDirectory() as folder:
        data, weights = Path(folder) / "data", arguments.weights.resolve()
        wrong = asyncio.run(run(data, weights, photos, arguments.seconds, arguments.clients, arguments.seed))
    return verdict(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
