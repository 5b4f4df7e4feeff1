"""Tests specific to the embedded log: crashes, several processes on one file, a full disk, retention, erased bytes.

The promises of every log are tested in tests/contracts/test_log.py.
"""

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from backends.log import (
    CommittedOffset,
    Consumer,
    NewRecord,
    Reader,
    Record,
    TopicPartition,
    TopicSpec,
    fair_shares,
    partition_of,
)
from backends.sqlite.log import SqliteLog
from backends.sqlite.log_writer import LogWriter
from backends.sqlite.threads import GroupWriter, Operation, ReadThread
from schemas.errors import Fenced, InvalidRequest, OffsetGone, StorageFull, Unavailable
from tests.blocking import LoopWatch
from tests.compatibility.recorded import unpack

T = TypeVar("T")

DAY_S = 24 * 3600.0


class Clock:
    """Seconds since the epoch, as a test sets them."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(
    path: Path, *, lease_s: float = 30.0, clock: Callable[[], float] = time.time
) -> AsyncIterator[SqliteLog]:
    log = SqliteLog(path, lease_s=lease_s, clock=clock)
    try:
        yield log
    finally:
        await log.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@contextmanager
def another_process(path: Path, code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Runs `code` with `log` opened on the file, killed at the end. It can `say` a line."""
    program = f"""
import asyncio, sys
from pathlib import Path
from backends.log import *
from backends.sqlite.log import SqliteLog
def say(line): print(line, flush=True)
async def main(log, arguments):
{textwrap.indent(textwrap.dedent(code), "    ")}
asyncio.run(main(SqliteLog(Path(sys.argv[1]), lease_s=float(sys.argv[2])), sys.argv[3:]))
"""
    command = [sys.executable, "-c", program, str(path), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
    try:
        yield process
    finally:
        process.kill()
        assert process.stdout is not None
        process.stdout.close()
        process.wait()


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    """The next lines of the process's output."""
    assert process.stdout is not None
    found = [process.stdout.readline().strip() for _ in range(count)]
    assert all(found), "the process ended"
    return found


def execute(path: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    """Executes SQL in the file, as another process would."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
        return connection.execute(statement, values).fetchall()


async def read_all(log: SqliteLog, topic: str) -> list[Record]:
    reader = await log.reader(topic, at="start")
    records: list[Record] = []
    while more := await reader.poll(1000, 0.1):
        records += more
    await reader.close()
    return records


async def assigned(consumer: Consumer, count: int, patience_s: float = 10.0) -> None:
    deadline = time.monotonic() + patience_s
    while len(consumer.assignment) != count:
        await consumer.poll(1, 0.05, topics=[])
        assert time.monotonic() < deadline, dict(consumer.assignment)


APPENDING = """
    async def one(number):
        while True:
            key = f"{arguments[0]} {number}"
            pair = [NewRecord("events", key, b"x" * 500, "both"), NewRecord("events", f"{key} again", b"x", "both")]
            await log.append(pair)
            say(key)
            number += 20
    await asyncio.gather(*(one(number) for number in range(20)))
"""


async def test_what_was_acknowledged_survives_a_kill(path: Path) -> None:
    async with opened(path) as log:
        await log.create_topics([TopicSpec("events", 8)])
    acknowledged: list[str] = []
    for run in range(3):
        with another_process(path, APPENDING, "30", f"{run}") as process:
            acknowledged += await asyncio.to_thread(lines, process, 300)
            process.send_signal(signal.SIGKILL)
            assert process.stdout is not None
            # Everything that it printed before it was killed was acknowledged; the last line may be incomplete.
            acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
        async with opened(path) as log:
            found = Counter(record.key for record in await read_all(log, "events"))
            assert set(found.values()) == {1}
            assert set(acknowledged) <= found.keys()
            # Of each call both records are there or none, even where the call was not acknowledged.
            assert all(key.startswith("after") or key.removesuffix(" again") + " again" in found for key in found)
            (place,) = await log.append([NewRecord("events", f"after {run}", b"", "both")])
            assert (await log.end_offsets("events"))[place.partition] == len(found) + 1


CONSUMING = """
    consumer = await log.consumer("group", ["events"], member="child")
    while True:
        records = await consumer.poll(10, 1)
        for record in records:
            say(record.key)
        if records and arguments == ["commit"]:
            try:
                await consumer.commit({r.topic_partition: CommittedOffset(r.offset + 1) for r in records})
            except Exception as error:
                assert type(error).__name__ == "Fenced", error
"""


async def test_two_processes_share_a_group(path: Path) -> None:
    async with opened(path, lease_s=1.0) as log:
        await log.create_topics([TopicSpec("events", 8)])
        consumer = await log.consumer("group", ["events"], member="parent")
        await assigned(consumer, 8)
        with another_process(path, CONSUMING, "1", "commit") as child:
            await assigned(consumer, 4)
            for number in range(100):
                await log.append([NewRecord("events", f"{number}", b"")])
            mine: list[str] = []
            while records := await consumer.poll(100, 0.5):
                mine += [record.key for record in records]
                await consumer.commit(
                    {record.topic_partition: CommittedOffset(record.offset + 1) for record in records}
                )
            theirs = await asyncio.to_thread(lines, child, 100 - len(mine))
            assert sorted(mine + theirs, key=int) == [f"{number}" for number in range(100)]
            assert 20 < len(mine) < 80
            deadline = time.monotonic() + 10
            while sum((await log.lag("group", "events")).values()) and time.monotonic() < deadline:
                await consumer.poll(1, 0.05)
        # The child was killed: its lease runs out, and all partitions are the parent's.
        await assigned(consumer, 8)
        assert await consumer.poll(10, 0.2) == []


async def test_uncommitted_records_of_a_killed_member_are_delivered_again(path: Path) -> None:
    async with opened(path, lease_s=0.6) as log:
        await log.create_topics([TopicSpec("events", 8)])
        await log.append([NewRecord("events", f"{number}", b"") for number in range(20)])
        with another_process(path, CONSUMING, "0.6") as child:
            assert len(await asyncio.to_thread(lines, child, 20)) == 20
        consumer = await log.consumer("group", ["events"], member="parent")
        keys: set[str] = set()
        while len(keys) < 20:
            keys |= {record.key for record in await consumer.poll(100, 1)}


async def test_another_process_appends_and_both_see_everything_in_one_order(path: Path) -> None:
    async with opened(path) as log:
        await log.create_topics([TopicSpec("events", 2)])
        reader = await log.reader("events", at="end")
        with another_process(path, APPENDING, "30", "child") as process:
            await asyncio.to_thread(lines, process, 1)
            for number in range(50):
                await log.append([NewRecord("events", f"parent {number}", b"")])
            await asyncio.to_thread(lines, process, 100)
        seen: list[Record] = []
        while records := await reader.poll(1000, 0.5):
            seen += records
        for partition in range(2):
            mine = [record for record in seen if record.partition == partition]
            assert [record.offset for record in mine] == list(range(len(mine)))
            stored = [record for record in await read_all(log, "events") if record.partition == partition]
            assert mine == stored
        assert sum(record.key.startswith("parent") for record in seen) == 50


async def test_a_member_that_joins_under_the_name_of_a_dead_one_replaces_it_at_once(path: Path) -> None:
    """The lease of the killed member has 30 seconds left, and the other member sees no rebalance."""
    async with opened(path) as log:
        await log.create_topics([TopicSpec("events", 8)])
        other = await log.consumer("group", ["events"], member="parent")
        with another_process(path, CONSUMING, "30") as child:
            await assigned(other, 4)
            epoch = other.epoch
            child.kill()
        back = await log.consumer("group", ["events"], member="child")
        began = time.monotonic()
        await assigned(back, 4)
        assert time.monotonic() - began < 20
        await other.poll(1, 0.2)
        assert other.epoch == epoch == back.epoch


async def test_a_member_that_joins_under_the_name_of_another_replaces_it(path: Path) -> None:
    async with opened(path, lease_s=1.5) as log, opened(path, lease_s=1.5) as other:
        await log.create_topics([TopicSpec("events", 1)])
        await log.append([NewRecord("events", "a", b"")])
        first = await log.consumer("group", ["events"], member="one")
        await assigned(first, 1)
        second = await other.consumer("group", ["events"], member="one")
        with pytest.raises(Fenced):
            await first.commit({TopicPartition("events", 0): CommittedOffset(1)})
        with pytest.raises(Fenced, match="a name of its own"):
            await asyncio.wait_for(poll_on(first), 30)  # with its next heartbeat it knows
        await assigned(second, 1)
        await asyncio.sleep(2)  # the first one does not take its partition back
        await second.commit({TopicPartition("events", 0): CommittedOffset(1)})


async def poll_on(consumer: Consumer) -> None:
    while True:
        await consumer.poll(1, 0.1, topics=[])


async def test_the_lease_does_not_depend_on_polls(path: Path) -> None:
    async with opened(path, lease_s=1.5) as log, opened(path, lease_s=1.5) as other:
        await log.create_topics([TopicSpec("events", 2)])
        busy = await log.consumer("group", ["events"], member="busy")
        polling = await other.consumer("group", ["events"], member="polling")
        await assigned(polling, 1)
        await assigned(busy, 1)
        for _ in range(20):
            await polling.poll(1, 0.1)
        assert len(polling.assignment) == 1
        await busy.commit({each: CommittedOffset(0) for each in busy.assignment})


async def test_a_member_whose_lease_has_ended_joins_again(path: Path) -> None:
    """As after the machine was suspended: the member's row has been removed, so its commit is fenced. Its next polls
    join again.
    """
    async with opened(path, lease_s=0.4) as log:
        await log.create_topics([TopicSpec("events", 2)])
        still = await log.consumer("group", ["events"], member="still")
        await assigned(still, 2)
        execute(path, "DELETE FROM members")
        with pytest.raises(Fenced):
            await still.commit({TopicPartition("events", 0): CommittedOffset(0)})
        epoch = still.epoch
        while still.epoch == epoch:
            await still.poll(1, 0.1)
        await assigned(still, 2)
        await still.commit({TopicPartition("events", 0): CommittedOffset(0)})


async def test_a_lease_that_was_written_before_the_clock_was_set_back_ends(path: Path) -> None:
    clock = Clock()
    async with opened(path, lease_s=0.4, clock=clock) as log:
        await log.create_topics([TopicSpec("events", 2)])
        lease_until = int((clock.now + 3600) * 1000)
        execute(path, "INSERT INTO members VALUES ('group', 'dead', 'session', '[\"events\"]', ?)", lease_until)
        await assigned(await log.consumer("group", ["events"], member="one"), 2)


async def test_a_commit_with_too_much_metadata_is_refused(path: Path) -> None:
    async with opened(path) as log:
        await log.create_topics([TopicSpec("events", 1)])
        consumer = await log.consumer("group", ["events"], member="one")
        await assigned(consumer, 1)
        with pytest.raises(InvalidRequest):
            await consumer.commit({TopicPartition("events", 0): CommittedOffset(0, "x" * 4001)})


async def test_a_waiting_poll_ends_with_the_log(path: Path) -> None:
    async with opened(path) as log:
        await log.create_topics([TopicSpec("events", 1)])
        consumer = await log.consumer("group", ["events"], member="one")
        await assigned(consumer, 1)
        poll = asyncio.create_task(consumer.poll(1, 60))
        await asyncio.sleep(0.05)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(poll, 5)


async def test_a_record_that_is_appended_while_a_poll_reads_from_disk_ends_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    async with opened(path, clock=clock) as log:
        await log.create_topics([TopicSpec("changes", 1, compacted=True)])
        await log.append([NewRecord("changes", "a", None)])
        clock.now += DAY_S + 1
        await log.enforce_retention()
        # The poll finds only a gap and has to wait. Just before it does, a record is appended.
        reader = await log.reader("changes", at="start")
        run = ReadThread.run

        async def slow(reads: ReadThread, read: Operation[T]) -> T:
            result = await run(reads, read)
            monkeypatch.undo()
            await log.append([NewRecord("changes", "b", b"")])
            return result

        monkeypatch.setattr(ReadThread, "run", slow)
        assert [record.key for record in await asyncio.wait_for(reader.poll(10, 3600), 30)] == ["b"]


@pytest.mark.parametrize(
    ("available", "limit", "shares"),
    [
        ([1000, 5, 1000], 30, [13, 5, 12]),
        ([1000, 1000], 1, [1, 0]),
        ([2, 1], 100, [2, 1]),
        ([3, 3, 3], 0, [0, 0, 0]),
        ([], 10, []),
        ([0, 7], 3, [0, 3]),
    ],
)
def test_fair_shares_divides_the_limit_equally(available: list[int], limit: int, shares: list[int]) -> None:
    assert fair_shares(available, limit) == shares


async def test_a_bad_operation_does_not_fail_those_in_the_same_transaction(path: Path) -> None:
    writer = GroupWriter(path, ["CREATE TABLE numbers (number INTEGER);"], name="test-writer")
    bad = writer.run(lambda connection: connection.execute("SELECT * FROM nowhere"))

    def insert(number: int) -> Operation[int]:
        return lambda connection: connection.execute("INSERT INTO numbers VALUES (?)", (number,)).rowcount

    good = [writer.run(insert(number)) for number in range(5)]
    outcome, *counts = await asyncio.gather(bad, *good, return_exceptions=True)
    await writer.close()
    assert "nowhere" in str(outcome)
    assert counts == [1] * 5
    assert execute(path, "SELECT number FROM numbers") == [(number,) for number in range(5)]


# A full disk.


class Disk:
    """A disk of 4 MB where a test may mount one, elsewhere SQLite's own limit of a file's size."""

    def __init__(self, folder: Path, mounted: bool) -> None:
        self.folder = folder
        self.mounted = mounted
        self.writers: list[LogWriter] = []  # of the logs that were opened
        self._filler = folder / "filler"

    async def fill(self) -> None:
        if self.mounted:
            with self._filler.open("wb", buffering=0) as filler, suppress(OSError):
                while True:
                    filler.write(bytes(4096))
        else:
            await self.limit_pages(1)

    async def free(self) -> None:
        if self.mounted:
            self._filler.unlink()
        else:
            await self.limit_pages(100_000)

    async def limit_pages(self, pages: int) -> None:
        for writer in self.writers:
            await writer.run(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}").fetchone())


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
        == 0
    )
    disk = Disk(folder, mounted)

    class Writer(LogWriter):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            disk.writers.append(self)

    monkeypatch.setattr("backends.sqlite.log.LogWriter", Writer)
    try:
        yield disk
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


async def until_full(attempt: Callable[[], Awaitable[object]]) -> int:
    """How often the attempt succeeded before StorageFull."""
    for count in range(10_000):
        try:
            await attempt()
        except StorageFull:
            return count
    raise AssertionError("the disk never was full")


async def test_a_full_disk_refuses_and_recovers(disk: Disk) -> None:
    async with opened(disk.folder / "log.db") as log:
        await log.create_topics([TopicSpec("events", 2)])
        consumer = await log.consumer("group", ["events"], member="one")
        await assigned(consumer, 2)
        await log.append([NewRecord("events", "before", b"x" * 1000)])
        await disk.fill()
        written = await until_full(lambda: log.append([NewRecord("events", "big", bytes(300_000))] * 2))
        # Records of one call are there all or not at all.
        assert sum((await log.end_offsets("events")).values()) == 1 + 2 * written
        many = [log.append([NewRecord("events", "big", bytes(300_000))]) for _ in range(5)]
        assert all(isinstance(each, StorageFull) for each in await asyncio.gather(*many, return_exceptions=True))
        assert sum((await log.end_offsets("events")).values()) == 1 + 2 * written
        await disk.free()
        await log.append([NewRecord("events", "after", b"x" * 1000)])
        keys = [record.key for record in await read_all(log, "events")]
        assert sorted(keys) == sorted(["before", *["big"] * 2 * written, "after"])
        await consumer.commit({TopicPartition("events", 0): CommittedOffset(1)})


async def test_a_small_record_is_appended_beside_one_that_is_too_large(disk: Disk) -> None:
    async with opened(disk.folder / "log.db") as log:
        await log.create_topics([TopicSpec("events", 1)])
        attempts = [
            log.append([NewRecord("events", "big", bytes(7_900_000))]),
            log.append([NewRecord("events", "small", b"x")]),
        ]
        if not disk.mounted:
            await disk.limit_pages(100)
        big, small = await asyncio.gather(*attempts, return_exceptions=True)
        assert isinstance(big, StorageFull)
        assert small == [TopicPartition("events", 0)]
        assert [(record.key, record.offset) for record in await read_all(log, "events")] == [("small", 0)]


async def test_a_log_can_be_opened_once_a_full_disk_has_room(disk: Disk) -> None:
    async with opened(disk.folder / "log.db") as log:
        if disk.mounted:
            await disk.fill()
            with pytest.raises((StorageFull, Unavailable)):
                await log.create_topics([TopicSpec("events", 1)])
            await disk.free()
        await log.create_topics([TopicSpec("events", 1)])
        await log.append([NewRecord("events", "a", b"")])


# Time, retention, compaction.


async def test_times_never_go_backwards(path: Path) -> None:
    clock = Clock()
    async with opened(path, clock=clock) as log, opened(path, clock=clock) as other:
        await log.create_topics([TopicSpec("events", 1)])
        for writer, now in [(log, 1000.0), (log, 900.0), (other, 500.0), (other, 1001.5), (log, 1001.0)]:
            clock.now = now
            await writer.append([NewRecord("events", "a", b"")])
        assert [record.timestamp for record in await read_all(log, "events")] == [1_000_000] * 3 + [1_001_500] * 2
    clock.now = 1.0
    async with opened(path, clock=clock) as log:
        await log.append([NewRecord("events", "a", b"")])
        assert [record.timestamp for record in await read_all(log, "events")][-1] == 1_001_500


async def test_retention_deletes_what_is_old_and_leaves_the_offsets(path: Path) -> None:
    clock = Clock()
    async with opened(path, clock=clock) as log:
        await log.create_topics([TopicSpec("events", 2, retention_s=60.0), TopicSpec("forever", 1)])
        for number in range(0, 1200, 10):
            clock.now += 1
            keys = [f"{each}" for each in range(number, number + 10)]
            await log.append([NewRecord(name, key, b"x") for key in keys for name in ("events", "forever")])
        ends = await log.end_offsets("events")
        await log.enforce_retention()
        assert [int(record.key) for record in await read_all(log, "forever")] == list(range(1200))
        kept = await read_all(log, "events")
        assert sorted(int(record.key) for record in kept) == list(range(590, 1200))
        assert await log.end_offsets("events") == ends
        assert sum((await log.lag("group", "events")).values()) == len(kept)
        clock.now += 1000
        await log.enforce_retention()
        assert await read_all(log, "events") == []
        (place,) = await log.append([NewRecord("events", "next", b"x")])
        (record,) = await read_all(log, "events")
        assert record.offset == ends[place.partition]


async def test_a_committed_offset_that_was_deleted_stops_the_group(path: Path) -> None:
    clock = Clock()
    async with opened(path, clock=clock) as log:
        await log.create_topics([TopicSpec("events", 1, retention_s=60.0)])
        await log.append([NewRecord("events", f"{number}", b"") for number in range(10)])
        clock.now += 100
        await log.append([NewRecord("events", "young", b"")])
        await log.enforce_retention()
        consumer = await log.consumer("group", ["events"], member="one")
        await assigned(consumer, 1)
        await consumer.commit({TopicPartition("events", 0): CommittedOffset(4)})
        await consumer.close()
        consumer = await log.consumer("group", ["events"], member="one")
        await assigned(consumer, 1)
        assert consumer.assignment[TopicPartition("events", 0)].offset == 4
        for _ in range(2):
            with pytest.raises(OffsetGone, match="offset 4"):
                await consumer.poll(10, 1)
        # What the message advises. A group without a commit starts at the earliest record.
        await consumer.commit({TopicPartition("events", 0): CommittedOffset(10)})
        await consumer.close()
        for group in ("group", "new group"):
            consumer = await log.consumer(group, ["events"], member="one")
            await assigned(consumer, 1)
            assert [record.key for record in await consumer.poll(10, 1)] == ["young"]


async def test_what_a_group_has_not_committed_is_kept_however_old_it_seems(path: Path) -> None:
    """A clock may be wrong for a moment. Of several groups the slowest counts, and in other partitions none."""
    clock = Clock()
    async with opened(path, clock=clock) as log:
        await log.create_topics([TopicSpec("events", 1, retention_s=60.0), TopicSpec("others", 1, retention_s=60.0)])
        for topic in ("events", "others"):
            await log.append([NewRecord(topic, f"{number}", b"") for number in range(10)])
        for group, offset in (("fast", 9), ("slow", 4)):
            consumer = await log.consumer(group, ["events"], member="one")
            await assigned(consumer, 1)
            await consumer.commit({TopicPartition("events", 0): CommittedOffset(offset)})
        clock.now += 400 * 86_400
        await log.enforce_retention()
        assert [record.offset for record in await read_all(log, "events")] == list(range(4, 10))
        assert await read_all(log, "others") == []
        assert await log.lag("slow", "events") == {0: 6}
        await consumer.commit({TopicPartition("events", 0): CommittedOffset(10)})
        await log.enforce_retention()
        assert [record.offset for record in await read_all(log, "events")] == [9]


async def test_deleting_records_below_the_committed_offset_loses_nothing(path: Path) -> None:
    clock = Clock()
    async with opened(path, clock=clock) as log:
        await log.create_topics([TopicSpec("events", 1, retention_s=60.0)])
        await log.append([NewRecord("events", "a", b"")])
        consumer = await log.consumer("group", ["events"], member="one")
        await assigned(consumer, 1)
        assert len(await consumer.poll(10, 1)) == 1
        await consumer.commit({TopicPartition("events", 0): CommittedOffset(1)})
        clock.now += 100
        await log.enforce_retention()
        assert await consumer.poll(10, 0.05) == []
        await log.append([NewRecord("events", "b", b"")])
        assert [record.offset for record in await consumer.poll(10, 1)] == [1]


async def test_compaction_keeps_the_last_of_each_key_and_tombstones_for_a_day(path: Path) -> None:
    clock = Clock()
    async with opened(path, clock=clock) as log:
        await log.create_topics([TopicSpec("changes", 2, compacted=True)])
        for start in range(0, 1500, 100):
            numbers = range(start, start + 100)
            await log.append([NewRecord("changes", f"{each % 7}", f"{each}".encode(), "one") for each in numbers])
        await log.append([NewRecord("changes", "3", None, "one")])
        # The same key in another partition is another key.
        elsewhere = next(f"{n}" for n in range(9) if partition_of(f"{n}", 2) != partition_of("one", 2))
        await log.append([NewRecord("changes", "4", b"other", elsewhere)])
        await log.enforce_retention()
        last = {f"{number % 7}": number for number in range(1500)} | {"3": 1500}
        mine = [record for record in await read_all(log, "changes") if record.value != b"other"]
        assert {record.key: record.offset for record in mine} == last
        assert len(mine) == 7
        clock.now += DAY_S - 1
        await log.enforce_retention()
        assert [record.offset for record in await read_all(log, "changes") if record.value is None] == [1500]
        clock.now += 2
        await log.append([NewRecord("changes", "5", b"new", "one")])
        await log.enforce_retention()
        left = {record.key: record.value for record in await read_all(log, "changes") if record.value != b"other"}
        assert sorted(left) == ["0", "1", "2", "4", "5", "6"]
        assert left["5"] == b"new"
        assert len(await read_all(log, "changes")) == 7
        # A key that comes back after its tombstone went.
        await log.append([NewRecord("changes", "3", b"back", "one")])
        await log.enforce_retention()
        assert len(await read_all(log, "changes")) == 8


async def test_a_group_skips_the_gaps_of_compaction(path: Path) -> None:
    async with opened(path) as log:
        await log.create_topics([TopicSpec("changes", 1, compacted=True)])
        consumer = await log.consumer("group", ["changes"], member="one")
        await assigned(consumer, 1)
        await log.append([NewRecord("changes", "a", f"{number}".encode()) for number in range(50)])
        await log.append([NewRecord("changes", "b", b"")])
        await consumer.commit({TopicPartition("changes", 0): CommittedOffset(10)})
        await log.enforce_retention()
        await consumer.close()
        consumer = await log.consumer("group", ["changes"], member="one")
        await assigned(consumer, 1)
        assert [record.offset for record in await consumer.poll(10, 1)] == [49, 50]
        assert await consumer.poll(10, 0.05) == []


async def test_appends_go_on_while_much_is_deleted(path: Path) -> None:
    clock = Clock()
    async with opened(path, clock=clock) as log:
        await log.create_topics([TopicSpec("events", 4, retention_s=60.0)])
        await log.append([NewRecord("events", f"{number}", bytes(20_000)) for number in range(1000)])
        clock.now += 100
        enforcing = asyncio.create_task(log.enforce_retention())
        appended = 0
        while not enforcing.done():
            await log.append([NewRecord("events", "young", b"")])
            appended += 1
        await enforcing
        assert appended > 5
        assert [record.key for record in await read_all(log, "events")] == ["young"] * appended


async def test_what_was_deleted_is_not_in_the_files(path: Path) -> None:
    clock = Clock()
    secret = b"a face that was erased"
    async with opened(path, clock=clock) as log:
        await log.create_topics([TopicSpec("events", 1, retention_s=60.0), TopicSpec("changes", 1, compacted=True)])
        await log.append([NewRecord("events", f"{number}", secret + bytes(3000)) for number in range(50)])
        await log.append([NewRecord("changes", "a", secret), NewRecord("changes", "a", None)])

        def found() -> list[str]:
            return [file.name for file in path.parent.iterdir() if secret in file.read_bytes()]

        assert found()
        clock.now += 100
        await log.append([NewRecord("events", "young", b"")])
        await log.enforce_retention()
        assert found() == []


async def test_nothing_blocks_the_event_loop(path: Path) -> None:
    """Thousands of appends, a backlog read from disk and retention run while the loop stays responsive."""
    async with opened(path) as log:
        await log.create_topics([TopicSpec("events", 64, retention_s=0.001)])
        async with LoopWatch() as watch:
            for _ in range(20):
                await log.append([NewRecord("events", f"{number}", bytes(10_000)) for number in range(100)])
            async with opened(path) as other:  # it has none of the records in memory
                assert len(await read_all(other, "events")) >= 2000
            await log.enforce_retention()
    assert watch.longest_s < 0.05


def test_opening_a_log_creates_no_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log.db"
    log = SqliteLog(path)
    assert repr(log) == f"SqliteLog('{path}')"
    assert not path.parent.exists()
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(log.close())
    assert os.listdir(tmp_path) == []


async def test_a_file_of_an_older_version_gets_headers(tmp_path: Path) -> None:
    """Processes of both versions may work on it at once."""
    unpack("0.1.0", tmp_path)
    path = tmp_path / "log.db"
    assert ("headers",) not in execute(path, "SELECT name FROM pragma_table_info('records')")
    before = execute(path, "SELECT COUNT(*) FROM records")
    topic, headers = "dead-letters", (("a", None), ("a", b"\xff"))
    async with opened(path) as one, opened(path) as two:
        start = sum((await one.end_offsets(topic)).values())
        await asyncio.gather(*(log.append([NewRecord(topic, "a", b"", headers=headers)]) for log in (one, two)))
    (last,) = execute(path, "SELECT MAX(id) FROM records")[0]
    assert isinstance(last, int)
    execute(path, "DELETE FROM records WHERE id = ?", last)
    execute(path, "INSERT INTO records (id, timestamp, key, value) VALUES (?, 1, 'a', x'')", last)  # of the older one
    assert execute(path, "SELECT COUNT(*) FROM records")[0] == (before[0][0] + 2,)  # type: ignore[operator]
    async with opened(path) as log:
        records = await read_all(log, topic)
    assert len(records) == start + 2
    assert sorted(it.headers for it in records) == [()] * (start + 1) + [headers]


async def test_a_reader_keeps_up_with_appends_of_all_sizes(path: Path) -> None:
    """Records in memory, records that fell out of memory, and polls that end early because of their bytes."""
    async with opened(path) as log:
        await log.create_topics([TopicSpec("events", 3)])
        reader: Reader = await log.reader("events", at="start")
        await log.append([NewRecord("events", f"{number}", bytes(4_000_000 * (number % 2))) for number in range(24)])
        seen: list[str] = []
        while records := await reader.poll(100, 0.2):
            assert sum(len(record.value or b"") for record in records) <= 36_000_000
            seen += [record.key for record in records]
        assert sorted(seen, key=int) == [f"{number}" for number in range(24)]
