"""Ends processes under load and checks what users were promised: `eval "$(make -s services)"; python -m
bench.soak.faults`.

Clients learn and recognize through two ingest replicas, and send a request again, with its Idempotency-Key, until it is
answered. Meanwhile, one after the other: kill -9 of any role, in random order; Kafka killed and started again;
Cassandra stopped for 30 s; MinIO stopped for 30 s; a sink and a processor held (SIGSTOP) until others have their
partitions, then woken. After each no acknowledged learn may be missing, none there twice, every accepted image
answered, nothing left in any group's lag, and nothing among the dead letters.
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
from bench.clients import Clients, Outcome, add_arguments, portraits, verdict
from bench.cluster import Cluster, unique
from bench.stores import temporary_stores
from scripts.services import Services
from stream.topics import DEAD_LETTERS, GROUPS

HELD_S = 25.0  # longer than the group's session
SETTLE_S = 90.0
COUNTS = {"ingest": 2, "process": 2, "sink": 2}

Fault = Callable[[Cluster, random.Random], Awaitable[None]]


def killing(kills: int, pause_s: tuple[float, float] = (0.5, 4.0)) -> Fault:
    async def kill(cluster: Cluster, chance: random.Random) -> None:
        for number in range(kills):
            await asyncio.sleep(chance.uniform(*pause_s))
            victim = chance.choice(cluster.all)
            victim.kill()
            print(f"  kill {number + 1}/{kills}: {victim.name}", flush=True)
            await asyncio.to_thread(victim.start)

    return kill


def server_gone(services: Services, name: str, seconds: float, *, kill: bool) -> Fault:
    async def gone(cluster: Cluster, chance: random.Random) -> None:
        await asyncio.sleep(3)
        await asyncio.to_thread(services.kill if kill else services.stop, name)
        print(f"  {name} is away for {seconds:.0f} s", flush=True)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(services.start, name)
        await asyncio.sleep(3)

    return gone


def zombie(role: str, seconds: float = HELD_S) -> Fault:
    async def held(cluster: Cluster, chance: random.Random) -> None:
        await asyncio.sleep(3)
        victim = chance.choice(cluster.running[role])
        victim.process.send_signal(signal.SIGSTOP)
        print(f"  {victim.name} is held for {seconds:.0f} s", flush=True)
        await asyncio.sleep(seconds)
        victim.process.send_signal(signal.SIGCONT)
        await asyncio.sleep(5)

    return held


async def run(
    cluster: Cluster, stores: dict[str, str], photos: Sequence[bytes], faults: dict[str, Fault], seed: int
) -> list[str]:
    """Each fault in turn, under load; returns what was wrong."""
    wrong: list[str] = []
    for name, fault in faults.items():
        print(f"{name}:", flush=True)
        outcome = Outcome()
        began = time.monotonic()
        async with Clients(cluster, photos, outcome, directory=unique("d"), seed=seed) as clients:
            await fault(cluster, random.Random(seed))
            await clients.finish()
            await clients.check()
        outcome.wrong += await left_behind(stores)
        print(
            f"  {time.monotonic() - began:.0f} s: {len(outcome.learned)} learned, {dict(sorted(outcome.answers.items()))}"
        )
        for line in outcome.wrong:
            print(f"  WRONG: {line}")
        wrong += [f"{name}: {line}" for line in outcome.wrong]
    return wrong


async def left_behind(stores: dict[str, str]) -> list[str]:
    """Records that a group has not committed, and dead letters."""
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
            f"{count} records of {topic} are left in group {group}" for (group, topic), count in lag.items() if count
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
        "kill": killing(arguments.kills),
        "kafka": server_gone(services, "kafka", 10, kill=True),
        "cassandra": server_gone(services, "cassandra", 30, kill=False),
        "minio": server_gone(services, "minio", 30, kill=False),
        "zombie-sink": zombie("sink"),
        "zombie-process": zombie("process"),
    }
    if arguments.only:
        faults = {arguments.only: faults[arguments.only]}
    with tempfile.TemporaryDirectory() as folder:

        async def all_of_them() -> list[str]:
            data, weights = Path(folder) / "data", arguments.weights.resolve()
            async with (
                temporary_stores("faults") as stores,
                Cluster(stores, data, weights, COUNTS, decoders="1") as cluster,
            ):
                return await run(cluster, stores, photos, faults, arguments.seed)

        wrong = asyncio.run(all_of_them())
    return verdict(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
