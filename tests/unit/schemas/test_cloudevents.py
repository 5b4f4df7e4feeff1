"""An event of another system becomes the same ImageReceived in every form that CloudEvents' Kafka binding and JSON
format allow. The error for an invalid event says why. What the official SDK writes is in test_cloudevents_sdk.py.
"""

import base64
import contextlib
import json
import math
import uuid
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.cloudevents import TYPES, CloudEvent, decode_image_received
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
BASE64 = base64.b64encode(json.dumps(DATA).encode()).decode()
JSON_TYPES = [
    "application/json",
    "text/json",
    "application/vnd.acme.image+json",
    "Application/JSON; charset=utf-8",
    "application/cloudevents-data+json ;v=1",
]
OTHER_TYPES = [
    "image/jpeg",
    "application/xml",
    "application/jsonl",
    "application/geojson",
    "json",
    "text/plain; note=a/json",
]
VALIDATOR = jsonschema.Draft202012Validator(CloudEvent.model_json_schema())
MISSING = object()
Headers = list[tuple[str, bytes]]


def structured(**changes: Any) -> bytes:
    return json.dumps(
        {name: value for name, value in (EVENT | {"data": DATA} | changes).items() if value is not None}
    ).encode()


def binary(**changes: str) -> Headers:
    return [(f"ce_{name}", text.encode()) for name, text in (EVENT | changes).items()]


def of_type(media_type: str) -> Headers:
    return [("content-type", media_type.encode())]


def reason(value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> str:
    with pytest.raises(UnreadableRecord) as raised:
        decode_image_received(value, headers)
    return raised.value.message


def result(value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> ImageReceived | None:
    """None for an event that is refused."""
    try:
        return decode_image_received(value, headers)
    except UnreadableRecord:
        return None


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


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        *((structured(datacontenttype=it), []) for it in JSON_TYPES),
        *((structured(datacontenttype=it, data=None, data_base64=BASE64), []) for it in JSON_TYPES),
        *((json.dumps(DATA).encode(), binary() + of_type(it)) for it in JSON_TYPES if "cloudevents" not in it),
        (structured(data=None, data_base64=BASE64), of_type(CONTENT_TYPE)),
        (structured(data=json.dumps(DATA), datacontenttype="application/vnd.acme.image+json"), []),
        (json.dumps(EVENT | {"data": None, "data_base64": BASE64}).encode(), []),
        (json.dumps(EVENT | {"data": DATA, "data_base64": None, "datacontenttype": None}).encode(), []),
        (structured(), of_type("Application/CloudEvents+JSON ; charset=UTF-8")),
        (structured(), [("Content-Type", CONTENT_TYPE.upper().encode()), *binary(id="other", type="com.acme.other")]),
        (json.dumps(DATA).encode(), [(name.upper(), text) for name, text in binary() + of_type("text/json")]),
        (json.dumps(DATA).encode(), [*binary(), ("content-type", b""), ("ce_subject", b"")]),  # without a value
        (json.dumps(DATA).encode(), [*binary(specversion="1.1"), ("ce_data", b"{}"), ("ce_blob", b"\xff")]),
        (structured(sequence=5, sampled=True, note=None, directory="other", nested={"a": [1]}), []),
        (structured(data=DATA | {"purpose": None, "image_id": None}), []),
    ],
)
def test_the_forms_of_an_event_are_one_event(value: bytes, headers: Headers) -> None:
    assert decode_image_received(value, headers) == decode_image_received(structured())


@pytest.mark.parametrize(("kind", "purpose"), TYPES.items())
def test_the_type_is_the_purpose(kind: str, purpose: str) -> None:
    assert decode_image_received(structured(type=kind)).purpose == purpose
    assert decode_image_received(structured(type=kind, data=DATA | {"purpose": purpose})).purpose == purpose


@pytest.mark.parametrize(
    ("value", "headers", "said"),
    [
        (structured(type="facestream.image.forget"), [], "type"),
        (structured(specversion="0.3"), [], "specversion"),
        (structured(specversion="1.0-rc1"), [], "specversion"),
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
        *((structured(datacontenttype=it), [], "datacontenttype") for it in ["", *OTHER_TYPES]),
        *((json.dumps(DATA).encode(), binary() + of_type(it), "datacontenttype") for it in OTHER_TYPES),
        (structured(data_base64=BASE64), [], "either data or data_base64"),
        (structured(data=None, data_base64="a"), [], "data_base64"),
        (structured(data=None, data_base64=base64.b64encode(b"\xff\xd8\xff").decode()), [], "no JSON"),
        (structured(data="ann.jpg"), [], "no JSON"),
        (json.dumps(DATA).encode("utf-16"), binary() + of_type("application/json; charset=utf-16"), "no JSON"),
        (b"[" * 100_000, binary(), "no JSON"),
        (b"\xff\xd8\xff", binary(), "no JSON"),
        (b"1", binary(), "no JSON object"),
        (None, binary(), "no JSON"),
        (None, of_type(CONTENT_TYPE), "no JSON"),
        (json.dumps(DATA).encode(), of_type(CONTENT_TYPE), "specversion"),
        (json.dumps(DATA).encode(), [("ce_specversion", b"1.0")], "type"),
        (json.dumps(DATA).encode(), [*binary(), ("ce_specversion", b"")], "specversion"),
        (json.dumps(DATA).encode(), binary(specversion="0.3"), "specversion"),
        (json.dumps(DATA).encode(), [*binary(), ("ce_source", b"")], "source"),
        (json.dumps(DATA).encode(), [*binary(), ("ce_id", b"\xe9")], "id: the header is not UTF-8"),
        (structured(), of_type("application/cloudevents+protobuf"), "must be application/cloudevents+json"),
        (structured(), [*binary(), *of_type("application/cloudevents+avro")], "must be application/cloudevents+json"),
        (b"[%s]" % structured(), of_type("application/cloudevents-batch+json"), "each event as a record of its own"),
        (b"[%s]" % structured(), of_type(CONTENT_TYPE), "each event as a record of its own"),
        (b"[%s]" % structured(), [], "each event as a record of its own"),
        (b'{"specversion"', [], "no JSON"),
        (b'{"image_id": "x"}', [], "image_id"),
        (None, [], "tombstone"),
    ],
)
def test_the_error_for_an_invalid_event_says_why(value: bytes | None, headers: Headers, said: str) -> None:
    assert said in reason(value, headers)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "specversion": st.sampled_from(["1.12", "0.3", "1", "1.0 ", 1.0, None, MISSING]),
            "type": st.sampled_from([*TYPES, "facestream.image", None, MISSING]),
            "source": st.sampled_from(["/dms", "", None, {"bucket": "b"}, MISSING]),
            "id": st.sampled_from(["43", "", None, 42, MISSING]),
            "datacontenttype": st.sampled_from([*JSON_TYPES, *OTHER_TYPES, "", None, 1]),
            "data": st.sampled_from([json.dumps(DATA), [DATA], 1, None, MISSING]),
            "data_base64": st.sampled_from([BASE64, 1, DATA, None]),
            "extension": st.sampled_from(["a", 1, True, None]),
        },
    )
)
def test_the_schema_allows_just_the_events_that_are_read(changes: dict[str, Any]) -> None:
    event = {name: value for name, value in (EVENT | {"data": DATA} | changes).items() if value is not MISSING}
    assert VALIDATOR.is_valid(event) == (result(json.dumps(event).encode(), of_type(CONTENT_TYPE)) is not None)


@pytest.mark.parametrize("member", ["version", "person", "source", "filename", "received_at", "options", "unknown"])
@pytest.mark.parametrize(
    "text",
    ["null", "true", "1", "1.0", "1e400", "NaN", '"1"', '"a"', '""', '"\\ud800"', '"\\u0000"', "[]", "{}", "[[{"],
)
def test_data_are_checked_as_those_of_a_plain_event(member: str, text: str) -> None:
    def with_text(event: dict[str, Any]) -> bytes:
        return json.dumps(event | {member: "?"}).replace('"?"', text).encode()

    plain = result(with_text(DATA | {"image_id": IMAGE_ID, "purpose": "learn"}))
    data = with_text(DATA)
    assert result(data, binary(id=IMAGE_ID)) == plain
    assert result(structured(id=IMAGE_ID, data=None, data_base64=base64.b64encode(data).decode())) == plain
    assert result(structured(id=IMAGE_ID, data="?").replace(b'"?"', data)) == plain


@given(
    st.binary(max_size=60),
    st.lists(
        st.tuples(
            st.sampled_from(["ce_specversion", "ce_id", "content-type"]),
            st.binary(max_size=9) | st.just(CONTENT_TYPE.encode()),
        )
    ),
)
def test_any_value_gives_an_event_or_unreadable_record(value: bytes, headers: list[tuple[str, bytes]]) -> None:
    with contextlib.suppress(UnreadableRecord):
        assert isinstance(decode_image_received(value, headers), ImageReceived)
