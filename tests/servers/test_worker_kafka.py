"""A worker on the real Kafka: its process is killed, or another system has appended what cannot be read."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
import structlog.testing
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord

from backends.kafka import batches
from backends.kafka.log import KafkaLog
from backends.log import partition_of
from backends.sqlite.vectors import SqliteVectors
from schemas.cloudevents import decode_image_received
from schemas.origins import Origin
from stream.dead_letters import open_letters, retry
from stream.topics import DEAD_LETTERS, IMAGES_RECEIVED
from stream.worker import Worker
from tests.conftest import ROOT
from tests.servers.topics import server_and_prefix
from tests.unit.stream.stages import Stage, answered, dead_letters, image, send, statuses, until

CHILD = ROOT / "tests" / "unit" / "stream" / "crashing_worker.py"
PATIENCE_S = 90.0


async def test_a_record_that_kills_is_a_dead_letter_after_three_more_attempts(
    images: KafkaLog, url: str, tmp_path: Path
) -> None:
    """At first, the records are handled side by side. After the kill, the worker tries each of them alone. The letter
    and its retry are byte for byte what another system has sent.
    """
    names = [f"{number}" for number in range(6)] + ["killer", *(f"{number}" for number in range(6, 10))]
    await send(images, *names[:6])
    server, prefix = server_and_prefix(url)
    value, headers = image("killer").encode() + b" ", [("a", None), ("b", b"\xff\0"), ("a", b"")]
    producer = AIOKafkaProducer(bootstrap_servers=server)
    await producer.start()
    sent = await producer.send_and_wait(prefix + IMAGES_RECEIVED, value, headers=headers)
    await producer.stop()
    await send(images, *names[7:])
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
    assert letter.failure.attempts == 3
    [record] = await read_plainly(server, prefix + DEAD_LETTERS)
    assert (record.key, record.value, list(record.headers[:3])) == (None, value, headers)
    said = dict(record.headers[3:])
    assert said["__connect.errors.topic"] == IMAGES_RECEIVED.encode()
    assert said["__connect.errors.partition"] == str(sent.partition).encode()
    assert said["__connect.errors.offset"] == str(sent.offset).encode()
    assert said["__facestream.errors.code"] == b"processing_failed"

    vectors = SqliteVectors(tmp_path / "vectors.db")
    await vectors.create()
    await retry(images, vectors, await open_letters(images))
    await vectors.close()
    assert await open_letters(images) == []
    *_, again = sorted(await read_plainly(server, prefix + IMAGES_RECEIVED), key=lambda it: it.timestamp)
    assert (again.key, again.value, list(again.headers[:-1])) == (None, value, headers)
    event = decode_image_received(again.value, again.headers)
    assert event.origin == Origin(topic=IMAGES_RECEIVED, partition=sent.partition, offset=sent.offset)


async def read_plainly(server: str, topic: str) -> list[ConsumerRecord]:
    """All records of a topic, as another system reads them."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=server, auto_offset_reset="earliest")
    await consumer.start()
    try:
        ends = await consumer.end_offsets(consumer.assignment())
        records: list[ConsumerRecord] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(records) < sum(ends.values()):
                records += [it for batch in (await consumer.getmany(timeout_ms=1_000)).values() for it in batch]
        return records
    finally:
        await consumer.stop()


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
