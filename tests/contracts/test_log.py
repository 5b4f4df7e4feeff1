"""The promises of EventLog, tested with every adapter."""

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from backends.log import (
    CommittedOffset,
    Consumer,
    EventLog,
    NewRecord,
    Record,
    TopicPartition,
    TopicSpec,
    partition_of,
)
from schemas.errors import Fenced, InvalidRequest, TopicMismatch, Unavailable
from tests.polling import drain

# Long enough for a distributed engine's rebalance; the embedded one needs milliseconds.
PATIENCE_S = 30.0

OpenLog = Callable[[], EventLog]
Unique = Callable[[str], str]


class Topic:
    """A topic of a test, in a log opened for it."""

    def __init__(self, log: EventLog, name: str) -> None:
        self.log = log
        self.name = name

    async def append(self, *keys: str, partition_key: str | None = None) -> list[TopicPartition]:
        return await self.log.append(
            [NewRecord(self.name, key, f"value of {key}".encode(), partition_key) for key in keys]
        )


@pytest.fixture
async def topic(open_log: OpenLog, unique: Unique) -> Topic:
    log = open_log()
    await log.create_topics([TopicSpec(unique("events"), 4)])
    return Topic(log, unique("events"))


@asynccontextmanager
async def joined(log: EventLog, group: str, topics: Sequence[str], member: str) -> AsyncIterator[Consumer]:
    consumer = await log.consumer(group, topics, member=member)
    try:
        yield consumer
    finally:
        await consumer.close()


async def settled(topic: Topic, *consumers: Consumer) -> None:
    """Polls until the consumers share all partitions of the topic under one assignment."""
    everything = {TopicPartition(topic.name, each) for each in range(await topic.log.partitions(topic.name))}
    deadline = time.monotonic() + PATIENCE_S
    while True:
        await asyncio.gather(*(consumer.poll(1, 0.05, topics=[]) for consumer in consumers))
        owned = [partition for consumer in consumers for partition in consumer.assignment]
        if sorted(owned) == sorted(everything) and len({consumer.epoch for consumer in consumers}) == 1:
            return
        assert time.monotonic() < deadline, [dict(consumer.assignment) for consumer in consumers]


def keys_by_partition(records: Sequence[Record]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for record in records:
        found.setdefault(record.partition, []).append(record.key)
    return found


async def test_a_record_comes_back_as_it_was_appended(topic: Topic, unique: Unique) -> None:
    before = int(time.time() * 1000)
    (place,) = await topic.append("a")
    async with joined(topic.log, unique("group"), [topic.name], "one") as consumer:
        (record,) = await drain(consumer, 1)
    assert (record.topic, record.partition, record.offset, record.key) == (*place, 0, "a")
    assert (record.value, record.headers) == (b"value of a", ())
    assert before - 1000 <= record.timestamp <= time.time() * 1000 + 1000


async def test_the_partition_follows_from_the_partition_key(topic: Topic) -> None:
    places = await topic.log.append(
        [
            NewRecord(topic.name, "image", b"", "directory"),
            NewRecord(topic.name, "image", b""),
            NewRecord(topic.name, "é💙", b""),
        ]
    )
    expected = [zlib.crc32(key.encode()) % 4 for key in ("directory", "image", "é💙")]
    assert places == [TopicPartition(topic.name, each) for each in expected]
    assert [partition_of(key, 4) for key in ("directory", "image", "é💙")] == expected


async def test_order_holds_within_a_partition(topic: Topic) -> None:
    for start in range(0, 300, 30):
        await topic.append(*(f"{number}" for number in range(start, start + 30)))
    reader = await topic.log.reader(topic.name, at="start")
    records = await drain(reader, 300)
    await reader.close()
    assert len(records) == 300
    for keys in keys_by_partition(records).values():
        assert keys == sorted(keys, key=int)
    for partition in range(4):
        mine = [record for record in records if record.partition == partition]
        assert [record.offset for record in mine] == list(range(len(mine)))
        assert [record.timestamp for record in mine] == sorted(record.timestamp for record in mine)


async def test_concurrent_appends_all_arrive_once(topic: Topic, open_log: OpenLog) -> None:
    other = Topic(open_log(), topic.name)
    await asyncio.gather(*((topic, other)[number % 2].append(f"{number}") for number in range(500)))
    reader = await topic.log.reader(topic.name, at="start")
    records = await drain(reader, 500)
    assert await reader.poll(10, 0.2) == []
    await reader.close()
    assert sorted(int(record.key) for record in records) == list(range(500))
    assert len({(record.partition, record.offset) for record in records}) == 500
    assert sum((await topic.log.end_offsets(topic.name)).values()) == 500


@pytest.mark.parametrize("key", ["", "..", "/", "a\0b", "é💙\u202e", "x" * 300, "a'; DROP TABLE records; --"])
async def test_a_key_is_any_text(topic: Topic, key: str) -> None:
    await topic.append(key)
    reader = await topic.log.reader(topic.name, at="start")
    (record,) = await drain(reader, 1)
    await reader.close()
    assert record.key == key


async def test_a_tombstone_is_not_an_empty_value(topic: Topic) -> None:
    await topic.log.append([NewRecord(topic.name, "a", None), NewRecord(topic.name, "a", b"")])
    reader = await topic.log.reader(topic.name, at="start")
    records = await drain(reader, 2)
    await reader.close()
    assert [record.value for record in records] == [None, b""]


@pytest.mark.parametrize("reopened", [False, True], ids=["appended here", "read again"])
async def test_headers_keep_their_order_and_may_repeat(topic: Topic, open_log: OpenLog, reopened: bool) -> None:
    headers = (("b", b"1"), ("a", None), ("a", b""), ("b", b"2"), ("é💙", bytes(range(256))), ("", b"no name"))
    await topic.log.append([NewRecord(topic.name, "a", b"", headers=headers), NewRecord(topic.name, "a", b"")])
    log = open_log() if reopened else topic.log
    reader = await log.reader(topic.name, at="start")
    records = await drain(reader, 2)
    await reader.close()
    assert [record.headers for record in records] == [headers, ()]


@pytest.mark.parametrize("reopened", [False, True], ids=["appended here", "read again"])
@pytest.mark.parametrize(("key", "text"), [(None, ""), (b"\xff\0", "\ufffd\0"), ("", "")])
async def test_a_copied_key_may_be_missing_or_not_text(
    topic: Topic, open_log: OpenLog, reopened: bool, key: str | bytes | None, text: str
) -> None:
    (place, other) = await topic.log.append(
        [NewRecord(topic.name, key, b"1"), NewRecord(topic.name, key, b"2", "partition key")]
    )
    assert place.partition == partition_of(key or b"", 4)
    assert other.partition == partition_of("partition key", 4)
    reader = await (open_log() if reopened else topic.log).reader(topic.name, at="start")
    records = await drain(reader, 2)
    await reader.close()
    assert {(record.original_key, record.key) for record in records} == {(key, text)}


async def test_a_record_may_have_neither_key_nor_value(topic: Topic) -> None:
    await topic.log.append([NewRecord(topic.name, None, None, headers=[("a", b"b")])])
    reader = await topic.log.reader(topic.name, at="start")
    (record,) = await drain(reader, 1)
    await reader.close()
    assert (record.key, record.value, record.headers) == ("", None, (("a", b"b"),))


async def test_headers_count_as_a_part_of_a_record(topic: Topic) -> None:
    for headers in [("a", bytes(8_000_000))], [("a" * 8_000_000, None)], [("", None)] * 1_000_000:
        with pytest.raises(InvalidRequest):
            await topic.log.append([NewRecord(topic.name, "a", b"", headers=headers)])
    await topic.log.append([NewRecord(topic.name, "a", b"", headers=[("", None)] * 700_000)])
    with pytest.raises(InvalidRequest):
        await topic.log.append([NewRecord(topic.name, "a", b"", headers=[("\ud800", None)])])
    assert sum((await topic.log.end_offsets(topic.name)).values()) == 1


async def test_a_record_of_many_bytes(topic: Topic, unique: Unique) -> None:
    value = bytes(range(256)) * 31_000
    await topic.log.append([NewRecord(topic.name, "a", value)])
    async with joined(topic.log, unique("group"), [topic.name], "one") as consumer:
        (record,) = await drain(consumer, 1)
    assert record.value == value


async def test_nothing_is_appended_of_a_call_with_a_huge_record(topic: Topic) -> None:
    with pytest.raises(InvalidRequest):
        await topic.log.append([NewRecord(topic.name, "a", b""), NewRecord(topic.name, "b", bytes(8_000_001))])
    assert sum((await topic.log.end_offsets(topic.name)).values()) == 0


async def test_nothing_is_appended_of_a_call_with_an_unknown_topic(topic: Topic, unique: Unique) -> None:
    with pytest.raises(InvalidRequest):
        await topic.log.append([NewRecord(topic.name, "a", b""), NewRecord(unique("unknown"), "b", b"")])
    assert sum((await topic.log.end_offsets(topic.name)).values()) == 0


async def test_an_unknown_topic_is_an_error(topic: Topic, unique: Unique) -> None:
    with pytest.raises(InvalidRequest):
        await topic.log.partitions(unique("unknown"))


async def test_appending_nothing_is_allowed(topic: Topic) -> None:
    assert await topic.log.append([]) == []


async def test_topics_may_be_created_again_but_not_with_other_partitions(topic: Topic, open_log: OpenLog) -> None:
    await topic.append("a")
    other = open_log()
    await asyncio.gather(
        *(log.create_topics([TopicSpec(topic.name, 4, retention_s=3600)]) for log in (other, topic.log))
    )
    with pytest.raises(TopicMismatch):
        await other.create_topics([TopicSpec(topic.name, 5)])
    assert await other.partitions(topic.name) == 4
    assert sum((await other.end_offsets(topic.name)).values()) == 1


async def test_a_topic_created_by_another_client_is_known_at_once(
    topic: Topic, open_log: OpenLog, unique: Unique
) -> None:
    await open_log().create_topics([TopicSpec(unique("later"), 2)])
    assert await topic.log.partitions(unique("later")) == 2
    await topic.log.append([NewRecord(unique("later"), "a", b"")])


async def test_a_reader_at_the_end_sees_what_is_appended_from_then_on(topic: Topic, open_log: OpenLog) -> None:
    await topic.append("before")
    other = open_log()
    reader = await other.reader(topic.name, at="end")
    await topic.append("after")
    assert [record.key for record in await drain(reader, 1)] == ["after"]
    await reader.close()


async def test_a_reader_of_some_partitions_gets_only_their_records(topic: Topic) -> None:
    await topic.append(*(f"{number}" for number in range(40)))
    reader = await topic.log.reader(topic.name, at="start", partitions=[1, 3])
    expected = [f"{number}" for number in range(40) if partition_of(f"{number}", 4) in (1, 3)]
    records = await drain(reader, len(expected))
    await reader.close()
    assert sorted(record.key for record in records) == sorted(expected)


async def test_a_poll_waits_for_the_first_record(topic: Topic) -> None:
    reader = await topic.log.reader(topic.name, at="end")
    poll = asyncio.create_task(reader.poll(10, PATIENCE_S))
    await asyncio.sleep(0.2)
    assert not poll.done()
    await topic.append("a")
    assert [record.key for record in await poll] == ["a"]
    began = time.monotonic()
    assert await reader.poll(10, 0.2) == []
    assert time.monotonic() - began >= 0.15
    await reader.close()


async def test_a_poll_gives_no_more_than_was_asked_for(topic: Topic) -> None:
    await topic.append(*(f"{number}" for number in range(50)))
    reader = await topic.log.reader(topic.name, at="start")
    polls = [await reader.poll(7, 1) for _ in range(8)]
    await reader.close()
    assert all(len(poll) <= 7 for poll in polls)
    assert len({record.key for poll in polls for record in poll}) == sum(len(poll) for poll in polls)


async def test_a_long_partition_does_not_delay_the_others(topic: Topic, unique: Unique) -> None:
    """A partition with thousands of records does not delay the others."""
    deep, shallow = (next(f"{n}" for n in range(100) if partition_of(f"{n}", 4) == partition) for partition in (0, 1))
    await topic.append(*[deep] * 2000)
    await topic.append(*[shallow] * 20)
    async with joined(topic.log, unique("group"), [topic.name], "one") as consumer:
        records: list[Record] = []
        while sum(record.partition == 1 for record in records) < 20:
            records += await consumer.poll(10, 1)
            assert len(records) < 1000
    assert [record.offset for record in records if record.partition == 1] == list(range(20))


async def test_a_new_group_starts_at_the_earliest_record(topic: Topic, unique: Unique) -> None:
    await topic.append("a", "b", "c")
    async with joined(topic.log, unique("group"), [topic.name], "one") as consumer:
        assert consumer.epoch == 0
        assert consumer.assignment == {}
        await settled(topic, consumer)
        assert consumer.epoch > 0
        assert set(consumer.assignment.values()) == {CommittedOffset(0, "")}
        assert sorted(record.key for record in await drain(consumer, 3)) == ["a", "b", "c"]


async def test_a_restart_goes_on_at_the_committed_offset(topic: Topic, open_log: OpenLog, unique: Unique) -> None:
    await topic.append(*["a"] * 10)
    partition = TopicPartition(topic.name, partition_of("a", 4))
    async with joined(topic.log, unique("group"), [topic.name], "one") as consumer:
        await drain(consumer, 10)
        await consumer.commit({partition: CommittedOffset(3, '{"tries": "💙"}' + "x" * 3900)})
        await consumer.commit({partition: CommittedOffset(4, "a word")})
    async with joined(open_log(), unique("group"), [topic.name], "one") as consumer:
        await settled(topic, consumer)
        assert consumer.assignment[partition] == CommittedOffset(4, "a word")
        assert [record.offset for record in await drain(consumer, 6)] == [4, 5, 6, 7, 8, 9]


async def test_uncommitted_records_are_delivered_again(topic: Topic, unique: Unique) -> None:
    await topic.append("a", "b")
    for _ in range(2):
        async with joined(topic.log, unique("group"), [topic.name], "one") as consumer:
            assert sorted(record.key for record in await drain(consumer, 2)) == ["a", "b"]


async def test_groups_do_not_disturb_each_other(topic: Topic, unique: Unique) -> None:
    await topic.append("a")
    for group in (unique("first"), unique("second")):
        async with joined(topic.log, group, [topic.name], "one") as consumer:
            (record,) = await drain(consumer, 1)
            await consumer.commit({record.topic_partition: CommittedOffset(1)})


async def test_a_group_shares_the_partitions(topic: Topic, open_log: OpenLog, unique: Unique) -> None:
    async with (
        joined(topic.log, unique("group"), [topic.name], "one") as one,
        joined(open_log(), unique("group"), [topic.name], "two") as two,
    ):
        await settled(topic, one, two)
        assert len(one.assignment) == len(two.assignment) == 2
        await topic.append(*(f"{number}" for number in range(100)))
        first: list[Record] = []
        second: list[Record] = []
        while len(first) + len(second) < 100:
            first += await one.poll(100, 0.1)
            second += await two.poll(100, 0.1)
        assert {record.topic_partition for record in first} == set(one.assignment)
        assert {record.topic_partition for record in second} == set(two.assignment)


async def test_the_others_start_a_new_epoch_when_a_member_joins_or_leaves(
    topic: Topic, open_log: OpenLog, unique: Unique
) -> None:
    async with joined(topic.log, unique("group"), [topic.name], "one") as one:
        await settled(topic, one)
        epoch = one.epoch
        waiting = asyncio.create_task(one.poll(10, PATIENCE_S))
        two = await open_log().consumer(unique("group"), [topic.name], member="two")
        # The poll ends before its timeout, because its caller has to know that partitions were revoked.
        assert await asyncio.wait_for(waiting, PATIENCE_S / 2) == []
        await settled(topic, one, two)
        assert one.epoch > epoch
        epoch = one.epoch
        await two.close()
        await settled(topic, one)
        assert one.epoch > epoch
        assert len(one.assignment) == 4


async def test_a_commit_after_a_rebalance_is_fenced(topic: Topic, open_log: OpenLog, unique: Unique) -> None:
    await topic.append("a")
    async with joined(topic.log, unique("group"), [topic.name], "one") as one:
        (record,) = await drain(one, 1)
        async with joined(open_log(), unique("group"), [topic.name], "two") as two:
            await asyncio.wait_for(_until_assigned(two), PATIENCE_S)
            with pytest.raises(Fenced):
                await one.commit({record.topic_partition: CommittedOffset(1)})
            await settled(topic, one, two)
            assert {**one.assignment, **two.assignment}[record.topic_partition] == CommittedOffset(0)
            # In the new epoch the member that has the partition gets the record again, and may commit it.
            owner = one if record.topic_partition in one.assignment else two
            assert [each.key for each in await drain(owner, 1)] == ["a"]
            await owner.commit({record.topic_partition: CommittedOffset(1)})


async def _until_assigned(consumer: Consumer) -> None:
    while not consumer.assignment:
        await consumer.poll(1, 0.1, topics=[])


async def test_after_a_rebalance_every_partition_starts_at_what_was_committed(
    topic: Topic, open_log: OpenLog, unique: Unique
) -> None:
    await topic.append(*["a"] * 4)
    partition = TopicPartition(topic.name, partition_of("a", 4))
    async with joined(topic.log, unique("group"), [topic.name], "one") as one:
        await drain(one, 4)
        await one.commit({partition: CommittedOffset(2, "half")})
        async with joined(open_log(), unique("group"), [topic.name], "two") as two:
            await settled(topic, one, two)
            owner = one if partition in one.assignment else two
            assert owner.assignment[partition] == CommittedOffset(2, "half")
            assert [record.offset for record in await drain(owner, 2)] == [2, 3]


async def test_a_poll_of_some_topics_leaves_the_others_where_they_are(topic: Topic, unique: Unique) -> None:
    other = unique("bulk")
    await topic.log.create_topics([TopicSpec(other, 2)])
    await topic.append("a")
    await topic.log.append([NewRecord(other, "b", b"")])
    async with joined(topic.log, unique("group"), [topic.name, other], "one") as consumer:
        await asyncio.wait_for(_until_assigned(consumer), PATIENCE_S)
        assert len(consumer.assignment) == 6
        assert [record.key for record in await consumer.poll(10, 5, topics=[topic.name])] == ["a"]
        assert await consumer.poll(10, 0.1, topics=[topic.name]) == []
        assert [record.key for record in await consumer.poll(10, 5, topics=[other])] == ["b"]


async def test_paused_partitions_are_left_where_they_are(topic: Topic, unique: Unique) -> None:
    places = await topic.append(*(f"{number}" for number in range(20)))
    async with joined(topic.log, unique("group"), [topic.name], "one") as consumer:
        await settled(topic, consumer)
        paused = TopicPartition(topic.name, 0)
        count = sum(place != paused for place in places)
        running: list[Record] = []
        while len(running) < count:
            running += await consumer.poll(100, 5, paused=[paused])
        assert await consumer.poll(100, 0.1, paused=[paused]) == []
        assert all(record.topic_partition != paused for record in running)
        rest = await drain(consumer, len(places) - count)
        assert {record.topic_partition for record in rest} == {paused}


async def test_lag_counts_what_is_not_committed(topic: Topic, unique: Unique) -> None:
    await topic.append(*["a"] * 5)
    partition = partition_of("a", 4)
    nothing = dict.fromkeys(range(4), 0)
    assert await topic.log.lag(unique("group"), topic.name) == {**nothing, partition: 5}
    async with joined(topic.log, unique("group"), [topic.name], "one") as consumer:
        await drain(consumer, 5)
        await consumer.commit({TopicPartition(topic.name, partition): CommittedOffset(4)})
        assert await topic.log.lag(unique("group"), topic.name) == {**nothing, partition: 1}
        assert await topic.log.end_offsets(topic.name) == {**nothing, partition: 5}


async def test_the_offsets_of_a_group_are_those_at_which_it_continues(topic: Topic, unique: Unique) -> None:
    await topic.append(*["a"] * 5)
    partition = partition_of("a", 4)
    nothing = dict.fromkeys(range(4), 0)
    assert await topic.log.group_offsets(unique("group"), topic.name) == nothing
    async with joined(topic.log, unique("group"), [topic.name], "one") as consumer:
        await drain(consumer, 5)
        await consumer.commit({TopicPartition(topic.name, partition): CommittedOffset(4)})
    assert await topic.log.group_offsets(unique("group"), topic.name) == {**nothing, partition: 4}
    assert await topic.log.held_offsets(topic.name) == {}


async def test_the_next_poll_continues_after_what_was_polled(topic: Topic, unique: Unique) -> None:
    await topic.append(*["a"] * 5)
    at, nothing = TopicPartition(topic.name, partition_of("a", 4)), dict.fromkeys(range(4), 0)
    reader = await topic.log.reader(topic.name, at="start")
    assert reader.next_offsets() == nothing
    await drain(reader, 5)
    assert reader.next_offsets() == {**nothing, at.partition: 5}
    await reader.close()
    async with joined(topic.log, unique("group"), [topic.name], "one") as consumer:
        assert consumer.next_offsets() == {}
        await settled(topic, consumer)
        assert set(consumer.next_offsets().values()) == {0}
        records: list[Record] = []
        while len(records) < 5:
            records += await consumer.poll(2, 0.5)
            assert consumer.next_offsets()[at] == len(records)


async def test_a_reader_begins_at_the_given_offsets(topic: Topic) -> None:
    await topic.append(*["a"] * 5, *(f"{number}" for number in range(20)))
    partition = partition_of("a", 4)
    reader = await topic.log.reader(topic.name, at={partition: 3})
    ends = await topic.log.end_offsets(topic.name)
    records = await drain(reader, ends[partition] - 3)
    assert [record.offset for record in records] == list(range(3, ends[partition]))
    assert {record.partition for record in records} == {partition}
    assert reader.next_offsets() == {partition: ends[partition]}
    await reader.close()
    with pytest.raises(InvalidRequest):
        await topic.log.reader(topic.name, at={4: 0})


async def test_the_members_of_a_group_and_their_partitions_are_known(topic: Topic, unique: Unique) -> None:
    everything = {TopicPartition(topic.name, each) for each in range(4)}
    assert await topic.log.group_members(unique("group")) == []
    async with joined(topic.log, unique("group"), [topic.name], "one") as one:
        await settled(topic, one)
        (member,) = await topic.log.group_members(unique("group"))
        assert member.name.startswith("one")
        assert member.partitions == everything
        assert not member.foreign
        async with joined(topic.log, unique("group"), [topic.name], "two") as two:
            await settled(topic, one, two)
            members = await topic.log.group_members(unique("group"))
            assert {it.partitions for it in members} == {frozenset(one.assignment), frozenset(two.assignment)}
        await settled(topic, one)
        assert [it.partitions for it in await topic.log.group_members(unique("group"))] == [everything]
    assert await topic.log.group_members(unique("group")) == []


async def test_the_oldest_record_that_is_not_committed_is_known(topic: Topic, unique: Unique) -> None:
    assert await topic.log.oldest_uncommitted_ms(unique("group"), topic.name) is None
    before = time.time() * 1000
    await topic.append("a", "b")
    await asyncio.sleep(0.05)  # append times are in ms: later ones differ
    await topic.append("a", "b")
    reader = await topic.log.reader(topic.name, at="start")
    records = await drain(reader, 4)
    await reader.close()
    times = {key: [record.timestamp for record in records if record.key == key] for key in ("a", "b")}
    assert all(abs(each - before) < 60_000 for each in times["a"])
    assert await topic.log.oldest_uncommitted_ms(unique("group"), topic.name) == min(times["a"][0], times["b"][0])
    async with joined(topic.log, unique("group"), [topic.name], "one") as consumer:
        await drain(consumer, 4)
        for key, offset, oldest in [
            ("a", 1, times["b"][0]),
            ("b", 1, min(times["a"][1], times["b"][1])),
            ("a", 2, times["b"][1]),
            ("b", 2, None),
        ]:
            await consumer.commit({TopicPartition(topic.name, partition_of(key, 4)): CommittedOffset(offset)})
            assert await topic.log.oldest_uncommitted_ms(unique("group"), topic.name) == oldest


async def test_start_and_end_offsets_match_the_records(topic: Topic) -> None:
    nothing = dict.fromkeys(range(4), 0)
    assert await topic.log.start_offsets(topic.name) == await topic.log.end_offsets(topic.name) == nothing
    await topic.append("a", "a")
    assert await topic.log.start_offsets(topic.name) == nothing
    assert await topic.log.end_offsets(topic.name) == {**nothing, partition_of("a", 4): 2}


async def test_no_partition_is_unused(topic: Topic) -> None:
    await topic.append("a")
    assert await topic.log.unused_partitions() == {}


async def test_a_topic_that_is_missing_or_different_is_refused(topic: Topic, unique: Unique) -> None:
    await topic.log.require_topics([TopicSpec(topic.name, 4)])
    with pytest.raises(TopicMismatch, match="partitions"):
        await topic.log.require_topics([TopicSpec(topic.name, 4), TopicSpec(topic.name, 5)])
    with pytest.raises(TopicMismatch, match="facestream init"):
        await topic.log.require_topics([TopicSpec(unique("missing"), 4)])


async def test_retention_keeps_young_records_and_the_offsets(topic: Topic, unique: Unique) -> None:
    """An engine may delete expired records when it wants, but it must keep younger ones, and every offset."""
    await topic.log.create_topics(
        [TopicSpec(unique("changes"), 1, compacted=True), TopicSpec(unique("week"), 1, 7 * 86400)]
    )
    for name in (unique("changes"), unique("week")):
        await topic.log.append(
            [NewRecord(name, key, value) for key, value in [("a", b"1"), ("b", b"2"), ("a", b"3"), ("b", None)]]
        )
    await topic.log.enforce_retention()
    reader = await topic.log.reader(unique("changes"), at="start")
    last = {record.key: record.offset for record in await drain(reader, 2)}
    await reader.close()
    assert last == {"a": 2, "b": 3}
    reader = await topic.log.reader(unique("week"), at="start")
    assert [record.offset for record in await drain(reader, 4)] == [0, 1, 2, 3]
    await reader.close()
    assert await topic.log.end_offsets(unique("changes")) == {0: 4}


async def test_a_cancelled_poll_loses_no_record(topic: Topic) -> None:
    """Whether the cancellation comes before a record, with it or after it."""
    reader = await topic.log.reader(topic.name, at="start")
    seen: list[str] = []
    for number in range(20):
        poll = asyncio.create_task(reader.poll(10, PATIENCE_S))
        append = asyncio.create_task(topic.append(f"{number}"))
        await asyncio.sleep(number * 0.0002)
        poll.cancel()
        (outcome, _) = await asyncio.gather(poll, append, return_exceptions=True)
        seen += [record.key for record in (outcome if isinstance(outcome, list) else ())]
    seen += [record.key for record in (await drain(reader, 20 - len(seen)) if len(seen) < 20 else ())]
    assert sorted(seen, key=int) == [f"{number}" for number in range(20)]
    await reader.close()


async def test_a_closed_log_raises_unavailable(topic: Topic) -> None:
    await topic.append("a")
    await topic.log.ping()
    await topic.log.close()
    for refused in (topic.append("b"), topic.log.end_offsets(topic.name), topic.log.ping()):
        with pytest.raises(Unavailable):
            await refused
    await topic.log.close()


async def test_closing_finishes_the_appends_under_way(topic: Topic, open_log: OpenLog) -> None:
    await topic.append("a")
    appends = [asyncio.create_task(topic.append(f"{number}")) for number in range(50)]
    await asyncio.sleep(0)
    await topic.log.close()
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    accepted = sum(not isinstance(outcome, BaseException) for outcome in outcomes)
    ends = await open_log().end_offsets(topic.name)
    assert sum(ends.values()) == accepted + 1 > 1
