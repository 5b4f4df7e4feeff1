"""Checks the record batches of fetched partitions (Kafka's message format 2), and decompresses them within limits.

aiokafka alone decompresses in the event loop, without limits, and stops for ever at a batch that it cannot read, before
the readable records of the same answer. fetch_sessions.py passes what the servers have answered through here first, so
that aiokafka gets only readable, uncompressed batches.
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cramjam
import numpy as np
from aiokafka.errors import KafkaError
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.util import calc_crc32c

from backends.kafka.connect import LARGEST_BATCH
from backends.log import LARGEST_RECORD, UnreadableBatch

# Bytes: of one batch, and of all compressed batches of one answer, but for the last of them.
LARGEST_DECOMPRESSED = 64 << 20
# Each record takes memory of its own. A batch of the largest size with our events has a few thousand.
MOST_RECORDS = 100_000
# Bytes of key, value and headers: what a server accepts without compression.
LARGEST_FETCHED_RECORD = LARGEST_BATCH

HEADER = struct.Struct(">qiibIhiqqqhii")
BEFORE_LENGTH, UP_TO_LENGTH, UP_TO_CRC = 8, 12, 21  # bytes
FORMAT = 2
CODEC_MASK = 0b111
# Java's snappy library writes this, two numbers, and blocks with their sizes. Others write one block without its size.
XERIAL_MAGIC, XERIAL_HEADER_BYTES = b"\x82SNAPPY\0", 16

Partition = tuple[str, int]
# As aiokafka decodes an answer: topics with their partitions. A partition is (number, error code, ..., batches).
Topics = Sequence[tuple[str, Sequence[tuple[Any, ...]]]]


class _Header(NamedTuple):
    base_offset: int
    length: int
    leader_epoch: int
    format: int
    crc: int
    attributes: int
    last_offset_delta: int
    first_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    records: int

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta

    @classmethod
    def of(cls, batch: memoryview) -> "_Header":
        return cls(*HEADER.unpack_from(batch))


class ReadableBatches(NamedTuple):
    """The checked answer of a fetch. topics: with the readable batches of each partition, decompressed, up to the first
    that cannot be read; ends: the offset after these, for the partitions that have any; unreadable: those that cannot
    be read, each with the offset after what is before it.
    """

    topics: Topics
    ends: dict[Partition, int]
    unreadable: dict[Partition, tuple[int, UnreadableBatch]]


class _CannotBeRead(Exception):
    """Its message is the cause."""


def any_compressed(topics: Topics) -> bool:
    """Whether `readable_batches` has to decompress something, which takes time."""
    return any(
        _Header.of(batch).attributes & CODEC_MASK
        for _, partitions in topics
        for partition in partitions
        for batch in _split(memoryview(partition[-1] or b""))
    )


def readable_batches(topics: Topics, fetch_offsets: Mapping[Partition, int]) -> ReadableBatches:
    """Checks and decompresses an answer. Batches for which there is no room are left out: they are fetched again."""
    readable: list[tuple[str, list[tuple[Any, ...]]]] = []
    ends: dict[Partition, int] = {}
    unreadable: dict[Partition, tuple[int, UnreadableBatch]] = {}
    room = LARGEST_DECOMPRESSED
    for topic, partitions in topics:
        of_topic: list[tuple[Any, ...]] = []
        for partition in partitions:
            at, data = (topic, partition[0]), memoryview(partition[-1] or b"")
            position = fetch_offsets[at]
            batches: list[bytes | memoryview] = []
            for batch in _split(data):
                if room <= 0:
                    break
                try:
                    plain = _check_and_decompress(batch)
                except _CannotBeRead as cause:
                    unreadable[at] = position, _unreadable(batch, position, cause)
                    break
                batches.append(plain)
                position = _Header.of(batch).last_offset + 1
                room -= len(plain) if plain is not batch else 0
            if data and next(_split(data), None) is None:
                unreadable[at] = position, UnreadableBatch(position, position, "it is not complete")
            if batches:
                ends[at] = position
            of_topic.append((*partition[:-1], b"".join(batches)))
        readable.append((topic, of_topic))
    return ReadableBatches(readable, ends, unreadable)


def _split(data: memoryview) -> Iterator[memoryview]:
    """The complete batches. A server cuts off the last one where it has sent enough."""
    while len(data) >= HEADER.size:
        (length,) = struct.unpack_from(">i", data, BEFORE_LENGTH)
        end = UP_TO_LENGTH + length
        if not HEADER.size <= end <= len(data):
            return
        yield data[:end]
        data = data[end:]


def _unreadable(batch: memoryview, position: int, cause: _CannotBeRead) -> UnreadableBatch:
    header = _Header.of(batch)
    first, last = max(header.base_offset, position), max(header.last_offset, position)
    return UnreadableBatch(first, last, str(cause))


def _check_and_decompress(batch: memoryview) -> bytes | memoryview:
    """The batch, uncompressed. The checksum of one that was compressed is no longer right."""
    header = _Header.of(batch)
    if header.format != FORMAT:
        raise _CannotBeRead(f"it has the message format {header.format}, not {FORMAT}")
    if calc_crc32c(batch[UP_TO_CRC:]) != header.crc:
        raise _CannotBeRead("its checksum is wrong: it was damaged")
    if header.records > MOST_RECORDS:
        raise _CannotBeRead(f"it has {header.records:,} records: at most {MOST_RECORDS:,} are read")
    codec = header.attributes & CODEC_MASK
    plain: bytes | memoryview = batch
    if codec:
        records = _decompress(codec, batch[HEADER.size :])
        length = HEADER.size - UP_TO_LENGTH + len(records)
        plain = HEADER.pack(*header._replace(length=length, attributes=header.attributes & ~CODEC_MASK)) + records
    _check_records(plain)
    return plain


def _decompress(codec: int, data: memoryview) -> bytes:
    """Decompresses into a buffer of the size of the limit. Memory is taken only for what is written into it."""
    if codec not in DECOMPRESSORS:
        raise _CannotBeRead(f"its codec, {codec}, is unknown")
    name, decompress_into = DECOMPRESSORS[codec]
    buffer = np.empty(LARGEST_DECOMPRESSED, np.uint8).data
    try:
        size = decompress_into(data, buffer)
    except cramjam.DecompressionError as error:
        raise _CannotBeRead(
            f"its {name} data is broken, or larger than {LARGEST_DECOMPRESSED:,} bytes when decompressed: {error}"
        ) from None
    return buffer[:size].tobytes()


def _decompress_snappy_into(data: memoryview, buffer: memoryview) -> int:
    if data[: len(XERIAL_MAGIC)] != XERIAL_MAGIC:
        return cramjam.snappy.decompress_raw_into(data, buffer)
    size = 0
    data = data[XERIAL_HEADER_BYTES:]
    while data:
        block_end = 4 + int.from_bytes(data[:4], "big")
        size += cramjam.snappy.decompress_raw_into(data[4:block_end], buffer[size:])
        data = data[block_end:]
    return size


DECOMPRESSORS: dict[int, tuple[str, Callable[[memoryview, memoryview], int]]] = {
    1: ("gzip", cramjam.gzip.decompress_into),
    2: ("snappy", _decompress_snappy_into),
    3: ("lz4", cramjam.lz4.decompress_into),
    4: ("zstd", cramjam.zstd.decompress_into),
}


def _check_records(batch: bytes | memoryview) -> None:
    """Parses the records as aiokafka will do it later."""
    may_be_too_large = len(batch) > LARGEST_FETCHED_RECORD
    try:
        for record in DefaultRecordBatch(batch):
            if may_be_too_large and (size := _size(record)) > LARGEST_FETCHED_RECORD:
                raise _CannotBeRead(
                    f"its record {record.offset} has {size:,} bytes: the largest may have {LARGEST_RECORD:,}"
                )
    except (KafkaError, ValueError) as error:
        raise _CannotBeRead(f"its records are broken: {error}") from None


def _size(record: Any) -> int:
    header_bytes = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + header_bytes
