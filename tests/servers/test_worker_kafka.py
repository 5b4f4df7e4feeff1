"""A worker on the real Kafka: its process is killed, or another system has appended what cannot be read."""

import asyncio
import os
import subprocess
import sys

import pytest
import structlog.testing
from aiokafka import AIOKafkaProducer

from backends.kafka import batches
from backends.kafka.log import KafkaLog
from backends.log import partition_of
from stream.topics import IMAGES_RECEIVED
from stream.worker import Worker
from tests.conftest import ROOT
from tests.servers.topics import server_and_prefix
from tests.unit.stream.stages import Stage, answered, dead_letters, send, statuses, until

CHILD = ROOT / "tests" / "unit" / "stream" / "crashing_worker.py"
PATIENCE_S = 90.0


async def test_a_record_that_kills_is_a_dead_letter_after_three_more_attempts(images: KafkaLog, url: str) -> None:
    """At first, the records are handled side by side. After the kill, the worker tries each of them alone."""
    names = [f"{number}" for number in range(6)] + ["killer", *(f"{number}" for number in range(6, 10))]
    await send(images, *names)
    command = [sys.executable, str(CHILD), url, "killer", "unordered"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    exits = []
    while 0 not in exits:
        done = await asyncio.to_thread(subprocess.run, command, env=environment, timeout=PATIENCE_S)
        exits.append(done.returncode)
        assert len(exits) < 8
    assert exits == [-9, -9, -9, -9, 0]
    assert await answered(images) == statuses(*names) | statuses("killer", status=500)
    [letter] = await dead_letters(images)
    assert (letter.failure.code, letter.failure.attempts) == ("processing_failed", 3)


async def test_images_of_other_partitions_are_answered_while_one_stops_at_a_batch_that_cannot_be_read(
    images: KafkaLog, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "LARGEST_DECOMPRESSED", 10_000)
    server, prefix = server_and_prefix(url)
    keys = {partition_of(key, 2): key for key in "abcdefgh"}
    await send(images, "before", partition_key=keys[0])
    producer = AIOKafkaProducer(bootstrap_servers=server, compression_type="gzip")
    await producer.start()
    await producer.send_and_wait(prefix + IMAGES_RECEIVED, b"x" * 20_000, partition=0)
    await producer.stop()
    await send(images, "behind", partition_key=keys[0])
    stage = Stage()
    worker = Worker(images, stage, [IMAGES_RECEIVED], member="one", max_in_flight=10)
    with structlog.testing.capture_logs() as logs:
        running = asyncio.create_task(worker.run())
        others = [f"{number}" for number in range(5)]
        for name in others:
            await send(images, name, partition_key=keys[1])
            await until(lambda name=name: name in stage.handled)
        await until(lambda: any("recover stage" in it["event"] for it in logs))
        worker.stop()
        await running
    assert await answered(images) == statuses("before", *others)
    assert await images.lag("stage", IMAGES_RECEIVED) == {0: 2, 1: 0}
