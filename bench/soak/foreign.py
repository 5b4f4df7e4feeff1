"""Other systems' clients send events while roles are killed.

    eval "$(make -s services)"; python -m bench.soak.foreign

Kafka's own Java client, librdkafka, franz-go, kafka-go, KafkaJS and kafka-python send 100,000 events with four codecs,
many of them in transactions, some of which they abort: see foreign_plan.py. Processors without models and sinks are
killed and started again meanwhile. At the end each committed event must have one answer, however often it was
repeated, and each face must have been learned once; nothing may come of the aborted ones. There may be no dead letter,
and no group may have lag, as Kafka's own tool and the libraries of metrics exporters see it.
"""

import argparse
import asyncio
import io
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from backends.open import open_log, open_vectors
from backends.vectors import Face, FaceVector
from bench.clients import verdict
from bench.cluster import STAND_IN, Cluster
from bench.programs import Program, send_with
from bench.soak.faults import unfinished_work
from bench.soak.foreign_checks import GROUPS, lag_by_others, read_answers, table_of, wrong_answers, wrong_faces
from bench.soak.foreign_plan import CODECS, LEARNING, RECOGNIZING, Plans, make_plans, picture_keys
from bench.soak.foreign_programs import all_programs
from bench.stores import s3_client, temporary_stores
from scripts.services_process import ServiceFailed
from stream.topics import GROUPS as TOPICS_OF
from weights.manifest import manifest

COUNTS = {"ingest": 0, "process": 2, "sink": 2}
KILL_EVERY_S = 20.0
KNOWN = 20  # people in each directory in which faces are recognized
STUCK_S = 120.0  # without any progress
REPORT_S = 15.0


class Addresses:
    """What another system has to know: Kafka's servers, the prefix of the topics, and the bucket."""

    def __init__(self, stores: Mapping[str, str]) -> None:
        log, _, self.prefix = stores["log"].partition("?prefix=")
        self.servers = urlsplit(log).netloc
        self.bucket = urlsplit(stores["objects"]).path.strip("/")


def put_pictures(stores: Mapping[str, str]) -> None:
    """Puts the small pictures to which the events refer."""
    client, chance = s3_client(stores["objects"], stores["objects_password"]), np.random.default_rng(1)
    for directory in (*LEARNING, *RECOGNIZING):
        for key in picture_keys(directory):
            file = io.BytesIO()
            Image.fromarray(chance.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(file, "jpeg")
            client.put_object(Addresses(stores).bucket, key, io.BytesIO(file.getvalue()), len(file.getvalue()))


async def write_galleries(url: str) -> None:
    """Writes random faces to each directory in which faces are recognized."""
    generation, chance = manifest().generation(manifest().default_generation), np.random.default_rng(0)
    vectors = open_vectors(url)
    try:
        for directory in RECOGNIZING:
            ids = [str(uuid.UUID(bytes=chance.bytes(16))) for _ in range(KNOWN)]
            numbers = chance.normal(size=(KNOWN, generation.dimension)).astype(np.float32)
            await vectors.put_faces(
                [
                    FaceVector(directory, generation.name, Face(f"person-{id_}", id_, id_, id_, 1), vector)
                    for id_, vector in zip(ids, numbers, strict=True)
                ]
            )
    finally:
        await vectors.close()


async def send(programs: Mapping[str, Program], plans: Plans, to: Addresses) -> None:
    """Runs all programs at once. Each sends with one codec after the other, so that all codecs are in use all the time.
    Raises ServiceFailed.
    """
    transactional_id = uuid.uuid4().hex

    async def run(number: int, client: str) -> None:
        for codec in (*CODECS[number % len(CODECS) :], *CODECS[: number % len(CODECS)]):
            began = time.monotonic()
            plan = plans[client, codec]
            arguments = [to.servers, codec, f"{client}-{codec}-{transactional_id}"]
            await send_with(programs[client], arguments, [record.line(to.bucket, to.prefix) for record in plan])
            print(f"  {client} sent {len(plan)} with {codec} in {time.monotonic() - began:.0f} s", flush=True)

    async with asyncio.TaskGroup() as tasks:
        for number, client in enumerate(programs):
            tasks.create_task(run(number, client))


async def kill_roles(cluster: Cluster, every_s: float, chance: random.Random, stop: asyncio.Event) -> int:
    """Kills a processor and a sink in turn, and starts each again, until `stop`. Returns the number of kills."""
    for number in count():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), chance.uniform(0.5, 1.5) * every_s)
            break
        victim = chance.choice(cluster.running[("process", "sink")[number % 2]])
        print(f"  kill {number + 1}: {victim.name}", flush=True)
        victim.kill()
        await asyncio.to_thread(victim.start)
    return number


async def wait_until_done(url: str) -> None:
    """Waits until no group has lag, or there is no progress any more."""
    log = open_log(url)
    began = reported = progress = time.monotonic()
    least = sys.maxsize
    try:
        while left := sum([sum((await log.lag(group, it)).values()) for group in GROUPS for it in TOPICS_OF[group]]):
            now = time.monotonic()
            if left < least:
                least, progress = left, now
            if now - progress > STUCK_S:
                return
            if now - reported > REPORT_S:
                reported = now
                print(f"  {now - began:.0f} s: {left} records are left", flush=True)
            await asyncio.sleep(1)
    finally:
        await log.close()


async def soak(
    stores: dict[str, str],
    data: Path,
    programs: Mapping[str, Program],
    records: int,
    *,
    counts: dict[str, int] = COUNTS,
    kill_every_s: float = KILL_EVERY_S,
    seed: int = 0,
    lag_of: Callable[[str, str], dict[str, int]] = lag_by_others,
) -> list[str]:
    """Sends the records and waits until they are processed. Returns what is wrong. lag_of: tells the lag of the groups,
    from Kafka's servers and the prefix.
    """
    to, plans, stop = Addresses(stores), make_plans(programs, records, random.Random(seed)), asyncio.Event()
    async with Cluster(stores, data, data, counts, processor=STAND_IN) as cluster:
        await asyncio.to_thread(put_pictures, stores)
        await write_galleries(stores["vectors"])
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            kills = tasks.create_task(kill_roles(cluster, kill_every_s, random.Random(seed), stop))
            await send(programs, plans, to)
            sent_s = time.monotonic() - began
            await wait_until_done(stores["log"])
            done_s = time.monotonic() - began
            stop.set()
        wrong = await unfinished_work(stores)
        lag = await asyncio.to_thread(lag_of, to.servers, to.prefix)
        answers = await read_answers(stores["log"])
        wrong += [f"group {group} has a lag of {count}" for group, count in lag.items() if count]
        wrong += wrong_answers(plans, answers) + await wrong_faces(plans, stores["vectors"])
    print(table_of(plans, answers))
    print(
        f"sent in {sent_s:.0f} s, done after {done_s:.0f} s ({records / done_s:.0f} a second), {kills.result()} kills"
    )
    print(f"lag as others see it: {lag}")
    return wrong


def messages(errors: BaseExceptionGroup) -> Iterator[str]:
    """Of a group of errors and of the groups in it."""
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from messages(error)
        else:
            yield str(error)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--kill-every", metavar="SECONDS", type=float, default=KILL_EVERY_S)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:

        async def run() -> list[str]:
            programs, data = await asyncio.to_thread(all_programs), Path(folder) / "data"
            async with temporary_stores("foreign") as stores:
                every_s, seed = arguments.kill_every, arguments.seed
                return await soak(stores, data, programs, arguments.records, kill_every_s=every_s, seed=seed)

        try:
            wrong = asyncio.run(run())
        except* ServiceFailed as errors:
            wrong = list(messages(errors))
    return verdict(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
