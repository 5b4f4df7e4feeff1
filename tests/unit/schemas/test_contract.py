"""The contract of `images.received`: an event fits the JSON Schema if and only if the code reads it."""

import json
import math
import unicodedata
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import jsonschema
import pytest
import regress
from hypothesis import event as note
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import generate
from schemas.cloudevents import decode_image_received
from schemas.errors import UnreadableRecord
from schemas.names import LONGEST_NAME
from schemas.records import ImageReceived

RECORDS: dict[str, Any] = json.loads(generate.SCHEMA_FILE.read_text())
ASYNCAPI: dict[str, Any] = json.loads(generate.ASYNCAPI_FILE.read_text())
IMAGE_ID = "8b0ccb5c-5b0f-4d4c-9d3c-3f3a2f0a7f11"
SOURCE = {"bucket": "facestream", "key": "incoming/acme/ann.jpg"}
LEARN = {"image_id": IMAGE_ID, "purpose": "learn", "directory": "acme", "person": "Ann", "source": SOURCE}
RECOGNIZE = {"image_id": IMAGE_ID, "purpose": "recognize", "directory": "acme", "source": SOURCE | {"etag": "9b"}}
DETECT = {"image_id": IMAGE_ID, "purpose": "detect", "source": SOURCE, "options": {"limit": 5, "min_face": 40}}
UPLOADED = {name: it for name, it in LEARN.items() if name != "source"} | {
    "media_type": "image/jpeg",
    "sha256": "a" * 64,
    "request_digest": "5f",
    "filename": "ann.jpg",
    "reply_to": "ingest-1",
    "received_at": 1_700_000_000_000,
    "origin": {"topic": "images.received", "partition": 3, "offset": 44},
    "options": {"face": "10,20.5", "force": True},
    "version": 1,
}
EVENTS = [LEARN, RECOGNIZE, DETECT, UPLOADED]
ABSENT = "a member that is absent"
BEYOND_FLOAT = "a number beyond the largest float"  # is written as 1e400


def ecma_pattern(
    validator: jsonschema.Draft202012Validator, pattern: str, instance: object, _: object
) -> Iterator[jsonschema.ValidationError]:
    """Patterns as JSON Schema defines them. Those of jsonschema are Python's."""
    if isinstance(instance, str) and regress.Regex(pattern, flags="u").find(instance) is None:
        yield jsonschema.ValidationError(f"no match of {pattern}")


def validator(kind: Any, schema: dict[str, Any]) -> Any:
    kind.check_schema(schema)
    return kind(schema, format_checker=kind.FORMAT_CHECKER)


IN_RECORDS = {"$ref": "#/$defs/ImageReceived", "$defs": RECORDS["$defs"]}
IN_ASYNCAPI = {
    "allOf": [{"$ref": "#/components/schemas/ImageReceived"}],
    "components": {
        "schemas": {
            name: ASYNCAPI["components"]["schemas"][name] for name in ("ImageReceived", "Options", "Origin", "Source")
        }
    },
}
Ecma = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": ecma_pattern})
VALIDATORS = {
    "JSON Schema": validator(jsonschema.Draft202012Validator, IN_RECORDS),
    "JSON Schema, ECMA 262": validator(Ecma, IN_RECORDS),
    "AsyncAPI": validator(jsonschema.Draft7Validator, IN_ASYNCAPI),  # whose schemas are of draft 7
}


def as_json(event: Any) -> str:
    return json.dumps(event).replace(json.dumps(BEYOND_FLOAT), "1e400")


def not_json(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def fits(text: str) -> bool:
    """Whether all validators accept the event. They must agree."""
    try:
        event = json.loads(text, parse_constant=not_json)
    except ValueError:
        return False
    found: dict[str, bool] = {name: it.is_valid(event) for name, it in VALIDATORS.items()}
    assert len(set(found.values())) == 1, (found, text)
    return found["JSON Schema"]


def is_read(text: str) -> bool:
    """Whether the code accepts the event. Then it also accepts it as a CloudEvent, and writes one that fits."""
    try:
        received = ImageReceived.decode(text.encode())
    except UnreadableRecord:
        return False
    assert fits(received.encode().decode())
    attributes = {"specversion": "1.0", "type": f"facestream.image.{received.purpose}", "source": "/cms", "id": "1"}
    assert decode_image_received(json.dumps(attributes | {"data": json.loads(text)}).encode()) == received
    return True


def changed(event: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of an event. changes: new values, by the path of the member."""
    copy: dict[str, Any] = deepcopy(dict(event))
    for path, value in changes.items():
        *outer, name = path.split(".")
        members = copy
        for level in outer:
            if not isinstance(members.get(level), dict):
                members[level] = {}
            members = members[level]
        if value is ABSENT:
            members.pop(name, None)
        else:
            members[name] = deepcopy(value)
    return copy


# Values that are at the bounds of some member, or that only a lenient reader takes for one.
BLANKS = [" ", "\t", "\n", "\r\n", "\u00a0", "\u1680", "\u2003", "\u2028", "\u202f", "\u205f", "\u3000"]
NO_BLANKS = ["\ufeff", "\u200b", "\u180e", "\u2060", "\u00ad"]
CONTROLS = ["\x00", "\x1f", "\x7f", "\x85", "\x9f"]
LONG = [character * n for character, n in (("x", 200), ("x", 201), ("e\u0301", 100), ("e\u0301", 101))]
LONG += ["\U0001f499" * n for n in (200, 201, 255, 256, 1_024, 1_025)]
TEXTS = [
    *("", "acme", "Ann\n", "a\tb", "\u0600", "null", "largest", "largest\n", "Largest", *LONG, *BLANKS, *NO_BLANKS),
    *(f"a{control}" for control in CONTROLS),
]
UUIDS = [IMAGE_ID, IMAGE_ID.upper(), IMAGE_ID + "\n", f"{{{IMAGE_ID}}}", IMAGE_ID.replace("-", ""), "0" * 36]
DIGESTS = ["", "\n", "a" * 64, "a" * 64 + "\n", "A" * 64, "a" * 63, "٣" * 64]
POINTS = ["1,2", "1.5,2.25", "1,2\n", "1,2,3", "-1,2", "1e3,2", "1234567,1", "1.,2", "٣,1", " 1,2", "1, 2"]
NUMBERS = [
    *(0, -0.0, 1, 2, 3.0, 3.5, 10, 10.0, 11, 1_000, 1_001, -1, 0.01, 1.0, 1.5, 1_000_000, 1_000_001, 5e-324),
    *(2**31 - 1, 2**31, 2**53 - 1, 2**53, float(2**53), 10**30, 1e300, 10**400, -(10**400)),
    *(math.nan, math.inf, -math.inf, BEYOND_FLOAT),
]
OTHERS = [None, True, False, [], {}, ["a"], {"a": 1}]
PURPOSES = ["learn", "recognize", "detect", "erase", "Learn", "learn\n"]
DETAILS = ["normal", "high", "highest"]
STRANGE = [*TEXTS, *UUIDS, *DIGESTS, *POINTS, *NUMBERS, *OTHERS, *PURPOSES, *DETAILS, "1", "1_0", "1.0", " 1", "true"]


def paths(model: str, prefix: str = "") -> list[str]:
    """The paths of all members, and of one in each object that the contract does not know."""
    members = RECORDS["$defs"][model]["properties"]
    inner = {"options": "Options", "source": "Source", "origin": "Origin"}
    found = [f"{prefix}unknown", *(prefix + name for name in members)]
    if not prefix:
        found += [path for name, of in inner.items() for path in paths(of, f"{name}.")]
    return found


def is_short_in_nfc(value: Any) -> bool:
    """Whether it is no text that is too long for a name only in NFC, which a schema cannot say."""
    return not isinstance(value, str) or len(unicodedata.normalize("NFC", value)) <= max(LONGEST_NAME, len(value))


def is_json(value: Any) -> bool:
    """Whether it can be the value of a member that nobody reads."""
    return not isinstance(value, float) or math.isfinite(value)


anything = st.sampled_from(STRANGE) | st.text().filter(is_short_in_nfc) | st.integers() | st.floats()
changes = st.dictionaries(st.sampled_from(paths("ImageReceived")), anything | st.just(ABSENT), max_size=3).filter(
    lambda it: is_json(it.get("unknown")) and is_json(it.get("origin.unknown"))
)
events = st.builds(changed, st.sampled_from(EVENTS), changes)


@settings(max_examples=300, deadline=None)
@given(events.map(as_json))
def test_an_event_fits_the_schema_if_and_only_if_it_is_read(text: str) -> None:
    read = is_read(text)
    note("read" if read else "refused")
    assert fits(text) == read


@pytest.mark.parametrize("path", paths("ImageReceived"))
def test_each_strange_value_of_each_member_is_read_if_and_only_if_it_fits(path: str) -> None:
    event = LEARN if path.startswith("source") else UPLOADED
    for value in [*STRANGE, ABSENT]:
        if is_json(value) or not path.endswith("unknown"):
            text = as_json(changed(event, {path: value}))
            assert fits(text) == is_read(text), text


@settings(max_examples=50, deadline=None)
@given(st.recursive(st.sampled_from(OTHERS) | st.text(max_size=5), st.lists) | st.sampled_from(EVENTS))
def test_only_an_object_is_an_event(value: Any) -> None:
    text = as_json(value)
    assert fits(text) == is_read(text) == (value in EVENTS)


def test_generators_of_code_can_make_one_class_of_an_event() -> None:
    """Several make a union of an object with `anyOf` or `oneOf`, and merge the members of an `if` into others."""
    schema = RECORDS["$defs"]["ImageReceived"]
    assert schema["type"] == "object"
    assert schema.keys() & {"anyOf", "oneOf", "if", "not", "$ref"} == set()
    assert all(condition.keys() == {"not"} for condition in schema["allOf"])


@pytest.mark.parametrize(
    ("event", "changes"),
    [
        (LEARN, {}),
        (RECOGNIZE, {}),
        (DETECT, {}),
        (UPLOADED, {}),
        (LEARN, {"unknown": [1]}),
        (LEARN, {"person": "x" * LONGEST_NAME}),
        (LEARN, {"directory": " a/..\u3000 "}),
        (RECOGNIZE, {"person": None}),
        (DETECT, {"directory": None, "person": None, "received_at": None, "origin": None, "reply_to": None}),
        (DETECT, {"source.etag": None, "options.face": None}),
        (DETECT, {"options.top": 3.0, "version": 1.0, "options.min_score": 1}),
        (UPLOADED, {"source": None}),
        (LEARN, {"media_type": "", "sha256": ""}),
    ],
    ids=str,
)
def test_what_both_accept(event: dict[str, Any], changes: dict[str, Any]) -> None:
    text = as_json(changed(event, changes))
    assert fits(text)
    assert is_read(text)


@pytest.mark.parametrize(
    ("event", "changes"),
    [
        *((LEARN, {member: wrong}) for member in ("person", "directory") for wrong in (None, ABSENT, "", "\u3000")),
        *((LEARN, {"person": wrong}) for wrong in ("x" * 201, "a\n", "\x7f", 1)),
        *((RECOGNIZE, {"directory": wrong}) for wrong in (None, ABSENT, "")),
        *((DETECT, {"directory": wrong}) for wrong in ("", " ", "a\0")),
        *((LEARN, {"source": wrong}) for wrong in (None, ABSENT, dict[str, str](), "https://host/a.jpg")),
        *((UPLOADED, {member: wrong}) for member in ("media_type", "sha256") for wrong in ("", None, ABSENT)),
        *((LEARN, {"image_id": wrong}) for wrong in (None, ABSENT, IMAGE_ID.upper(), IMAGE_ID + "\n")),
        *((LEARN, {"version": wrong}) for wrong in (0, 2, True, "1", None)),
        *((LEARN, {"purpose": wrong}) for wrong in (None, ABSENT, "erase")),
        *((DETECT, {"options.top": wrong}) for wrong in ("3", True, 3.5, 0, 11, math.nan, None)),
        *((DETECT, {"options.min_face": wrong}) for wrong in ("3", True, -1, 1_000_001, math.inf, BEYOND_FLOAT)),
        *((DETECT, {"options.force": wrong}) for wrong in ("true", 1, 0, None)),
        *((DETECT, {member: 1}) for member in ("options.unknown", "source.url")),
        *((DETECT, {member: None}) for member in ("options", "filename", "media_type", "sha256", "source.key")),
        *((UPLOADED, {"origin.offset": wrong}) for wrong in ("1", True, -1, 2**53, None)),
        *((UPLOADED, {"received_at": wrong}) for wrong in ("1", True, -1, 2**53, 1.5)),
    ],
    ids=ascii,
)
def test_what_both_refuse(event: dict[str, Any], changes: dict[str, Any]) -> None:
    text = as_json(changed(event, changes))
    assert not fits(text)
    assert not is_read(text)
