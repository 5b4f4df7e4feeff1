"""What the worker does after a failure: how long it waits, and whom it tells."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from backends.log import Record
from schemas.cloudevents import decode_image_received
from schemas.errors import InvalidEvent, UnreadableRecord
from schemas.ids import image_id_of_event
from schemas.records import Answer, ImageReceived
from stream.failures import BACKOFF_FIRST_S, BACKOFF_MOST_S, backoff_s, outputs_of_failure
from stream.topics import DEAD_LETTERS, IMAGES_RECEIVED, RESULTS
from tests.records import image_id
from tests.unit.stream.stages import Stage

EVENT = {
    "image_id": image_id("photo"),
    "purpose": "learn",
    "directory": "A\u030agren",
    "person": "Ann",
    "reply_to": "ingest-7",
    "source": {"bucket": "photos", "key": "a.jpg"},
}


class Reader(Stage):
    """Reads records as the stages behind `images.received` do."""

    def event_of(self, record: Record) -> ImageReceived:
        return decode_image_received(record.value, record.headers)


def test_the_wait_between_tries_doubles_up_to_a_maximum() -> None:
    waits = [min(backoff_s(failures) for _ in range(200)) for failures in range(1, 12)]
    assert BACKOFF_FIRST_S <= waits[0] < 2 * BACKOFF_FIRST_S
    assert all(later > 1.3 * earlier for earlier, later in pairwise(waits[:6]))
    assert all(BACKOFF_MOST_S / 2 <= backoff_s(failures) <= BACKOFF_MOST_S for failures in (20, 1_024, 100_000))


def failed(value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> tuple[UnreadableRecord, list[Any]]:
    """The error of a record, and what becomes of it."""
    record = Record(IMAGES_RECEIVED, 3, 44, 1_000, "key", value, tuple(headers))
    with pytest.raises(UnreadableRecord) as raised:
        Reader().event_of(record)
    return raised.value, outputs_of_failure(Reader(), record, raised.value, 1)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"options": {"top": "abc"}}, "options.top"),
        ({"options": {"threshold": 0.5}}, "options.threshold"),
        ({"options": 1}, "options"),
        ({"purpose": "forget"}, "purpose"),
        ({"directory": " "}, "directory"),
        ({"person": "a\0"}, "person"),
        ({"person": None}, None),
        ({"source": None}, None),
        ({"source": "https://host/a.jpg"}, "source"),
        ({"version": 2}, "version"),
        ({"reply_to": 7}, "reply_to"),
        ({"person": "\ud83d"}, None),
    ],
    ids=ascii,
)
def test_an_event_that_does_not_fit_is_answered_and_becomes_a_dead_letter(
    changes: dict[str, Any], field: str | None
) -> None:
    event = EVENT | changes
    error, (letter, record) = failed(json.dumps(event).encode())
    assert isinstance(error, InvalidEvent)
    assert (letter.topic, record.topic, record.key) == (DEAD_LETTERS, RESULTS, EVENT["image_id"])
    assert record.partition_key == (None if "reply_to" in changes else "ingest-7")
    answer = Answer.decode(record.value)
    assert (answer.image_id, answer.status) == (EVENT["image_id"], 400)
    assert answer.purpose == (None if "purpose" in changes else "learn")
    assert answer.directory == (None if "directory" in changes else "\u00c5gren")
    body = answer.body.members()
    assert (body["code"], body["image_id"]) == ("invalid_event", EVENT["image_id"])
    assert body.get("field") == field
    assert (field or "the record") in body["detail"]


ID = image_id("photo")
ATTRIBUTES = {"specversion": "1.0", "type": "facestream.image.learn", "source": "/cms", "id": ID}
DATA = {name: it for name, it in EVENT.items() if name not in ("image_id", "purpose")}
OTHER = image_id("another")


@pytest.mark.parametrize(
    ("changes", "expected", "purpose"),
    [
        ({"data": DATA | {"options": {"top": 11}}}, ID, "learn"),
        ({"data": DATA | {"options": {"top": 11}, "image_id": OTHER}}, OTHER, "learn"),
        ({"data": DATA | {"options": {"top": 11}}, "id": "1"}, image_id_of_event("/cms", "1"), "learn"),
        ({"data": json.dumps(DATA | {"image_id": OTHER, "person": None})}, OTHER, "learn"),
        ({"data": DATA | {"purpose": "detect"}}, ID, "detect"),
        ({"data": DATA | {"person": "\ud83d"}}, ID, None),
        ({"data": "no JSON"}, ID, "learn"),
        ({"data": None}, ID, None),
        ({"data": DATA, "type": "facestream.image.forget"}, ID, None),
        ({"data": DATA | {"image_id": OTHER}, "source": None}, OTHER, None),
        ({"data": DATA, "specversion": "0.3"}, ID, None),
        ({"data": DATA, "datacontenttype": "image/jpeg"}, ID, None),
    ],
    ids=ascii,
)
def test_a_cloudevent_that_does_not_fit_is_answered(
    changes: dict[str, Any], expected: str, purpose: str | None
) -> None:
    _, (letter, record) = failed(json.dumps(ATTRIBUTES | changes).encode())
    assert letter.topic == DEAD_LETTERS
    answer = Answer.decode(record.value)
    assert (answer.image_id, record.key, answer.status, answer.purpose) == (expected, expected, 400, purpose)


def test_a_cloudevent_in_binary_mode_that_does_not_fit_is_answered() -> None:
    headers = [(f"ce_{name}", it.encode()) for name, it in ATTRIBUTES.items()]
    for value in (b"{", b"[]", json.dumps(DATA | {"options": {"top": 11}}).encode()):
        _, (_, record) = failed(value, headers)
        assert Answer.decode(record.value).image_id == ID


@pytest.mark.parametrize("changes", [{"id": "1", "type": "other"}, {"id": 7}, {"id": None}, {"data": [1], "id": "1"}])
def test_a_cloudevent_that_does_not_say_which_image_it_is_about_is_not_answered(changes: dict[str, Any]) -> None:
    error, (letter,) = failed(json.dumps(ATTRIBUTES | {"data": DATA} | changes).encode())
    assert (error.code, letter.topic) == ("unreadable_record", DEAD_LETTERS)


def test_the_answer_to_an_event_with_a_member_of_any_length_is_a_small_record() -> None:
    _, (letter, record) = failed(json.dumps(EVENT | {"options": {"x" * 1_000_000: 1}}).encode())
    assert len(record.value) < 2_000
    assert sum(len(value) for _, value in letter.headers) < 2_000


@pytest.mark.parametrize(
    "value",
    [b"", b"[]", b"{", b"\xff", *(json.dumps(EVENT | {"image_id": it}).encode() for it in (None, "x", "\ud83d", 7))],
)
def test_a_record_that_does_not_say_which_image_it_is_about_is_not_answered(value: bytes) -> None:
    error, (letter,) = failed(value)
    assert error.code == "unreadable_record"
    assert letter.topic == DEAD_LETTERS
