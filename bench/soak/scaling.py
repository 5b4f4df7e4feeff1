"""Adds, removes and kills processors and sinks under load.

    eval "$(make -s services)"; python -m bench.soak.scaling [PHOTOS]
    python -m bench.soak.scaling [PHOTOS] --stand-in       with processors without models, which wait 50 ms for an image

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
from bench.cluster import ROLES, STAND_IN, Cluster, unique
from bench.soak.faults import unfinished_work
from bench.speed.scaling_out import WAIT_S
from bench.stores import temporary_stores

COUNTS = {"ingest": 10, "process": 4, "sink": 3}
CHANGE_EVERY_S = 20.0  # a process is added, removed, or killed and started again
GROWTH = 1.1  # of a process during the second half, at most: torch and aiohttp keep memory that they once needed
MEBI = 1 << 20


async def change(cluster: Cluster, seconds: float, sizes: dict[str, list[tuple[float, int]]]) -> None:
    """Adds, removes and kills processors and sinks in turn, and records the memory of each process."""
    began, turn = time.monotonic(), 0
    while (elapsed := time.monotonic() - began) < seconds:
        for serving in cluster.all:
            sizes[serving.name].append((elapsed, serving.rss()))
        role = ("process", "sink")[turn % 2]
        match turn // 2 % 3:
            case 0:
                await cluster.add(role)
            case 1:
                victim = cluster.running[role][0]
                victim.kill()
                await asyncio.to_thread(victim.start)
            case _ if await cluster.remove(role):
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


async def run(data: Path, photos: list[bytes], arguments: argparse.Namespace) -> list[str]:
    seconds, processor = arguments.seconds, STAND_IN if arguments.stand_in else "process"
    report, directory = ClientReport(), unique("d")
    sizes: dict[str, list[tuple[float, int]]] = defaultdict(list)
    async with (
        temporary_stores("many") as stores,
        Cluster(
            stores,
            data,
            arguments.weights.resolve(),
            COUNTS,
            processor=processor,
            wait_s=WAIT_S,
            threads="1",
            decoders="1",
        ) as cluster,
    ):
        async with Clients(
            cluster, photos, report, directory=directory, seed=arguments.seed, clients=arguments.clients
        ) as load:
            began = time.monotonic()
            await change(cluster, seconds, sizes)
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
    parser.add_argument("--stand-in", action="store_true", help="with processors without models")
    add_arguments(parser)
    arguments = parser.parse_args()
    photos = portraits(arguments.photos)
    with tempfile.TemporaryDirectory() as folder:
        wrong = asyncio.run(run(Path(folder) / "data", photos, arguments))
    return verdict(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
