"""The batches of fetched partitions: every codec is read, and at a batch that cannot be read its partition ends."""

import struct
from collections.abc import Sequence
from typing import Any

import cramjam
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from backends.kafka import batches
from backends.kafka.batches import any_compressed, readable_batches
from backends.log import UnreadableBatch

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
APPENDED_AT = 1_700_000_000_000
ATTRIBUTES, HEADER_BYTES = 22, 61  # positions in a batch; the codec is in the lower byte of the attributes


def batch(base: int, values: Sequence[bytes], *, codec: str = "none", header: str = "h") -> bytes:
    """A batch of records with these values, as a producer makes it and a server stores it."""
    builder = DefaultRecordBatchBuilder(2, CODECS[codec], False, -1, -1, -1, 1 << 20)
    for number, value in enumerate(values):
        builder.append(number, APPENDED_AT, b"key", value, [(header, b"beside")])
    made = bytearray(builder.build())
    struct.pack_into(">q", made, 0, base)
    assert made[ATTRIBUTES] & 7 == CODECS[codec]
    return bytes(made)


def changed(of: bytes, *, length: int | None = None, format_: int = 2, codec: int | None = None) -> bytes:
    """The batch with another length, format or codec, and the right checksum."""
    made = bytearray(of if length is None else of[:length])
    struct.pack_into(">i", made, 8, len(made) - 12)
    made[16] = format_
    if codec is not None:
        made[ATTRIBUTES] = codec
    struct.pack_into(">I", made, 17, calc_crc32c(bytes(made[21:])))
    return bytes(made)


def partition(number: int, data: bytes | None) -> tuple[Any, ...]:
    return (number, 0, 100, 100, 0, [], data)


def read(data: bytes, fetch_offset: int = 0) -> tuple[list[tuple[int, bytes]], UnreadableBatch | None]:
    """Offsets and values as aiokafka reads them from one partition, and the batch that cannot be read."""
    [(_, [answered])], ends, unreadable = readable_batches([("t", [partition(0, data)])], {("t", 0): fetch_offset})
    assert answered[:-1] == partition(0, data)[:-1]
    assert not any_compressed([("t", [answered])])
    records = MemoryRecords(answered[-1])
    found: list[tuple[int, bytes]] = []
    while records.has_next():
        found += [(record.offset, record.value) for record in records.next_batch()]
    assert ends == ({("t", 0): found[-1][0] + 1} if found else {})
    if not unreadable:
        return found, None
    ((position, unread),) = unreadable.values()
    assert position == (found[-1][0] + 1 if found else fetch_offset)
    return found, unread


def cause_of(data: bytes) -> str:
    found, unreadable = read(batch(5, [b"before"]) + data + batch(100, [b"after"]), 5)
    assert found == [(5, b"before")]
    assert unreadable is not None
    assert (unreadable.first, unreadable.last) == (7, 8)
    assert f"offsets 7 to 8 cannot be read: {unreadable.cause}" in str(unreadable)
    return unreadable.cause


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_is_read(codec: str) -> None:
    values = [b"a" * 1_000, b"b" * 100_000, b""]
    data = batch(5, values, codec=codec)
    assert any_compressed([("t", [partition(0, data)])]) == (codec != "none")
    assert read(data, 6) == (list(zip((5, 6, 7), values, strict=True)), None)


def test_snappy_is_read_with_and_without_xerials_blocks() -> None:
    values = [b"a" * 40_000, b"b" * 40_000]
    plain, blocks = batch(5, values), batch(5, values, codec="snappy")
    assert blocks[HEADER_BYTES : HEADER_BYTES + 7] == b"\x82SNAPPY"
    one_block = plain[:HEADER_BYTES] + bytes(cramjam.snappy.compress_raw(plain[HEADER_BYTES:]))
    for data in (blocks, changed(one_block, codec=CODECS["snappy"])):
        assert read(data, 5) == ([(5, values[0]), (6, values[1])], None)


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_a_batch_larger_than_the_limit_when_decompressed_cannot_be_read(
    codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = batch(7, [b"a" * 400, b"b" * 400], codec=codec)
    monkeypatch.setattr(batches, "LARGEST_DECOMPRESSED", 700)
    assert f"{codec} data is broken, or larger than 700 bytes" in cause_of(data)
    monkeypatch.setattr(batches, "LARGEST_DECOMPRESSED", 900)
    assert read(data, 7)[1] is None


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_a_batch_whose_compressed_data_is_broken_cannot_be_read(codec: str) -> None:
    data = batch(7, [b"a" * 400, b"b" * 400], codec=codec)
    assert f"{codec} data is broken" in cause_of(changed(data, length=len(data) - 3))


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_a_record_larger_than_the_limit_cannot_be_read(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "LARGEST_FETCHED_RECORD", 500)
    data = batch(7, [b"a" * 400, b"b" * 500], codec=codec)
    assert "record 8 has 510 bytes" in cause_of(data)


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_a_batch_of_too_many_records_cannot_be_read(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = batch(7, [b"one", b"two"], codec=codec)
    monkeypatch.setattr(batches, "MOST_RECORDS", 2)
    assert read(data, 7)[1] is None
    monkeypatch.setattr(batches, "MOST_RECORDS", 1)
    assert "it has 2 records: at most 1 " in cause_of(data)


def test_damaged_and_unknown_batches_cannot_be_read() -> None:
    data = batch(7, [b"one", b"two"])
    assert "checksum" in cause_of(data[:-4] + b"!" + data[-3:])
    assert "codec, 5, is unknown" in cause_of(changed(data, codec=5))
    assert "message format 1" in cause_of(changed(data, format_=1))
    assert "records are broken" in cause_of(changed(data, length=len(data) - 3))
    damaged_name = batch(7, [b"one", b"two"], header="name").replace(b"name", b"n\xff\xffe")
    assert "records are broken" in cause_of(changed(damaged_name))


def test_a_batch_that_is_cut_off_is_left_for_the_next_request_unless_it_is_the_first() -> None:
    first, second = batch(5, [b"one"]), batch(6, [b"two"])
    assert read(first + second[:-1], 5) == ([(5, b"one")], None)
    found, unreadable = read(second[:-1], 6)
    assert found == []
    assert unreadable is not None
    assert (unreadable.first, unreadable.last, unreadable.cause) == (6, 6, "it is not complete")
    assert read(b"", 6) == ([], None)


def test_a_batch_that_was_begun_cannot_be_read_from_the_requested_offset_on() -> None:
    data = changed(batch(7, [b"one", b"two", b"three"]), codec=6)
    assert read(data, 8)[1] == UnreadableBatch(8, 9, "its codec, 6, is unknown")
    # Compaction and transactions leave gaps before a batch.
    assert read(data, 4)[1] == UnreadableBatch(7, 9, "its codec, 6, is unknown")


def test_other_partitions_are_read_and_what_has_no_room_is_left_for_the_next_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "LARGEST_DECOMPRESSED", 1_000)
    compressed = batch(0, [b"a" * 900], codec="zstd")
    bad = changed(batch(0, [b"one"]), codec=7)
    topics = [
        ("t", [partition(0, bad), partition(1, compressed + batch(1, [b"b" * 900], codec="zstd"))]),
        ("u", [partition(0, compressed), partition(1, None)]),
    ]
    offsets = {("t", 0): 0, ("t", 1): 0, ("u", 0): 0, ("u", 1): 0}
    readable, ends, unreadable = readable_batches(topics, offsets)
    assert ends == {("t", 1): 2}
    assert unreadable.keys() == {("t", 0)}
    lengths = {(topic, answered[0]): len(answered[-1]) for topic, parts in readable for answered in parts}
    assert lengths[("t", 0)] == lengths[("u", 0)] == lengths[("u", 1)] == 0
    assert 1_800 < lengths[("t", 1)] < 2_000
    # What was left out comes when it is asked for alone.
    [(_, [alone, _])], *_ = readable_batches(topics[1:], offsets)
    assert len(alone[-1]) > 900
