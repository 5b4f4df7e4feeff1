"""Snapshots of the embedded log and vector store, taken while another connection writes."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from backends.log import CommittedOffset, NewRecord, TopicPartition, TopicSpec
from backends.sqlite.log import SqliteLog
from backends.sqlite.log_schema import VERSIONS
from backends.sqlite.snapshots import (
    leave_out_an_offset,
    living_members,
    make_single_file,
    read_records,
    size_of,
    snapshot,
    write_copy,
    write_lock,
)
from backends.sqlite.vectors import VERSIONS as VECTORS_VERSIONS
from backends.sqlite.vectors import SqliteVectors
from backends.vectors import StoredAnswer
from schemas.errors import ConfigurationError, StoreDamaged, Unavailable

TOPIC = TopicSpec("topic", 2)
MANY = list("abcdefgh")  # in both partitions


async def filled(path: Path, keys: list[str]) -> SqliteLog:
    log = SqliteLog(path)
    await log.create_topics([TOPIC, TopicSpec("other", 1)])
    await log.append([NewRecord("topic", key, key.encode()) for key in keys])
    return log


def keys(path: Path, topic: str = "topic", *, group: str = "") -> list[str]:
    return sorted(it.key for it in read_records(path, topic, group=group))


def files(folder: Path) -> set[str]:
    return {it.name for it in folder.iterdir()}


async def test_a_copy_has_what_was_there_when_the_snapshot_began(tmp_path: Path) -> None:
    log = await filled(tmp_path / "log.db", ["a", "b"])
    with snapshot(tmp_path / "log.db", VERSIONS) as source:
        for number in range(50):
            await log.append([NewRecord("topic", f"later-{number}", bytes(100_000))])
        written: list[int] = []
        write_copy(source, tmp_path / "copy.db", written.append)
        assert sum(written) == size_of(source) == (tmp_path / "copy.db").stat().st_size
    assert keys(tmp_path / "copy.db") == ["a", "b"]
    assert {it for it in files(tmp_path) if it.startswith("copy")} == {"copy.db"}
    await log.close()


async def test_a_write_lock_holds_back_writers_and_snapshots_begin_meanwhile(tmp_path: Path) -> None:
    log = await filled(tmp_path / "log.db", ["a"])
    with write_lock(tmp_path / "log.db"):
        appending = asyncio.create_task(log.append([NewRecord("topic", "b", b"")]))
        await asyncio.sleep(0.1)
        assert not appending.done()
        with snapshot(tmp_path / "log.db", VERSIONS) as source:
            assert source.execute("SELECT COUNT(*) FROM records").fetchone() == (1,)
    await appending
    await log.close()


async def test_records_are_read_without_changing_the_file(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = await filled(path, MANY)
    consumer = await log.consumer("group", ["topic"], member="me")
    while not consumer.assignment:
        await consumer.poll(1, 0.1)
    assert living_members(path) == ["me"]
    end = (await log.end_offsets("topic"))[0]
    await consumer.commit({TopicPartition("topic", 0): CommittedOffset(end)})
    await consumer.close()
    await log.close()
    make_single_file(path)
    path.chmod(0o400)
    before = path.read_bytes()
    in_order = list(read_records(path, "topic"))
    assert {it.key: it.value for it in in_order} == {it: it.encode() for it in MANY}
    assert {it.partition for it in in_order} == {0, 1}
    assert [(it.partition, it.offset) for it in in_order] == sorted((it.partition, it.offset) for it in in_order)
    assert keys(path, group="group") == sorted(it.key for it in in_order if it.partition == 1)
    assert keys(path, "nothing") == []
    assert living_members(path) == []
    assert path.read_bytes() == before
    assert files(tmp_path) == {"log.db"}


async def test_an_offset_that_is_left_out_has_no_record(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = await filled(path, MANY)
    before = await log.end_offsets("topic")
    await log.close()
    leave_out_an_offset(path, "topic")
    log = await filled(path, MANY)
    offsets = {it.offset for it in read_records(path, "topic") if it.partition == 0}
    assert before[0] > 0
    assert offsets == set(range(2 * before[0] + 1)) - {before[0]}
    assert (await log.end_offsets("other"))[0] == 0
    consumer = await log.consumer("group", ["topic"], member="me")
    polled: list[str] = []
    while len(polled) < 2 * len(MANY):
        polled += [it.key for it in await consumer.poll(10, 5.0)]
    assert await consumer.poll(10, 0.0) == []
    await consumer.close()
    await log.close()


def test_files_that_are_missing_damaged_or_newer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"log\.db"):
        list(read_records(tmp_path / "log.db", "topic"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "text.db").write_text("this is no database" * 100)
    with pytest.raises(StoreDamaged, match=r"text\.db"):
        list(read_records(tmp_path / "text.db", "topic"))
    with closing(sqlite3.connect(tmp_path / "newer.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigurationError, match="newer version"):
        list(read_records(tmp_path / "newer.db", "topic"))
    with pytest.raises(ConfigurationError, match="newer version"), snapshot(tmp_path / "newer.db", VERSIONS):
        pass


async def test_a_snapshot_does_not_hold_up_the_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Emptying the WAL waits for readers, and other writes wait for that."""
    monkeypatch.setattr("backends.sqlite.connect.BUSY_S", 600.0)
    path = tmp_path / "vectors.db"
    vectors = SqliteVectors(path)
    await vectors.put_answers([StoredAnswer("a", "", 1.0)])
    with snapshot(path, VECTORS_VERSIONS):
        await asyncio.wait_for(vectors.delete_answers(["a"]), 60)
        await asyncio.wait_for(vectors.put_answers([StoredAnswer("b", "", 1.0)]), 60)
    with write_lock(path):  # other writes still wait for a lock as long as before
        writing = asyncio.create_task(vectors.put_answers([StoredAnswer("c", "", 1.0)]))
        await asyncio.sleep(1.0)
        assert not writing.done()
    await writing
    await vectors.close()
