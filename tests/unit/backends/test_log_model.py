"""Compares the embedded log with a model of plain lists and dicts, with calls that Hypothesis chooses."""

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backends.log import CommittedOffset, Consumer, NewRecord, Reader, Record, TopicPartition, TopicSpec, partition_of
from backends.sqlite.log import SqliteLog
from backends.sqlite.log_view import LogView
from schemas.errors import OffsetGone

T = TypeVar("T")

RETENTION_S = 100
DAY_S = 24 * 3600
PARTITIONS = 2
TOPICS = ("events", "changes")
EVERYTHING = [TopicPartition(topic, partition) for topic in TOPICS for partition in range(PARTITIONS)]

topics = st.sampled_from(TOPICS)
keys = st.sampled_from(["a", "b", "c", "\0é💙"])
values = st.one_of(st.none(), st.binary(max_size=5))
limits = st.sampled_from([1, 3, 100])


class Model:
    """What the log should have. `records` are those that exist, by partition."""

    def __init__(self) -> None:
        self.now = 1_700_000_000
        self.records: dict[TopicPartition, list[Record]] = {each: [] for each in EVERYTHING}
        self.ends = dict.fromkeys(EVERYTHING, 0)
        self.starts = dict.fromkeys(EVERYTHING, 0)
        self.committed: dict[TopicPartition, CommittedOffset] = {}

    def append(self, new: NewRecord) -> TopicPartition:
        place = TopicPartition(new.topic, partition_of(new.key or "", PARTITIONS))
        self.records[place].append(Record(*place, self.ends[place], self.now * 1000, new.key, new.value))
        self.ends[place] += 1
        return place

    def enforce_retention(self) -> None:
        for place, records in self.records.items():
            if place.topic == "events":
                committed = self.committed.get(place, CommittedOffset(self.ends[place])).offset
                kept = [
                    each
                    for each in records
                    if each.timestamp >= (self.now - RETENTION_S) * 1000 or each.offset >= committed
                ]
                gone = len(records) - len(kept)
                if gone:
                    self.starts[place] = records[gone - 1].offset + 1
            else:
                last = {each.key: each for each in records}
                kept = [
                    each
                    for each in records
                    if last[each.key] is each
                    and (each.value is not None or each.timestamp >= (self.now - DAY_S) * 1000)
                ]
            self.records[place] = kept

    def after(self, place: TopicPartition, offset: int) -> list[Record]:
        return [each for each in self.records[place] if each.offset >= offset]


class EmptyView(LogView):
    """Keeps no records in memory. Unlike the model, a log might return those that another log has compacted."""

    def tail(self, partition_id: int, offset: int, limit: int) -> list[Record]:
        return []


class LogMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.model = Model()
        self.path = Path(self.folder.name) / "log.db"
        self.log = self.opened()
        # Another process, as far as the log can tell.
        with patch("backends.sqlite.log.LogView", EmptyView):
            self.other = self.opened()
        specs = [
            TopicSpec("events", PARTITIONS, retention_s=RETENTION_S),
            TopicSpec("changes", PARTITIONS, compacted=True),
        ]
        self.run(self.log.create_topics(specs))
        self.consumer: Consumer | None = None
        self.positions: dict[TopicPartition, int] = {}
        self.reader: Reader | None = None
        self.reader_positions: dict[TopicPartition, int] = {}

    def opened(self) -> SqliteLog:
        return SqliteLog(self.path, clock=lambda: self.model.now)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        if self.reader is not None:
            self.run(self.reader.close())
        self.run(self.log.close())
        self.run(self.other.close())
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()
        self.folder.cleanup()

    @rule(topic=topics, new=st.lists(st.tuples(keys, values), min_size=1, max_size=6), elsewhere=st.booleans())
    def append(self, topic: str, new: list[tuple[str, bytes | None]], elsewhere: bool) -> None:
        records = [NewRecord(topic, key, value) for key, value in new]
        places = self.run((self.other if elsewhere else self.log).append(records))
        assert places == [self.model.append(each) for each in records]

    @rule(seconds=st.sampled_from([1, RETENTION_S - 1, RETENTION_S + 1, DAY_S + 1]))
    def time_passes(self, seconds: int) -> None:
        self.model.now += seconds

    @rule()
    def enforce_retention(self) -> None:
        self.run(self.log.enforce_retention())
        self.model.enforce_retention()

    @precondition(lambda self: self.consumer is None)
    @rule(elsewhere=st.booleans())
    def join(self, elsewhere: bool) -> None:
        consumer = self.consumer = self.run(
            (self.other if elsewhere else self.log).consumer("group", TOPICS, member="one")
        )

        assert self.run(consumer.poll(10, 5)) == []
        assert consumer.assignment == {
            each: self.model.committed.get(each, CommittedOffset(self.model.starts[each])) for each in EVERYTHING
        }
        self.positions = {each: committed.offset for each, committed in consumer.assignment.items()}

    @precondition(lambda self: self.consumer is not None)
    @rule(limit=limits, subscribed=st.one_of(st.none(), topics))
    def poll(self, limit: int, subscribed: str | None) -> None:
        assert self.consumer is not None
        wanted = [each for each in EVERYTHING if subscribed in (None, each.topic)]
        gone = [each for each in wanted if self.positions[each] < self.model.starts[each]]
        expected = any(self.model.after(each, self.positions[each]) for each in wanted)
        only = None if subscribed is None else [subscribed]
        try:
            records = self.run(self.consumer.poll(limit, 5 if expected or gone else 0.01, topics=only))
        except OffsetGone:
            assert gone
            # What the message advises: to commit the earliest offsets, and to start again.
            offsets = {each: CommittedOffset(self.model.starts[each], "lost") for each in gone}
            self.run(self.consumer.commit(offsets))
            self.model.committed.update(offsets)
            self.leave()
            return
        assert bool(records) == expected or gone
        assert len(records) <= limit
        self.check(records, self.positions)
        assert all(each.topic_partition in wanted and each.topic_partition not in gone for each in records)

    @precondition(lambda self: self.consumer is not None)
    @rule(place=st.sampled_from(EVERYTHING), word=st.sampled_from(["", "💙", '{"tries": 2}']))
    def commit(self, place: TopicPartition, word: str) -> None:
        assert self.consumer is not None
        committed = CommittedOffset(self.positions[place], word)
        self.run(self.consumer.commit({place: committed}))
        self.model.committed[place] = committed

    @precondition(lambda self: self.consumer is not None)
    @rule()
    def leave(self) -> None:
        assert self.consumer is not None
        self.run(self.consumer.close())
        self.consumer = None

    @rule(topic=topics, at_end=st.booleans())
    def read(self, topic: str, at_end: bool) -> None:
        if self.reader is not None:
            self.run(self.reader.close())
        self.reader = self.run(self.log.reader(topic, at="end" if at_end else "start"))
        origin = self.model.ends if at_end else self.model.starts
        self.reader_positions = {each: origin[each] for each in EVERYTHING if each.topic == topic}

    @precondition(lambda self: self.reader is not None)
    @rule(limit=limits)
    def poll_reader(self, limit: int) -> None:
        assert self.reader is not None
        expected = any(self.model.after(*each) for each in self.reader_positions.items())
        records = self.run(self.reader.poll(limit, 5 if expected else 0.01))
        assert bool(records) == expected
        assert len(records) <= limit
        self.check(records, self.reader_positions)

    def check(self, records: list[Record], positions: dict[TopicPartition, int]) -> None:
        """Checks that they are the next records of each partition, and moves the positions past them."""
        for place in {each.topic_partition for each in records}:
            mine = [each for each in records if each.topic_partition == place]
            assert mine == self.model.after(place, positions[place])[: len(mine)]
            positions[place] = mine[-1].offset + 1

    @rule()
    def reopen(self) -> None:
        """The process of the first log ends and another starts; its members leave."""
        if self.reader is not None:
            self.run(self.reader.close())
            self.reader = None
        if self.consumer is not None:
            self.leave()
        self.run(self.log.close())
        self.log = self.opened()

    @invariant()
    def ends_and_lag_agree(self) -> None:
        for topic in TOPICS:
            ends = self.run(self.other.end_offsets(topic))
            assert ends == {each.partition: end for each, end in self.model.ends.items() if each.topic == topic}
            lag = self.run(self.log.lag("group", topic))
            for each in EVERYTHING:
                if each.topic == topic:
                    position = self.model.committed.get(each, CommittedOffset(0)).offset
                    assert lag[each.partition] == ends[each.partition] - max(position, self.model.starts[each])


TestLog = LogMachine.TestCase
TestLog.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
