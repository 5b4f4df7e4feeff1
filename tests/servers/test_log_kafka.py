"""Tests specific to the log on Kafka: its URL, topics and their settings, failing producers, group membership.

The promises of every log are tested in tests/contracts/test_log.py, outages in test_log_kafka_outages.py.
"""

import asyncio
import logging
import signal
import subprocess
import sys
import textwrap
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaClient, AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.protocol.group import JoinGroupRequest

from backends.kafka import connect
from backends.kafka.fetcher import LONG_POLL_S
from backends.kafka.group import SESSION_S, instance_id
from backends.kafka.log import KafkaLog
from backends.log import CommittedOffset, Consumer, NewRecord, Record, TopicPartition, TopicSpec, partition_of
from backends.open import open_log
from bench.stores import admin_of
from schemas.errors import ConfigurationError, Fenced, InvalidRequest, OffsetGone, TopicMismatch, Unavailable
from tests.conftest import ROOT
from tests.polling import drain
from tests.servers.topics import temporary_topics

PATIENCE_S = 30.0
LONG_SESSION_S = 20.0  # long enough to see on a busy machine that nobody waits for it
NOBODY = "127.0.0.1:1"  # nothing listens there


@pytest.fixture
async def opened(url: str) -> AsyncIterator[Callable[[str], KafkaLog]]:
    """Opens one more log on the test's part of the cluster; its argument is more options."""
    async with AsyncExitStack() as logs:

        def opening(options: str = "") -> KafkaLog:
            log = KafkaLog(url + options)
            logs.push_async_callback(log.close)
            return log

        yield opening


@pytest.fixture
def log(opened: Callable[[str], KafkaLog]) -> KafkaLog:
    return opened("")


@pytest.fixture
async def admin(url: str) -> AsyncIterator[AIOKafkaAdminClient]:
    async with admin_of(url) as admin:
        yield admin


@pytest.fixture
def prefix(url: str) -> str:
    return url.partition("prefix=")[2]


async def assigned(consumer: Consumer, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while len(consumer.assignment) != count:
        assert time.monotonic() < deadline, dict(consumer.assignment)
        await consumer.poll(1, 0.1, topics=[])


async def until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def until_there(log: KafkaLog, topic: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            await log.partitions(topic)
            return
        except InvalidRequest:
            assert time.monotonic() < deadline


async def settings_of(admin: AIOKafkaAdminClient, topic: str) -> dict[str, str]:
    (response,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    ((code, _, _, _, entries),) = response.resources
    assert not code
    return {name: value for name, value, *_ in entries}


# The URL.


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("kafka://", "no server"),
        ("kafka://host/topic", "nothing may follow"),
        ("kafka://host?prefix=a/b", "prefix"),
        ("kafka://host?replication=0", "replication"),
        ("kafka://host?tls=yes", "true or false"),
        ("kafka://host?ca_file=a.pem", "tls=true"),
        ("kafka://host?sasl=PLAIN", "needs a user"),
        ("kafka://user:secret@host?sasl=GSSAPI", "SCRAM-SHA-512"),
        ("kafka://user@host", "no password for 'user'"),
        ("kafka://user:secret@host?acks=1", "unknown option 'acks'"),
    ],
)
def test_an_invalid_url_is_refused(url: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as refused:
        KafkaLog(url)
    assert "secret" not in str(refused.value)


def test_a_log_is_made_without_a_server_or_an_event_loop() -> None:
    assert repr(open_log("kafka://one:1,[::1]:2,three")) == "KafkaLog('kafka://one:1,[::1]:2,three:9092')"


def test_a_certificate_file_is_read_at_the_first_use_only() -> None:
    log = KafkaLog("kafka://host?tls=true&ca_file=/nowhere/ca.pem")
    with pytest.raises(ConfigurationError, match=r"/nowhere/ca\.pem"):
        asyncio.run(log.ping())


@pytest.mark.parametrize("where", ["url", "file", "environment"])
async def test_the_password_is_never_shown(
    where: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "password").write_text("sesame\n")
    if where == "environment":
        monkeypatch.setenv("FACESTREAM_LOG_PASSWORD", "sesame")
    login = "user:sesame" if where == "url" else "user"
    options = f"?password_file={tmp_path / 'password'}" if where == "file" else ""
    log = KafkaLog(f"kafka://{login}@{NOBODY}{options}")
    passwords: list[object] = []

    class Admin(AIOKafkaAdminClient):  # type: ignore[misc]  # aiokafka has no types
        def __init__(self, **settings: Any) -> None:
            passwords.append(settings["sasl_plain_password"])
            super().__init__(**settings)

    monkeypatch.setattr(connect, "AIOKafkaAdminClient", Admin)
    uses: list[Callable[[], Awaitable[object]]] = [
        log.ping,
        lambda: log.partitions("events"),
        lambda: log.create_topics([TopicSpec("events", 1)]),
    ]
    shown = [repr(log)]
    for use in uses:
        with pytest.raises(Unavailable) as error:
            await use()
        shown += traceback.format_exception(error.value)
    await log.close()
    assert set(passwords) == {"sesame"}
    out, err = capsys.readouterr()
    for text in [*shown, out, err, caplog.text]:
        assert "sesame" not in text


async def test_a_server_that_is_not_there_is_an_error_and_the_next_use_tries_again(services: Mapping[str, str]) -> None:
    server = services["FACESTREAM_LOG"].removeprefix("kafka://").partition("?")[0].rpartition(":")
    began = time.monotonic()
    with_nobody = KafkaLog(f"kafka://{NOBODY}")
    for refused in (
        with_nobody.ping(),
        with_nobody.append([NewRecord("events", "a", b"")]),
        with_nobody.lag("group", "events"),
    ):
        with pytest.raises(Unavailable, match=r"cannot be reached|no answer"):
            await refused
    assert time.monotonic() - began < 30
    await with_nobody.close()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(server[0], int(server[2]))
        await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer))

    door = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    port = door.sockets[0].getsockname()[1]
    door.close()
    await door.wait_closed()
    log = KafkaLog(f"kafka://127.0.0.1:{port}")
    with pytest.raises(Unavailable):
        await log.ping()
    async with await asyncio.start_server(pass_on, "127.0.0.1", port):
        await log.ping()
        await log.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        target.write(data)
    target.close()


def test_the_instance_ids_of_different_members_differ_and_have_kafkas_characters() -> None:
    assert instance_id("sink-1.host_2") == "sink-1.host_2"
    names = ["a b", "a/b", "a_b", "é", "x" * 300, "x" * 301]
    assert len({instance_id(name) for name in names}) == len(names)
    assert all(
        set(instance_id(name)) <= set("ab_xé-0123456789cdef") - {"é"} and len(instance_id(name)) < 249 for name in names
    )


async def test_a_warning_that_aiokafka_repeats_is_logged_once(capsys: pytest.CaptureFixture[str]) -> None:
    log = KafkaLog(f"kafka://{NOBODY}")
    with pytest.raises(Unavailable):
        await log.ping()
    await log.close()
    for node in range(50):
        logging.getLogger("aiokafka.made_up").warning(
            "cannot reach node %s: %s", node, "refused" if node < 25 else "login"
        )
    logging.getLogger("aiokafka.conn").debug("Request: a password")
    said = "".join(capsys.readouterr())
    assert (said.count("refused"), said.count("login")) == (1, 1)
    assert "password" not in said


# Topics.


async def test_topics_have_the_settings_of_their_specs(log: KafkaLog, admin: AIOKafkaAdminClient, prefix: str) -> None:
    await log.create_topics(
        [TopicSpec("week", 3, 7 * 86400), TopicSpec("kept", 1), TopicSpec("changes", 2, compacted=True)]
    )
    week, kept, changes = [await settings_of(admin, prefix + name) for name in ("week", "kept", "changes")]
    for settings in (week, kept, changes):
        assert settings["message.timestamp.type"] == "LogAppendTime"
        assert 8_000_000 < int(settings["max.message.bytes"]) < 9_000_000
    assert (week["cleanup.policy"], week["retention.ms"]) == ("delete", "604800000")
    assert int(week["segment.ms"]) <= 86_400_000  # records go with their segment, which has to be closed for that
    assert (kept["cleanup.policy"], kept["retention.ms"]) == ("delete", "-1")
    assert (changes["cleanup.policy"], changes["retention.ms"], changes["max.compaction.lag.ms"]) == (
        "compact",
        "-1",
        "3600000",
    )
    assert [await log.partitions(name) for name in ("week", "kept", "changes")] == [3, 1, 2]


async def test_creating_again_brings_settings_up_to_date_and_leaves_those_of_others(
    log: KafkaLog, admin: AIOKafkaAdminClient, prefix: str
) -> None:
    await admin.create_topics([NewTopic(prefix + "events", 2, 1, topic_configs={"retention.bytes": "123456789"})])
    for seconds in (3600, 7200):
        await log.create_topics([TopicSpec("events", 2, retention_s=seconds)])
        settings = await settings_of(admin, prefix + "events")
        assert settings["retention.ms"] == str(seconds * 1000)
        assert settings["retention.bytes"] == "123456789"
        await log.require_topics([TopicSpec("events", 2, retention_s=seconds)])


async def test_nothing_is_created_when_one_topic_differs(
    log: KafkaLog, admin: AIOKafkaAdminClient, prefix: str
) -> None:
    await log.create_topics([TopicSpec("events", 2)])
    await log.append([NewRecord("events", "a", b"")])
    with pytest.raises(TopicMismatch, match="'events' has 2 partitions, not 3"):
        await log.create_topics([TopicSpec("others", 1), TopicSpec("events", 3)])
    assert prefix + "others" not in await admin.list_topics()


async def test_several_may_create_the_same_topics_at_once(opened: Callable[[str], KafkaLog]) -> None:
    specs = [TopicSpec(f"topic{number}", 2, 3600) for number in range(5)]
    logs = [opened("") for _ in range(4)]
    await asyncio.gather(*(each.create_topics(specs) for each in logs))
    for each in logs:
        await each.require_topics(specs)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"message.timestamp.type": "LogAppendTime", "max.message.bytes": "8100000", "cleanup.policy": "compact"},
        {"message.timestamp.type": "LogAppendTime", "max.message.bytes": "1000000"},
    ],
)
async def test_a_topic_with_other_settings_is_refused(
    log: KafkaLog, admin: AIOKafkaAdminClient, prefix: str, settings: dict[str, str]
) -> None:
    await admin.create_topics([NewTopic(prefix + "events", 1, 1, topic_configs=settings)])
    await until_there(log, "events")
    with pytest.raises(TopicMismatch, match="`facestream init` sets it"):
        await log.require_topics([TopicSpec("events", 1)])
    await log.create_topics([TopicSpec("events", 1)])
    await log.require_topics([TopicSpec("events", 1)])


async def test_options_of_the_url_set_the_replication_of_topics(
    opened: Callable[[str], KafkaLog], admin: AIOKafkaAdminClient, prefix: str
) -> None:
    await opened("&replication=1&min_insync_replicas=1").create_topics([TopicSpec("events", 1)])
    (response,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, prefix + "events")])
    ((_, _, _, _, entries),) = response.resources
    assert ("min.insync.replicas", "1", 1) in {(name, value, source) for name, value, _, source, *_ in entries}
    with pytest.raises(ConfigurationError, match=r"(?i)replication"):  # one server cannot hold three copies
        await opened("&replication=3").create_topics([TopicSpec("more", 1)])


async def test_a_topic_name_that_kafka_does_not_take_is_refused(log: KafkaLog) -> None:
    with pytest.raises(ConfigurationError, match="a/b"):
        await log.create_topics([TopicSpec("a/b", 1)])


async def test_prefixes_keep_installations_apart(services: Mapping[str, str]) -> None:
    async with temporary_topics(services) as one, temporary_topics(services) as two:
        logs = [KafkaLog(url) for url in (one, two)]
        for log, value in zip(logs, (b"1", b"2"), strict=True):
            await log.create_topics([TopicSpec("events", 1)])
            await log.append([NewRecord("events", "a", value)])
        for log, value in zip(logs, (b"1", b"2"), strict=True):
            consumer = await log.consumer("group", ["events"], member="one")
            (record,) = await drain(consumer, 1)
            assert (record.topic, record.value) == ("events", value)
            await consumer.commit({record.topic_partition: CommittedOffset(1)})
        for log in logs:
            await log.close()


# Appending.


async def test_a_producer_whose_sequence_is_broken_is_replaced(
    log: KafkaLog, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[AIOKafkaProducer] = []
    stopped: list[AIOKafkaProducer] = []

    class Producer(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka has no types
        async def start(self) -> None:
            await super().start()
            running.append(self)

        async def stop(self) -> None:
            await super().stop()
            stopped.append(self)

    monkeypatch.setattr(connect, "AIOKafkaProducer", Producer)
    await log.create_topics([TopicSpec("events", 2)])
    (at,) = await log.append([NewRecord("events", "a", b"1")])
    (broken,) = running
    # As if a batch had been lost: the servers refuse all that follow it.
    broken._txn_manager.increment_sequence_number(KafkaPartition(prefix + at.topic, at.partition), 5)
    with pytest.raises(Unavailable, match="unknown"):
        await log.append([NewRecord("events", "a", b"2")])
    await asyncio.gather(*(log.append([NewRecord("events", "a", value)]) for value in (b"3", b"4")))
    assert len(running) == 2
    reader = await log.reader("events", at="start")
    assert sorted(record.value or b"" for record in await drain(reader, 3)) == [b"1", b"3", b"4"]
    await until(lambda: stopped == [broken])


@pytest.mark.parametrize("calls", ["one", "many"])
async def test_large_records_for_many_partitions_are_appended_at_once(log: KafkaLog, calls: str) -> None:
    """The servers refuse a request above 100 MB, and a request may carry a batch of every partition."""
    await log.create_topics([TopicSpec("events", 16)])
    keys = {partition_of(f"{number}", 16): f"{number}" for number in range(1000)}
    records = [NewRecord("events", key, bytes(7_900_000), key) for key in keys.values()]
    small = [NewRecord("events", "small", b"", key) for key in keys.values()]
    if calls == "one":
        assert len(set(await log.append(records + small))) == 16
    else:
        await asyncio.gather(*(log.append(list(pair)) for pair in zip(records, small, strict=True)))
    reader = await log.reader("events", at="start")
    found = await drain(reader, 32)
    assert [record.key for record in sorted(found, key=lambda record: record.offset)[16:]] == ["small"] * 16
    assert {(record.partition, record.key) for record in found if record.offset == 0} == set(keys.items())


async def test_a_key_that_is_not_valid_unicode_is_refused_and_nothing_is_appended(log: KafkaLog) -> None:
    await log.create_topics([TopicSpec("events", 2)])
    for wrong in (NewRecord("events", "\ud800", b""), NewRecord("events", "a", b"", "\ud800")):
        with pytest.raises(InvalidRequest):
            await log.append([NewRecord("events", "a", b""), wrong])
    assert sum((await log.end_offsets("events")).values()) == 0


# Reading.


async def test_records_of_other_systems_are_read_whatever_their_keys(log: KafkaLog, url: str, prefix: str) -> None:
    await log.create_topics([TopicSpec("events", 1)])
    producer = AIOKafkaProducer(bootstrap_servers=url.removeprefix("kafka://").partition("?")[0])
    await producer.start()
    headers = [("ce_id", b"\xff"), ("ce_id", b""), ("é", None)]
    for key in (None, b"\xff", b"key"):
        await producer.send_and_wait(prefix + "events", b"value", key, headers=headers if key else None)
    await producer.stop()
    reader = await log.reader("events", at="start")
    records = await drain(reader, 3)
    assert [record.key for record in records] == ["", "\ufffd", "key"]
    assert [record.original_key for record in records] == [None, b"\xff", "key"]
    beside = (("ce_id", b"\xff"), ("ce_id", b""), ("é", None))
    assert [record.headers for record in records] == [(), beside, beside]
    assert len(set(records)) == 3


async def test_a_deleted_offset_stops_its_group_and_the_error_says_how_to_continue(
    log: KafkaLog, admin: AIOKafkaAdminClient, prefix: str
) -> None:
    await log.create_topics([TopicSpec("events", 1)])
    await log.append([NewRecord("events", f"{number}", b"") for number in range(10)])
    at = TopicPartition("events", 0)
    consumer = await log.consumer("group", ["events"], member="one")
    await assigned(consumer, 1)
    await consumer.commit({at: CommittedOffset(2)})
    await consumer.close()
    reader = await log.reader("events", at="start")
    assert len(await reader.poll(1, PATIENCE_S)) == 1
    await admin.delete_records({KafkaPartition(prefix + "events", 0): RecordsToDelete(5)})
    consumer = await log.consumer("group", ["events"], member="one")
    for _ in range(3):  # it stays so, and nothing is skipped
        with pytest.raises(
            OffsetGone, match=r"'events', partition 0, at offset 2, .* earliest is 5: `facestream recover`"
        ):
            await drain(consumer, 1)
    assert consumer.assignment[at] == CommittedOffset(2)
    assert await log.lag("group", "events") == {0: 5}
    # As `facestream recover` does. Then the group continues.
    await consumer.commit({at: CommittedOffset(5)})
    await consumer.close()
    consumer = await log.consumer("group", ["events"], member="one")
    assert [record.offset for record in await drain(consumer, 5)] == [5, 6, 7, 8, 9]
    # A group that never committed starts at the earliest record that there is.
    fresh = await log.consumer("fresh", ["events"], member="one")
    await assigned(fresh, 1)
    assert fresh.assignment[at] == CommittedOffset(5)
    assert (await drain(fresh, 5))[0].offset == 5


async def test_a_reader_skips_deleted_records(log: KafkaLog, admin: AIOKafkaAdminClient, prefix: str) -> None:
    await log.create_topics([TopicSpec("events", 1)])
    await log.append([NewRecord("events", f"{number}", b"x" * 1_000_000) for number in range(40)])
    reader = await log.reader("events", at="start")
    assert [record.offset for record in await reader.poll(1, PATIENCE_S)] == [0]
    await admin.delete_records({KafkaPartition(prefix + "events", 0): RecordsToDelete(38)})
    offsets = [0]
    while offsets[-1] < 39:
        offsets += [record.offset for record in await drain(reader, 1)]
    assert offsets == sorted(set(offsets))
    assert offsets[-2:] == [38, 39]
    assert len(offsets) < 40


async def test_some_megabytes_are_fetched_ahead_and_the_rest_while_they_are_polled(
    log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[ConsumerRecord] = []

    class FetchingConsumer(AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka has no types
        async def getmany(self, *args: Any, **kwargs: Any) -> dict[KafkaPartition, list[ConsumerRecord]]:
            batches: dict[KafkaPartition, list[ConsumerRecord]] = await super().getmany(*args, **kwargs)
            fetched.extend(record for batch in batches.values() for record in batch)
            return batches

    monkeypatch.setattr(connect, "AIOKafkaConsumer", FetchingConsumer)
    await log.create_topics([TopicSpec("events", 2)])
    await log.append([NewRecord("events", f"{number}", b"x" * 250_000, "one") for number in range(40)])
    reader = await log.reader("events", at="start")
    await until(lambda: len(fetched) > 4)
    await asyncio.sleep(4 * LONG_POLL_S)  # long enough to fetch all of them, if it went on
    assert 4 < len(fetched) < 12
    polled: list[Record] = []
    while len(fetched) - len(polled) > 1:
        polled += await reader.poll(1, 0)
    before = len(polled) + 1
    await until(lambda: len(fetched) > before)  # without a poll, so more is fetched before the last one is polled
    polled += await drain(reader, 40 - len(polled))
    assert [record.key for record in polled] == [f"{number}" for number in range(40)]


@pytest.mark.parametrize("end", [asyncio.CancelledError, RuntimeError])
async def test_fetching_continues_where_it_was_after_aiokafkas_fetcher_has_ended(
    log: KafkaLog, monkeypatch: pytest.MonkeyPatch, end: type[BaseException]
) -> None:
    """Without an error, as when its task is cancelled, or with one."""
    find_leader, ending = ClusterMetadata.leader_for_partition, False

    def leader_for_partition(cluster: ClusterMetadata, partition: KafkaPartition) -> int | None:
        nonlocal ending
        task = asyncio.current_task()
        if ending and task is not None and "fetch_requests" in repr(task.get_coro()):
            ending = False
            raise end
        leader: int | None = find_leader(cluster, partition)
        return leader

    monkeypatch.setattr(ClusterMetadata, "leader_for_partition", leader_for_partition)
    await log.create_topics([TopicSpec("events", 4)])
    consumer = await log.consumer("group", ["events"], member="one")
    await assigned(consumer, 4)
    expected = [f"{number}.{each}" for number in range(3) for each in range(20)]
    epoch, keys = 0, list[str]()
    deadline = time.monotonic() + 2 * PATIENCE_S
    for number in range(3):
        await log.append([NewRecord("events", key, b"") for key in expected[20 * number : 20 * number + 20]])
        ending = number < 2
        while ending or len(keys) < (number + 1) * 20:
            assert time.monotonic() < deadline, f"{len(keys)} of {(number + 1) * 20} records came"
            with suppress(Unavailable):
                records = await consumer.poll(5, 0.2)
                if consumer.epoch != epoch:  # a rebalance, on a busy machine: it reads all of them again
                    epoch, keys = consumer.epoch, []
                keys += [record.key for record in records]
    assert sorted(keys) == sorted(expected)


# Membership in groups.

CHILD = """
import asyncio, sys
from backends.log import *
from backends.kafka.log import KafkaLog
from schemas.errors import *
async def main(log):
    consumer = await log.consumer("group", ["events"], member="child")
    while not (records := await consumer.poll(100, 1)):
        pass
    print("got", len(records), "epoch", consumer.epoch, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    try:
        await consumer.commit({records[0].topic_partition: CommittedOffset(1)})
        print("committed", flush=True)
    except Fenced:
        print("fenced", flush=True)
    again = []
    epoch = consumer.epoch
    while consumer.epoch == epoch:
        try:
            again += await consumer.poll(100, 1)
        except Unavailable:  # it has woken up, and its coordinator has not answered yet
            pass
    print("then", len(again), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
asyncio.run(main(KafkaLog(sys.argv[1])))
"""


@contextmanager
def child(url: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has joined the group, got the records and waits for a line before it commits them."""
    command = [sys.executable, "-c", textwrap.dedent(CHILD), url]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()
        process.wait()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


async def test_a_process_that_was_stopped_for_longer_than_its_session_cannot_commit(log: KafkaLog, url: str) -> None:
    """A member that merely does not poll for that time stays in the group."""
    await log.create_topics([TopicSpec("events", 1)])
    await log.append([NewRecord("events", "a", b"")])
    at = TopicPartition("events", 0)
    busy = await log.consumer("busy", ["events"], member="one")
    await drain(busy, 1)
    began = time.monotonic()
    with child(url) as stopped:
        assert (await asyncio.to_thread(line, stopped)).startswith("got 1 ")
        stopped.send_signal(signal.SIGSTOP)
        other = await log.consumer("group", ["events"], member="other")
        (record,) = await drain(other, 1)
        assert record.key == "a"
        assert stopped.stdin is not None
        stopped.stdin.write("go on\n")
        stopped.stdin.flush()
        stopped.send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(line, stopped) == "fenced"
        # It may join again, and gets no records before it has.
        assert await asyncio.to_thread(line, stopped) == "then 0"
        epoch = other.epoch
        while other.epoch == epoch:
            await other.poll(1, 1)
        await other.commit({at: CommittedOffset(1)})  # it still has the partition
    assert time.monotonic() - began > SESSION_S - 1
    await busy.commit({at: CommittedOffset(1)})
    assert busy.epoch == 1


async def test_a_member_that_joins_under_the_name_of_another_replaces_it(
    log: KafkaLog, opened: Callable[[str], KafkaLog]
) -> None:
    await log.create_topics([TopicSpec("events", 2)])
    old = await log.consumer("group", ["events"], member="one")
    await assigned(old, 2)
    new = await opened("").consumer("group", ["events"], member="one")
    await assigned(new, 2)
    with pytest.raises(Fenced, match="a name of its own"):
        await drain(old, 1)
    with pytest.raises(Fenced):
        await old.commit({TopicPartition("events", 0): CommittedOffset(0)})
    await old.close()  # which does not end the other's membership
    await log.append([NewRecord("events", "a", b"")])
    (record,) = await drain(new, 1)
    await new.commit({record.topic_partition: CommittedOffset(1)})
    assert await log.lag("group", "events") == {0: 0, 1: 0}


async def test_a_member_that_joins_under_the_name_of_a_dead_one_replaces_it_at_once(log: KafkaLog, url: str) -> None:
    await log.create_topics([TopicSpec("events", 2)])
    await log.append([NewRecord("events", "a", b"")])
    with child(url) as process:
        epoch = int((await asyncio.to_thread(line, process)).rpartition(" ")[2])
        process.kill()
    consumer = await log.consumer("group", ["events"], member="child")
    assert [record.key for record in await drain(consumer, 1)] == ["a"]
    assert consumer.epoch == epoch  # its session did not end, and the others of the group did not notice


@pytest.mark.parametrize("when", ["later", "at once"])
async def test_a_member_that_closes_gives_its_partitions_to_the_others_at_once(
    log: KafkaLog, opened: Callable[[str], KafkaLog], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    joining = asyncio.Event()
    send = AIOKafkaClient.send

    async def noting_joins(client: AIOKafkaClient, node: int, request: Any, **kwargs: Any) -> Any:
        if isinstance(request, JoinGroupRequest):
            joining.set()
        return await send(client, node, request, **kwargs)

    monkeypatch.setattr(AIOKafkaClient, "send", noting_joins)
    monkeypatch.setattr("backends.kafka.group.SESSION_S", LONG_SESSION_S)
    await log.create_topics([TopicSpec("events", 2)])
    staying = await log.consumer("group", ["events"], member="staying")
    await assigned(staying, 2)
    epoch = staying.epoch
    joining.clear()
    leaving = await opened("").consumer("group", ["events"], member="leaving")
    if when == "later":
        await asyncio.gather(assigned(staying, 1), assigned(leaving, 1))
        epoch = staying.epoch
    else:
        await asyncio.wait_for(joining.wait(), PATIENCE_S)
    began = time.monotonic()
    await leaving.close()
    while staying.epoch == epoch:
        await staying.poll(1, 0.1, topics=[])
    await assigned(staying, 2)
    assert time.monotonic() - began < LONG_SESSION_S - 2  # which the others would wait for if it had just vanished


async def test_members_keep_their_partitions_when_others_join_and_leave(opened: Callable[[str], KafkaLog]) -> None:
    log = opened("")
    await log.create_topics([TopicSpec("events", 12)])
    members = {name: await opened("").consumer("group", ["events"], member=name) for name in ("one", "two")}
    await settled(members, 12)
    before = {name: set(member.assignment) for name, member in members.items()}
    members["three"] = await opened("").consumer("group", ["events"], member="three")
    await settled(members, 12)
    assert [len(member.assignment) for member in members.values()] == [4, 4, 4]
    assert all(set(members[name].assignment) < before[name] for name in ("one", "two"))
    await members.pop("three").close()
    await settled(members, 12)
    assert sum(len(before[name] & set(members[name].assignment)) for name in members) >= 8


async def test_members_that_join_one_after_the_other_share_each_topic(opened: Callable[[str], KafkaLog]) -> None:
    log = opened("")
    topics = ["first", "second"]
    await log.create_topics([TopicSpec(topic, 64) for topic in topics])
    members: dict[str, Consumer] = {}
    for name, each in (("one", 64), ("two", 32)):
        members[name] = await opened("").consumer("group", topics, member=name)
        await settled(members, 128)
        for member in members.values():
            assert Counter(at.topic for at in member.assignment) == dict.fromkeys(topics, each)


@pytest.mark.parametrize("leader", ["old", "new"])
async def test_members_of_older_versions_are_in_the_same_group(
    log: KafkaLog, url: str, prefix: str, leader: str
) -> None:
    """They are members of aiokafka's sticky assignor. The member that joins first leads."""
    topics = ["first", "second"]
    await log.create_topics([TopicSpec(topic, 4) for topic in topics])
    old = AIOKafkaConsumer(
        *(prefix + topic for topic in topics),
        bootstrap_servers=url.removeprefix("kafka://").partition("?")[0],
        group_id=f"{prefix}group",
        partition_assignment_strategy=[type("Assignor", (StickyPartitionAssignor,), {})],
        heartbeat_interval_ms=500,
    )
    async with AsyncExitStack() as running:
        running.push_async_callback(old.stop)
        if leader == "old":
            await old.start()
            await until(lambda: len(old.assignment()) == 8)
        new = await log.consumer("group", topics, member="new")
        if leader == "new":
            await assigned(new, 8)
            await asyncio.gather(old.start(), assigned(new, 4))
        await assigned(new, 4)
        await until(lambda: len(old.assignment()) == 4)
        parts = {TopicPartition(at.topic.removeprefix(prefix), at.partition) for at in old.assignment()}
        assert parts.isdisjoint(new.assignment)
        if leader == "new":
            assert Counter(at.topic for at in new.assignment) == {"first": 2, "second": 2}


async def settled(members: Mapping[str, Consumer], partitions: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        await asyncio.gather(*(member.poll(1, 0.1, topics=[]) for member in members.values()))
        owned = sum(len(member.assignment) for member in members.values())
        if owned == partitions and len({member.epoch for member in members.values()}) == 1:
            return
        assert time.monotonic() < deadline


async def test_one_process_may_be_a_member_of_several_groups(log: KafkaLog) -> None:
    await log.create_topics([TopicSpec("events", 4), TopicSpec("others", 2)])
    one = await log.consumer("one", ["events"], member="here")
    two = await log.consumer("two", ["others"], member="here")
    await asyncio.gather(assigned(one, 4), assigned(two, 2))
    more = await log.consumer("two", ["others"], member="there")
    await asyncio.gather(assigned(two, 1), assigned(more, 1))
    assert len(one.assignment) == 4


async def test_metadata_that_is_too_long_is_refused(log: KafkaLog) -> None:
    await log.create_topics([TopicSpec("events", 1)])
    consumer = await log.consumer("group", ["events"], member="one")
    await assigned(consumer, 1)
    at = TopicPartition("events", 0)
    for metadata in ("x" * 4001, "💙" * 3000):  # Kafka counts the second as 6,000
        with pytest.raises(InvalidRequest, match="metadata"):
            await consumer.commit({at: CommittedOffset(1, metadata)})
    await consumer.commit({at: CommittedOffset(0, "x" * 4000)})
