"""An event of another system becomes an ImageReceived in each of the three forms. The error for an invalid event says
why.
"""

import contextlib
import json
import math
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.cloudevents import TYPES, decode_image_received
from schemas.errors import UnreadableRecord
from schemas.records import ImageReceived, Source

IMAGE_ID = str(uuid.UUID(int=7))
DATA = {
    "directory": "acme",
    "person": "Ann Lee",
    "source": {"bucket": "photos", "key": "incoming/acme/ann.jpg", "etag": "abc"},
    "options": {"face": "largest"},
}
EVENT = {
    "specversion": "1.0",
    "type": "facestream.image.learn",
    "source": "/cms",
    "id": "42",
    "time": "2026-01-01T00:00:00Z",
}
CONTENT_TYPE = "application/cloudevents+json; charset=UTF-8"


def structured(**changes: Any) -> bytes:
    return json.dumps(
        {name: value for name, value in (EVENT | {"data": DATA} | changes).items() if value is not None}
    ).encode()


def binary(**changes: str) -> list[tuple[str, bytes]]:
    return [(f"ce_{name}", text.encode()) for name, text in (EVENT | changes).items()]


def reason(value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> str:
    with pytest.raises(UnreadableRecord) as raised:
        decode_image_received(value, headers)
    return raised.value.message


def test_the_three_forms_give_the_same_event() -> None:
    found = decode_image_received(structured(), [("content-type", CONTENT_TYPE.encode())])
    assert found == decode_image_received(structured())
    assert found == decode_image_received(json.dumps(DATA).encode(), binary())
    assert found == decode_image_received(json.dumps(DATA).encode(), [*binary(), ("content-type", b"application/json")])
    assert found.source == Source(bucket="photos", key="incoming/acme/ann.jpg", etag="abc")
    assert (found.purpose, found.directory, found.person, found.options.face) == ("learn", "acme", "Ann Lee", "largest")
    plain = DATA | {"image_id": found.image_id, "purpose": "learn"}
    assert decode_image_received(json.dumps(plain).encode()) == found
    assert decode_image_received(json.dumps(plain).encode(), [("traceparent", b"00-1")]) == found
    assert decode_image_received(found.encode()) == found


def test_an_event_that_comes_twice_is_one_image() -> None:
    first = decode_image_received(structured()).image_id
    assert first == decode_image_received(structured(time=None)).image_id
    assert (
        len(
            {
                first,
                decode_image_received(structured(id="43")).image_id,
                decode_image_received(structured(source="/dms")).image_id,
            }
        )
        == 3
    )
    assert decode_image_received(structured(id=IMAGE_ID)).image_id == IMAGE_ID
    assert decode_image_received(structured(data=DATA | {"image_id": IMAGE_ID})).image_id == IMAGE_ID


@pytest.mark.parametrize(("kind", "purpose"), TYPES.items())
def test_the_type_is_the_purpose(kind: str, purpose: str) -> None:
    assert decode_image_received(structured(type=kind)).purpose == purpose
    assert decode_image_received(structured(type=kind, data=DATA | {"purpose": purpose})).purpose == purpose


@pytest.mark.parametrize(
    ("value", "headers", "said"),
    [
        (structured(type="facestream.image.forget"), [], "type"),
        (structured(specversion="0.3"), [], "specversion"),
        (structured(id=""), [], "id"),
        (structured(source=None), [], "source"),
        (structured(data=None), [], "data"),
        (structured(data=[1]), [], "data"),
        (structured(data=DATA | {"purpose": "detect"}), [], "data.purpose"),
        (structured(data=DATA | {"directory": "a\0"}), [], "directory"),
        (structured(data=DATA | {"person": None}), [], "takes a person"),
        (structured(data=DATA | {"options": {"min_face": math.inf}}), [], "options.min_face"),
        (structured(data=DATA | {"options": {"strangers": math.nan}}), [], "options.strangers"),
        (structured(data=DATA | {"options": {"top": True}}), [], "options.top"),
        (structured(data=DATA | {"received_at": 10**400}), [], "received_at"),
        (structured(data=DATA | {"source": None}), [], "media_type and sha256"),
        (structured(data=DATA | {"source": "https://elsewhere/a.jpg"}), [], "source"),
        (
            structured(data=DATA | {"source": {"bucket": "b", "key": "k", "url": "https://elsewhere/a.jpg"}}),
            [],
            "source.url",
        ),
        (structured(datacontenttype="image/jpeg"), [], "datacontenttype"),
        (b"\xff\xd8\xff", binary(), "no JSON"),
        (b"[]", binary(), "no JSON object"),
        (None, binary(), "no JSON"),
        (json.dumps(DATA).encode(), [*binary(), ("content-type", b"image/jpeg")], "datacontenttype"),
        (json.dumps(DATA).encode(), [("ce_specversion", b"1.0")], "type"),
        (b'{"specversion"', [], "no JSON"),
        (b'{"image_id": "x"}', [], "image_id"),
        (None, [], "tombstone"),
    ],
)
def test_the_error_for_an_invalid_event_says_why(
    value: bytes | None, headers: list[tuple[str, bytes]], said: str
) -> None:
    assert said in reason(value, headers)


@given(
    st.binary(max_size=60),
    st.lists(st.tuples(st.sampled_from(["ce_specversion", "ce_id", "content-type"]), st.binary(max_size=9))),
)
def test_any_value_gives_an_event_or_unreadable_record(value: bytes, headers: list[tuple[str, bytes]]) -> None:
    with contextlib.suppress(UnreadableRecord):
        assert isinstance(decode_image_received(value, headers), ImageReceived)
