"""Topics of the real Kafka that have other partitions than facestream makes: more, because somebody has added some, or
fewer, because another program has had the server create them; and the offsets that Kafka's own tool shows.
"""

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.records_to_delete import RecordsToDelete

from backends.kafka.log import KafkaLog
from backends.log import NewRecord, TopicPartition, TopicSpec, partition_of
from bench.soak.foreign_programs import kafka_tools
from bench.stores import admin_of
from ingest.flow import Flow
from schemas.errors import InvalidRequest, TopicMismatch
from stream.topics import IMAGES_RECEIVED
from stream.unused_partitions import UnusedPartitions
from stream.worker import Worker
from tests.polling import drain
from tests.servers.topics import server_and_prefix
from tests.unit.stream.stages import Stage, running

PATIENCE_S = 60.0
KEYS = [f"key {number}" for number in range(40)]


@pytest.fixture
async def opened(url: str) -> AsyncIterator[Callable[[], KafkaLog]]:
    """Opens one more log that uses four partitions of a topic."""
    async with AsyncExitStack() as logs:

        def opening() -> KafkaLog:
            log = KafkaLog(url, {"events": 4})
            logs.push_async_callback(log.close)
            return log

        yield opening


@pytest.fixture
async def admin(url: str) -> AsyncIterator[AIOKafkaAdminClient]:
    async with admin_of(url) as admin:
        yield admin


@pytest.fixture
async def foreign(url: str) -> AsyncIterator[AIOKafkaProducer]:
    """The producer of another program."""
    producer = AIOKafkaProducer(bootstrap_servers=server_and_prefix(url)[0])
    await producer.start()
    yield producer
    await producer.stop()


async def send(foreign: AIOKafkaProducer, topic: str, partition: int) -> None:
    """Sends a record once the producer knows the partition, which may be new."""
    async with asyncio.timeout(PATIENCE_S):
        while partition not in await foreign.partitions_for(topic):
            await foreign.client.force_metadata_update()
    await foreign.send_and_wait(topic, b"foreign", partition=partition)


async def until_there(log: KafkaLog, topic: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(InvalidRequest):
                await log.partitions(topic)
                return


async def test_partitions_that_were_added_are_not_used(
    opened: Callable[[], KafkaLog], admin: AIOKafkaAdminClient, foreign: AIOKafkaProducer, url: str
) -> None:
    prefix = server_and_prefix(url)[1]
    before = opened()
    await before.create_topics([TopicSpec("events", 4)])
    await before.append([NewRecord("events", key, b"before") for key in KEYS])
    await admin.create_partitions({f"{prefix}events": NewPartitions(6)})
    for _ in range(2):
        await send(foreign, f"{prefix}events", 5)
    after = opened()
    for log in (before, after):
        await log.create_topics([TopicSpec("events", 4)])
        await log.require_topics([TopicSpec("events", 4)])
        assert await log.partitions("events") == 4
        assert await log.append([NewRecord("events", key, b"after") for key in KEYS]) == [
            TopicPartition("events", partition_of(key, 4)) for key in KEYS
        ]
        assert await log.unused_partitions() == {TopicPartition("events", 4): 0, TopicPartition("events", 5): 2}
        assert set(await log.end_offsets("events")) == set(await log.lag("group", "events")) == set(range(4))
    consumers = [await log.consumer("group", ["events"], member=name) for log, name in ((before, "a"), (after, "b"))]
    async with asyncio.timeout(PATIENCE_S):
        while sorted(len(it.assignment) for it in consumers) != [2, 2]:
            await asyncio.gather(*(it.poll(1, 0.1, topics=[]) for it in consumers))
    assert {at.partition for it in consumers for at in it.assignment} == set(range(4))
    records = [record for it in consumers for record in await drain(it, 1)]
    assert {record.value for record in records} <= {b"before", b"after"}


async def test_partitions_that_were_added_are_said(
    opened: Callable[[], KafkaLog], admin: AIOKafkaAdminClient, foreign: AIOKafkaProducer, url: str
) -> None:
    prefix, log = server_and_prefix(url)[1], opened()
    unused = UnusedPartitions(log)
    flow = Flow(log, "ingest-1", unused)
    await log.create_topics([TopicSpec("events", 4)])
    await admin.create_partitions({f"{prefix}events": NewPartitions(6)})
    await send(foreign, f"{prefix}events", 5)
    with structlog.testing.capture_logs() as logs:
        looking = asyncio.create_task(unused.run())
        async with asyncio.timeout(PATIENCE_S):
            while not logs:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.02)
        looking.cancel()
    expected = (
        "partitions were added, and only those below 4 are read; records that are not read: 0 in partition 4,"
        " 1 in partition 5; have every producer use partitions 0 to 3, and send these records again"
    )
    assert [(it["log_level"], it["topic"], it["reason"]) for it in logs] == [("error", "events", expected)]
    assert flow.degraded() == {"events": expected}


async def test_init_says_which_partitions_are_not_read(
    admin: AIOKafkaAdminClient, foreign: AIOKafkaProducer, url: str, tmp_path: Path
) -> None:
    def init() -> str:
        command = [sys.executable, "-m", "facestream.cli", "init", "--log", url, "--data", str(tmp_path)]
        return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True).stderr

    assert "were added" not in await asyncio.to_thread(init)
    topic = server_and_prefix(url)[1] + IMAGES_RECEIVED
    await admin.create_partitions({topic: NewPartitions(66)})
    await send(foreign, topic, 65)
    assert (
        "facestream: images.received: partitions were added, and only those below 64 are read; records that are not"
        " read: 0 in partition 64, 1 in partition 65; have every producer use partitions 0 to 63"
        in await asyncio.to_thread(init)
    )


async def test_a_topic_without_records_gets_the_partitions_that_it_lacks(
    opened: Callable[[], KafkaLog], admin: AIOKafkaAdminClient, url: str
) -> None:
    prefix, spec = server_and_prefix(url)[1], TopicSpec("events", 4, compacted=True)
    await admin.create_topics([NewTopic(f"{prefix}events", 1, 1)])  # as a server does it, if it may
    logs = [opened() for _ in range(3)]
    await until_there(opened(), "events")
    with pytest.raises(TopicMismatch, match=r"'events' has 1 partitions, not 4.*facestream init"):
        await logs[0].require_topics([spec])
    await asyncio.gather(*(log.create_topics([spec]) for log in logs))
    for log in logs:
        await log.require_topics([spec])
        assert await log.partitions("events") == 4


async def test_a_topic_with_records_and_too_few_partitions_is_refused(
    opened: Callable[[], KafkaLog], admin: AIOKafkaAdminClient, foreign: AIOKafkaProducer, url: str
) -> None:
    prefix, log = server_and_prefix(url)[1], opened()
    await admin.create_topics([NewTopic(f"{prefix}events", 1, 1)])
    await send(foreign, f"{prefix}events", 0)
    with pytest.raises(TopicMismatch, match="delete the topic if nobody needs its records"):
        await log.create_topics([TopicSpec("others", 1), TopicSpec("events", 4)])
    assert f"{prefix}others" not in await admin.list_topics()


@pytest.fixture
def rows(services: Mapping[str, str], url: str) -> Callable[[str], list[dict[str, str]]]:
    """What kafka-consumer-groups shows of a group."""
    if not (shutil.which("java") and shutil.which("mvn")):
        pytest.skip("Kafka's tools need Java and Maven")
    server, prefix = server_and_prefix(url)
    tool = ["java", "-cp", f"{kafka_tools()}/*", "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"]

    def describe(group: str) -> list[dict[str, str]]:
        command = [*tool, "--bootstrap-server", server, "--describe", "--group", prefix + group]
        lines = [it.split() for it in subprocess.check_output(command, text=True).splitlines() if it.strip()]
        header = next(it for it in lines if it[0] == "GROUP")
        return [dict(zip(header, it, strict=True)) for it in lines if it[0] == prefix + group]

    return describe


async def test_kafkas_tool_shows_members_and_no_lag_once_all_is_done(
    images: KafkaLog, admin: AIOKafkaAdminClient, url: str, rows: Callable[[str], list[dict[str, str]]]
) -> None:
    """Also behind markers of transactions, committed and aborted, and where records were deleted before they were
    read.
    """
    server, prefix = server_and_prefix(url)
    topic = prefix + IMAGES_RECEIVED
    producer = AIOKafkaProducer(bootstrap_servers=server, transactional_id=f"{prefix}other")
    await producer.start()
    for abort in (False, True):
        await producer.begin_transaction()
        for partition in (0, 1):
            await producer.send_and_wait(topic, b"no event", partition=partition)
        await (producer.abort_transaction() if abort else producer.commit_transaction())
    await producer.stop()
    await admin.delete_records({KafkaPartition(topic, 1): RecordsToDelete(before_offset=4)})
    async with running(Worker(images, Stage(), [IMAGES_RECEIVED], member="one", max_in_flight=10)):
        deadline = time.monotonic() + PATIENCE_S
        while any((await images.lag("stage", IMAGES_RECEIVED)).values()):
            assert time.monotonic() < deadline
        shown = await asyncio.to_thread(rows, "stage")
    assert [(it["PARTITION"], it["CURRENT-OFFSET"], it["LOG-END-OFFSET"], it["LAG"]) for it in shown] == [
        ("0", "4", "4", "0"),
        ("1", "4", "4", "0"),
    ]
    assert all(it["CONSUMER-ID"].startswith("one-") and it["CLIENT-ID"] == "facestream" for it in shown)
