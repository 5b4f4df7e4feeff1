"""The records that carry dead letters: what they keep of the record that failed, and how they are read and retried."""

import json
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.log import LARGEST_RECORD, NewRecord, Record, partition_of
from backends.sqlite.log import SqliteLog
from backends.sqlite.vectors import SqliteVectors
from backends.vectors import StoredAnswer
from schemas.cloudevents import decode_image_received
from schemas.dead_letters import ERROR_HEADERS, RETRIED_HEADER, Retried
from schemas.errors import NotFound, ProcessingFailed, Unavailable, UnreadableRecord
from schemas.event import Header
from schemas.origins import Origin
from schemas.records import EraseRequested, ImageReceived
from sink.sink import Sink
from stream.dead_letters import (
    Content,
    Letter,
    dead_letter_record,
    drop,
    open_letters,
    read_content,
    read_contents,
    read_letter,
    retry,
)
from stream.topics import (
    BUCKET_EVENTS,
    DEAD_LETTERS,
    FACES_DETECTED,
    FACES_EMBEDDED,
    IMAGES_RECEIVED,
    IMAGES_RECEIVED_BULK,
    PARTITIONS,
    TOPICS,
)
from tests.records import (
    appended,
    faces_embedded,
    image_id,
    image_received,
    older_dead_letter_of,
    origin_at,
)
from tests.unit.stream.stages import read_all

EVENT = image_received("photo", "learn")
CLOUD_EVENT: tuple[Header, ...] = (
    ("ce_specversion", b"1.0"),
    ("ce_type", b"facestream.image.learn"),
    ("ce_source", b"/cms"),
    ("ce_id", image_id("photo").encode()),
    ("trace", None),
    ("trace", b"\x00\xff"),
)
DATA = json.dumps(EVENT.model_dump(exclude={"image_id", "purpose"}, exclude_none=True)).encode()
ERROR = ProcessingFailed("a defect: é")
VECTOR = b"AAAAAAAAAAAAAAAA"  # base64


@pytest.fixture
async def vectors(tmp_path: Path) -> AsyncIterator[SqliteVectors]:
    vectors = SqliteVectors(tmp_path / "vectors.db")
    await vectors.create()
    yield vectors
    await vectors.close()


def failed(value: bytes | None, headers: Sequence[Header] = (), **members: Any) -> Record:
    """A record of another system that failed."""
    record = Record(IMAGES_RECEIVED, 3, 44, 1_000, None, value, tuple(headers))
    return replace(record, **members)


def letter_record(record: Record, received: ImageReceived | EraseRequested | None = None) -> NewRecord:
    return dead_letter_record(record, received, ERROR, 3, "processors")


def content_of(record: Record, received: ImageReceived | EraseRequested | None = None) -> Content:
    """The content of the letter as it is read again."""
    return read_content(appended(letter_record(record, received), at=9_000))


def letter_of(record: Record, received: ImageReceived | EraseRequested | None = None) -> Letter:
    """The letter as it is read again."""
    letter = read_letter(appended(letter_record(record, received), at=9_000))
    assert isinstance(letter, Letter)
    return letter


# What it keeps.


@pytest.mark.parametrize("topic", [IMAGES_RECEIVED, IMAGES_RECEIVED_BULK])
@pytest.mark.parametrize("key", ["a key", b"\xff\0", None])
@pytest.mark.parametrize("value", [DATA, b"\xff\xd8\xff", b"", None])
def test_a_letter_is_the_record_that_failed_with_headers_behind_its_own(
    topic: str, key: str | bytes | None, value: bytes | None
) -> None:
    record = failed(value, CLOUD_EVENT, topic=topic, original_key=key)
    letter = letter_record(record)
    assert (letter.topic, letter.key, letter.value) == (DEAD_LETTERS, key, value)
    count = len(CLOUD_EVENT)
    assert tuple(letter.headers[:count]) == CLOUD_EVENT
    assert dict(letter.headers[count:]) == {
        "__connect.errors.topic": topic.encode(),
        "__connect.errors.partition": b"3",
        "__connect.errors.offset": b"44",
        "__connect.errors.stage": b"processors",
        "__connect.errors.exception.class.name": b"schemas.errors.ProcessingFailed",
        "__connect.errors.exception.message": "a defect: é".encode(),
        "__facestream.errors.code": b"processing_failed",
        "__facestream.errors.attempts": b"3",
        "__facestream.errors.timestamp": b"1000",
    }
    assert content_of(record) == (key, value, CLOUD_EVENT)
    read = letter_of(record)
    assert (read.failure.topic, read.failure.partition, read.failure.offset) == (topic, 3, 44)
    assert (read.failure.code, read.failure.reason, read.failure.attempts) == ("processing_failed", "a defect: é", 3)


def test_a_letter_about_a_later_record_has_the_event_and_no_vectors() -> None:
    received = EVENT.model_copy(update={"origin": origin_at(7)})
    value = faces_embedded(received, received_at=500).encode().replace(b'"faces":[]', b'"faces":["%s"]' % VECTOR)
    record = failed(value, [("a", b"b")], topic=FACES_EMBEDDED, original_key=received.image_id, offset=99)
    letter = letter_record(record, received.model_copy(update={"received_at": 500}))
    assert VECTOR not in (letter.value or b"")
    assert letter.key == received.image_id
    assert [name for name, _ in letter.headers] == list(ERROR_HEADERS.values())
    assert ImageReceived.decode(letter.value) == received.model_copy(update={"received_at": 500})
    event = letter_of(record, received).event
    assert event is not None
    assert event.origin == origin_at(7)


@pytest.mark.parametrize(
    ("topic", "received"),
    [
        (FACES_EMBEDDED, None),
        (FACES_DETECTED, None),
        (BUCKET_EVENTS, None),
        (FACES_EMBEDDED, EraseRequested(image_id=image_id("command"), directory="acme", person="obama")),
    ],
)
def test_a_letter_about_another_record_keeps_only_its_key(topic: str, received: EraseRequested | None) -> None:
    record = failed(b'{"vector": "%s", "person": "obama"}' % VECTOR, [("a", b"b")], topic=topic, original_key="a key")
    letter = letter_of(record, received)
    assert (letter.event, letter.image_id) == (None, "a key")
    assert content_of(record, received) == ("a key", None, ())


def test_a_record_that_is_too_large_for_a_letter_is_left_out_of_it() -> None:
    """Other systems may append records that are as large as Kafka takes them."""
    fits = letter_record(failed(bytes(LARGEST_RECORD - 2_000)))
    assert fits.value is not None
    assert fits.size <= LARGEST_RECORD
    huge: list[tuple[bytes, bytes | None, list[Header]]] = [
        (b"", bytes(LARGEST_RECORD), []),
        (bytes(LARGEST_RECORD), None, []),
        (b"", None, [("", None)] * (LARGEST_RECORD // 10)),
    ]
    for key, value, headers in huge:
        record = failed(value, headers, original_key=key)
        letter = letter_record(record)
        assert letter.size < 2_000
        assert (content_of(record).value, letter_of(record).failure.offset) == (None, 44)
        event = letter_of(record, EVENT).event  # if it was readable after all, the event is kept
        assert event is not None
        assert event.image_id == EVENT.image_id


def test_the_last_headers_are_those_of_the_letter() -> None:
    """Another system has copied a letter to `images.received`."""
    first = appended(letter_record(failed(EVENT.encode())))
    record = failed(first.value, first.headers, offset=45)
    again = letter_of(record)
    assert (again.failure.offset, content_of(record).headers) == (45, first.headers)
    assert again.event is not None
    assert again.event.origin == origin_at(45, partition=3)


def test_letters_without_a_key_are_spread_over_the_partitions() -> None:
    places = {
        partition_of(letter_record(failed(b"", offset=offset)).partition_key or "", PARTITIONS)
        for offset in range(1_000)
    }
    assert len(places) == PARTITIONS


# How it is read.


def test_the_event_is_read_from_the_record_with_its_origin_and_its_time() -> None:
    letter = letter_of(failed(DATA, CLOUD_EVENT))
    origin = Origin(topic=IMAGES_RECEIVED, partition=3, offset=44)
    assert letter.event == EVENT.model_copy(update={"origin": origin, "received_at": 1_000})
    assert (letter.image_id, letter.origin) == (EVENT.image_id, origin)


@pytest.mark.parametrize("said", [None, 500, 5_000])
def test_a_received_at_later_than_its_record_is_not_believed(said: int | None) -> None:
    event = letter_of(failed(image_received("a", received_at=said).encode())).event
    assert event is not None
    assert event.received_at == min(said or 1_000, 1_000)


def test_a_letter_of_a_later_stage_says_when_the_image_came() -> None:
    received = EVENT.model_copy(update={"origin": origin_at(7)})
    value = faces_embedded(received, received_at=500).encode()
    record = appended(NewRecord(FACES_EMBEDDED, received.image_id, value), at=9_000, offset=99)
    event = letter_of(record, Sink.event_of(Sink.__new__(Sink), record)).event  # it needs nothing of the sink
    assert event is not None
    assert (event.received_at, event.origin) == (500, received.origin)


@pytest.mark.parametrize("name", ERROR_HEADERS.values())
def test_a_record_with_only_some_of_the_headers_is_unreadable(name: str) -> None:
    record = appended(letter_record(failed(EVENT.encode())))
    without = replace(record, headers=tuple(it for it in record.headers if it[0] != name))
    broken = replace(record, headers=tuple((it[0], None) if it[0] == name else it for it in record.headers))
    with pytest.raises(UnreadableRecord):
        read_letter(without)
    if name.rpartition(".")[2] in ("partition", "offset", "attempts", "timestamp"):
        with pytest.raises(UnreadableRecord, match="headers"):
            read_letter(broken)


@pytest.mark.parametrize("value", [b'{"closed": "retried", "letter": 0}', older_dead_letter_of(EVENT).value])
async def test_no_record_that_failed_is_taken_for_what_facestream_writes_itself(log: SqliteLog, value: bytes) -> None:
    await log.append([letter_record(failed(EVENT.encode(), original_key="a")), letter_record(failed(value, offset=45))])
    letters = await open_letters(log)
    assert [it.failure.offset for it in letters] == [44, 45]
    assert [it.value for it in await read_contents(log, letters)] == [EVENT.encode(), value]


async def test_a_letter_of_any_key_can_be_dropped(log: SqliteLog) -> None:
    keys = [None, b"\xff", "a key", EVENT.image_id, ""]
    records = [failed(b"", original_key=key, offset=offset) for offset, key in enumerate(keys)]
    await log.append([*map(letter_record, records), older_dead_letter_of(EVENT, offset=98), older_dead_letter_of(None)])
    letters = await open_letters(log)
    assert len(letters) == 7
    for letter in letters:
        await drop(log, [letter])
        assert letter.id not in {it.id for it in await open_letters(log)}
    assert await open_letters(log) == []


async def test_open_letters_do_not_keep_the_bytes_of_records(log: SqliteLog) -> None:
    """An erasure reads them all: a thousand records of some MB must fit into memory."""
    count, size = 20, 4_000_000
    for offset in range(count):
        await log.append([letter_record(failed(bytes(size), [("a", bytes(1_000))], offset=offset))])
    tracemalloc.start()
    try:
        letters = await open_letters(log)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < count * size / 2  # a reader keeps its last poll for a while
    assert [it.size >= size + 1_000 for it in letters] == [True] * count
    (content,) = await read_contents(log, letters[7:8])
    assert (len(content.value or b""), content.headers) == (size, (("a", bytes(1_000)),))


async def test_contents_come_in_the_order_of_the_letters_and_a_deleted_one_is_named(log: SqliteLog) -> None:
    await log.append([letter_record(failed(b"%d" % offset, offset=offset)) for offset in range(30)])
    letters = list(reversed(await open_letters(log)))
    values = [it.value for it in await read_contents(log, letters)]
    assert values == [b"%d" % it.failure.offset for it in letters]
    gone = replace(letters[0], offset=99)
    with pytest.raises(NotFound, match=gone.id):
        await read_contents(log, [letters[1], gone])


def test_a_letter_about_an_event_that_does_not_fit_knows_its_image() -> None:
    event = {"image_id": image_id("invalid"), "purpose": "forget", "directory": "acme"}
    letter = letter_of(failed(json.dumps(event).encode(), original_key="a key"))
    assert (letter.event, letter.image_id) == (None, image_id("invalid"))
    assert letter.invalid is not None
    assert letter.invalid["directory"] == "acme"


# Retry.


async def retried(log: SqliteLog, vectors: SqliteVectors, topic: str) -> list[Record]:
    await retry(log, vectors, await open_letters(log))
    assert await open_letters(log) == []
    return await read_all(log, topic)


@pytest.mark.parametrize("topic", [IMAGES_RECEIVED, IMAGES_RECEIVED_BULK])
@pytest.mark.parametrize("key", ["a key", b"\xff\0", None])
async def test_a_retry_appends_the_same_record_to_its_topic(
    log: SqliteLog, vectors: SqliteVectors, topic: str, key: str | bytes | None
) -> None:
    await log.append([letter_record(failed(DATA, CLOUD_EVENT, topic=topic, original_key=key))])
    (record,) = await retried(log, vectors, topic)
    assert (record.original_key, record.value, record.headers[:-1]) == (key, DATA, CLOUD_EVENT)
    assert record.partition == partition_of(EVENT.image_id, PARTITIONS)
    origin = Origin(topic=topic, partition=3, offset=44)
    expected = EVENT.model_copy(update={"origin": origin, "received_at": 1_000})
    assert decode_image_received(record.value, record.headers) == expected
    # It fails again: the header is there once, and says the same.
    await log.append([letter_record(record)])
    _, again = await retried(log, vectors, topic)
    assert again == replace(record, offset=again.offset, timestamp=again.timestamp)


async def test_a_retry_of_a_later_record_appends_the_event(log: SqliteLog, vectors: SqliteVectors) -> None:
    event = EVENT.model_copy(update={"origin": origin_at(7, IMAGES_RECEIVED_BULK), "received_at": 500})
    await log.append([letter_record(failed(b"", topic=FACES_EMBEDDED, original_key=event.image_id), event)])
    (record,) = await retried(log, vectors, IMAGES_RECEIVED)
    assert (record.key, decode_image_received(record.value, record.headers)) == (event.image_id, event)


async def test_an_older_letter_is_retried(log: SqliteLog, vectors: SqliteVectors) -> None:
    event = EVENT.model_copy(update={"origin": origin_at(7, partition=3), "received_at": 500})
    await log.append([older_dead_letter_of(event, topic=IMAGES_RECEIVED_BULK)])
    (record,) = await retried(log, vectors, IMAGES_RECEIVED_BULK)
    assert (record.key, decode_image_received(record.value, record.headers)) == (event.image_id, event)


@pytest.mark.parametrize("value", [b"", b"{}", b'{"origin": null}', b'{"origin": 1, "received_at": 1}', b"\xff", None])
def test_a_header_of_a_retry_that_cannot_be_read_makes_the_event_unreadable(value: bytes | None) -> None:
    headers = [*CLOUD_EVENT, (RETRIED_HEADER, value)]
    if value is None:
        assert decode_image_received(DATA, headers).origin is None
    else:
        with pytest.raises(UnreadableRecord, match=RETRIED_HEADER):
            decode_image_received(DATA, headers)


def test_of_two_headers_of_a_retry_the_last_one_counts() -> None:
    headers: tuple[Header, ...] = ()
    for offset in 1, 2:
        headers += Retried(origin=origin_at(offset), received_at=offset).added_to(())
    assert decode_image_received(EVENT.encode(), headers).origin == origin_at(2)


class Watched(SqliteLog):
    """Notes which answer is stored when an event is appended."""

    vectors: SqliteVectors
    error: Unavailable | None = None

    async def append(self, records: Sequence[NewRecord]) -> Any:
        if records[0].topic == IMAGES_RECEIVED:
            assert await self.vectors.answer(EVENT.image_id) is None
            if self.error is not None:
                raise self.error
        return await super().append(records)


async def test_the_stored_answer_is_deleted_before_the_event_is_appended(
    tmp_path: Path, vectors: SqliteVectors
) -> None:
    """Deleted later, it might be the answer to the retry. If appending fails, the letter stays."""
    log = Watched(tmp_path / "log.db")
    log.vectors = vectors
    await log.create_topics(TOPICS)
    other = StoredAnswer(image_id("other"), "{}", 1e12)
    await vectors.put_answers([StoredAnswer(EVENT.image_id, "{}", 1e12), other])
    await log.append([letter_record(failed(EVENT.encode()))])
    log.error = Unavailable("away")
    with pytest.raises(Unavailable):
        await retry(log, vectors, await open_letters(log))
    log.error = None
    await vectors.put_answers([StoredAnswer(EVENT.image_id, "{}", 1e12)])
    assert len(await retried(log, vectors, IMAGES_RECEIVED)) == 1
    assert await vectors.answer(EVENT.image_id) is None
    assert await vectors.answer(other.image_id) == other
    await log.close()
