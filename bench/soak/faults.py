"""Kills and stops roles and servers under load: `eval "$(make -s services)"; python -m bench.soak.faults [PHOTOS]`.

Clients learn and recognize through two ingest replicas, and send a request again, with its Idempotency-Key, until it is
answered. The faults come one after the other: kill -9 of any role, in random order; Kafka killed and restarted;
Cassandra stopped for 30 s; MinIO stopped for 30 s; a sink and a processor stopped (SIGSTOP) until others have their
partitions, then continued. After each fault no acknowledged learn may be missing, no face may be there twice, every
accepted image must be answered, no consumer group may have lag, and there may be no dead letters.
"""

import argparse
import asyncio
import random
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from backends.open import open_log
from bench.clients import ClientReport, Clients, add_arguments, portraits, verdict
from bench.cluster import Cluster, unique
from bench.stores import temporary_stores
from scripts.services import Services
from stream.topics import DEAD_LETTERS, GROUPS

HELD_S = 25.0  # longer than the session timeout of a consumer group
SETTLE_S = 90.0  # until all lag must be gone
COUNTS = {"ingest": 2, "process": 2, "sink": 2}

Fault = Callable[[Cluster, random.Random], Awaitable[None]]


def kill_roles(kills: int, pause_s: tuple[float, float] = (0.5, 4.0)) -> Fault:
    async def kill(cluster: Cluster, chance: random.Random) -> None:
        for number in range(kills):
            await asyncio.sleep(chance.uniform(*pause_s))
            victim = chance.choice(cluster.all)
            victim.kill()
            print(f"  kill {number + 1}/{kills}: {victim.name}", flush=True)
            await asyncio.to_thread(victim.start)

    return kill


def stop_server(services: Services, name: str, seconds: float, *, kill: bool) -> Fault:
    async def stop(cluster: Cluster, chance: random.Random) -> None:
        await asyncio.sleep(3)
        await asyncio.to_thread(services.kill if kill else services.stop, name)
        print(f"  {name} is down for {seconds:.0f} s", flush=True)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(services.start, name)
        await asyncio.sleep(3)

    return stop


def hold_role(role: str, seconds: float = HELD_S) -> Fault:
    async def hold(cluster: Cluster, chance: random.Random) -> None:
        await asyncio.sleep(3)
        victim = chance.choice(cluster.running[role])
        victim.process.send_signal(signal.SIGSTOP)
        print(f"  {victim.name} is held for {seconds:.0f} s", flush=True)
        await asyncio.sleep(seconds)
        victim.process.send_signal(signal.SIGCONT)
        await asyncio.sleep(5)

    return hold


async def run(
    cluster: Cluster, stores: dict[str, str], photos: Sequence[bytes], faults: dict[str, Fault], seed: int
) -> list[str]:
    """Causes each fault in turn, under load. Returns the errors that were found."""
    wrong: list[str] = []
    for name, fault in faults.items():
        print(f"{name}:", flush=True)
        report = ClientReport()
        began = time.monotonic()
        async with Clients(cluster, photos, report, directory=unique("d"), seed=seed) as clients:
            await fault(cluster, random.Random(seed))
            await clients.finish()
            await clients.check()
        report.wrong += await unfinished_work(stores)
        seconds = time.monotonic() - began
        print(f"  {seconds:.0f} s: {len(report.learned)} learned, {dict(sorted(report.answers.items()))}")
        for line in report.wrong:
            print(f"  WRONG: {line}")
        wrong += [f"{name}: {line}" for line in report.wrong]
    return wrong


async def unfinished_work(stores: dict[str, str]) -> list[str]:
    """The work that is unfinished after SETTLE_S: records that a group has not committed, and dead letters."""
    log = open_log(stores["log"])
    try:
        deadline = time.monotonic() + SETTLE_S
        while True:
            lag = {
                (group, topic): sum((await log.lag(group, topic)).values())
                for group, topics in GROUPS.items()
                for topic in topics
                if group != "embedders"
            }
            if not any(lag.values()) or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.5)
        starts, ends = await log.start_offsets(DEAD_LETTERS), await log.end_offsets(DEAD_LETTERS)
        letters = sum(ends.values()) - sum(starts.values())
        wrong = [
            f"{count} records of {topic} are not committed by group {group}"
            for (group, topic), count in lag.items()
            if count
        ]
        return wrong + ([f"{letters} dead letters"] if letters else [])
    finally:
        await log.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--only", metavar="FAULT", help="one of them")
    add_arguments(parser)
    arguments = parser.parse_args()
    photos = portraits(arguments.photos)
    services = Services()
    faults = {
        "kill": kill_roles(arguments.kills),
        "kafka": stop_server(services, "kafka", 10, kill=True),
        "cassandra": stop_server(services, "cassandra", 30, kill=False),
        "minio": stop_server(services, "minio", 30, kill=False),
        "held-sink": hold_role("sink"),
        "held-process": hold_role("process"),
    }
    if arguments.only:
        faults = {arguments.only: faults[arguments.only]}
    with tempfile.TemporaryDirectory() as folder:

        async def run_all() -> list[str]:
            data, weights = Path(folder) / "data", arguments.weights.resolve()
            async with (
                temporary_stores("faults") as stores,
                Cluster(stores, data, weights, COUNTS, decoders="1") as cluster,
            ):
                return await run(cluster, stores, photos, faults, arguments.seed)

        wrong = asyncio.run(run_all())
    return verdict(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
