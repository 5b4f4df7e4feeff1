"""Records: what goes in comes out, what does not fit is refused with a reason, and the committed schema is the models' own."""

import json
import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas import generate, ids
from schemas.errors import UnreadableRecord
from schemas.records import (
    RECORDS,
    Answer,
    Crop,
    DeadLetter,
    DetectedFace,
    Detection,
    EmbeddedFace,
    Erasure,
    EventRecord,
    FaceLearned,
    FacesDetected,
    FacesEmbedded,
    Generation,
    ImageReceived,
    Models,
    Options,
    encoded_vector,
)
from stream.topics import TOPICS

IMAGE_ID = str(uuid.UUID(int=1))
LANDMARKS = [(1.5, 2.5)] * 5
RECEIVED = ImageReceived(
    image_id=IMAGE_ID,
    purpose="learn",
    directory="acmé",
    person="Å\U0001f499",
    object_key="originals/x",
    media_type="image/jpeg",
    sha256="a" * 64,
    filename='a"b\\c\n.jpg',
    reply_to="ingest-1",
    options=Options(face="10,20.5", strangers=0.25),
)
CROP = Crop(object_key="crops/x", landmarks=LANDMARKS)
FACE = Detection(face_id=IMAGE_ID, box=[1, 2, 4, 6], landmarks=LANDMARKS, score=0.5, detection_score=0.25)
DETECTED = DetectedFace(**FACE.model_dump(), crop=CROP, source="s", cell=3)
EMBEDDED = EmbeddedFace(**FACE.model_dump(), vectors={"one": encoded_vector(np.ones(3, np.float32))}, crop=CROP, source="s")
MODELS = Models(detector="d", embedder="e", generation="one")
EXAMPLES: list[EventRecord] = [
    RECEIVED,
    FacesDetected(received=RECEIVED, faces=[DETECTED], ignored=[FACE], detector="d", sheet_key="c"),
    FacesEmbedded(received=RECEIVED, faces=[EMBEDDED], ignored=[FACE], models=MODELS),
    FaceLearned(directory="a", person="b", face_id=IMAGE_ID, image_id=IMAGE_ID, source="s", crop=CROP, detector="d"),
    Answer(image_id=IMAGE_ID, purpose="detect", status=200, body={"persons": [{"id": None, "x": 0.1}]}),
    Generation(name="one", detector="d", embedder="e", state="active"),
    Erasure(directory="a", person="b"),
    DeadLetter(event=RECEIVED, topic="images.received", partition=3, offset=1 << 40, code="c", reason="r", attempts=3),
    DeadLetter(topic="images.received", partition=0, offset=0, code="c", reason="r", attempts=1),
]


def message(value: bytes | None, model: type[EventRecord] = ImageReceived) -> str:
    with pytest.raises(UnreadableRecord) as raised:
        model.decode(value)
    return raised.value.message


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda it: type(it).__name__)
def test_a_record_comes_back_as_it_was_written(record: EventRecord) -> None:
    assert type(record).decode(record.encode()) == record
    assert json.loads(record.encode())["version"] == 1


def test_every_topic_has_its_record_and_an_example_here() -> None:
    assert set(RECORDS) == {it.name for it in TOPICS}
    assert {type(it) for it in EXAMPLES} == set(RECORDS.values())


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda it: type(it).__name__)
def test_another_version_is_refused_further_members_are_not(record: EventRecord) -> None:
    value = json.loads(record.encode())
    later = value | {"a member of a later release": {"x": 1}}
    assert type(record).decode(json.dumps(later).encode()) == record
    for version in (0, 2, "1", None):
        assert "version" in message(json.dumps(value | {"version": version}).encode(), type(record))


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"null",
        b"[]",
        b"7",
        b"{",
        b"\xff\xfe",
        b'{"image_id": "\\ud800"}',
        b"[" * 200_000,
        b'{"a":' * 50_000,
        b'{"version": 1' + b"0" * 10_000 + b"}",
    ],
    ids=range(11),
)
def test_hostile_json_is_an_unreadable_record(value: bytes | None) -> None:
    for model in set(RECORDS.values()):
        assert model.__name__ in message(value, model)


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda children: (
            st.lists(children) | st.dictionaries(st.sampled_from(sorted(ImageReceived.model_fields)) | st.text(), children)
        ),
        max_leaves=8,
    ).map(lambda it: json.dumps(it).encode())
)
def test_whatever_comes_is_a_record_or_unreadable(value: bytes) -> None:
    try:
        record = ImageReceived.decode(value)
    except UnreadableRecord:
        return
    assert ImageReceived.decode(record.encode()) == record


@pytest.mark.parametrize(
    ("member", "wrong"),
    [
        ("image_id", "../../etc/passwd"),
        ("image_id", IMAGE_ID.upper().replace("0", "A")),
        ("image_id", IMAGE_ID + "\n"),
        ("purpose", "erase"),
        ("directory", ""),
        ("person", "a\x00b"),
        ("object_key", ""),
        ("object_key", "x" * 301),
        ("sha256", "A" * 64),
        ("options", {"top": 11}),
        ("options", {"unknown": 1}),
    ],
)
def test_a_member_out_of_bounds_is_named(member: str, wrong: Any) -> None:
    value = json.loads(RECEIVED.encode()) | {member: wrong}
    assert f"ImageReceived: {member}" in message(json.dumps(value).encode())


def test_the_reason_does_not_repeat_what_was_in_the_record() -> None:
    value = json.loads(RECEIVED.encode()) | {"sha256": "a secret"}
    assert "a secret" not in message(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"top": "0"}, "top"),
        ({"top": "11"}, "top"),
        ({"top": "1.5"}, "top"),
        ({"limit": "1001"}, "limit"),
        ({"limit": "0"}, "limit"),
        ({"strangers": "0"}, "strangers"),
        ({"strangers": "1.01"}, "strangers"),
        ({"strangers": "nan"}, "strangers"),
        ({"min_score": "-0.1"}, "min_score"),
        ({"min_face": "-1"}, "min_face"),
        ({"detail": "highest"}, "detail"),
        ({"face": "smallest"}, "face"),
        ({"face": "1,2,3"}, "face"),
        ({"face": "-1,2"}, "face"),
        ({"face": "1e3,2"}, "face"),
        ({"face": "largest\n"}, "face"),
        ({"force": "perhaps"}, "force"),
    ],
)
def test_options_out_of_bounds_are_refused_by_name(given: dict[str, str], wrong: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Options.model_validate(given)
    assert raised.value.errors()[0]["loc"] == (wrong,)


def test_options_are_read_from_the_text_of_a_form() -> None:
    given = {
        "top": "10",
        "limit": "1",
        "min_score": "0.5",
        "min_face": "12.5",
        "strangers": "1",
        "force": "true",
        "face": "3,4.5",
    }
    assert Options.model_validate(given) == Options(
        top=10, limit=1, min_score=0.5, min_face=12.5, strangers=1, force=True, face="3,4.5"
    )


def test_a_vector_comes_back_bit_by_bit() -> None:
    vector = np.random.default_rng(0).standard_normal(128).astype(np.float32)
    face = EMBEDDED.model_copy(update={"vectors": {"one": encoded_vector(vector)}})
    assert face.vector("one").tobytes() == vector.tobytes()
    strided = np.arange(20, dtype=np.float32)[::2]
    assert EMBEDDED.model_copy(update={"vectors": {"one": encoded_vector(strided)}}).vector("one").tolist() == strided.tolist()


@pytest.mark.parametrize(("box", "side"), [([0, 0, 30, 40], np.sqrt(1_200)), ([5, 5, 5, 9], 0), ([9, 9, 5, 5], 0)])
def test_the_side_of_a_face_is_the_root_of_its_area(box: list[int], side: float) -> None:
    assert FACE.model_copy(update={"box": box}).side == pytest.approx(side)


def test_the_committed_schema_is_up_to_date() -> None:
    assert generate.SCHEMA_FILE.read_text() == generate.text(), "run python -m schemas.generate"


def test_the_schema_says_which_record_each_topic_carries() -> None:
    document = json.loads(generate.text())
    for topic, model in RECORDS.items():
        assert document["topics"][topic] == {"$ref": f"#/$defs/{model.__name__}"}
        assert model.__name__ in document["$defs"]


# Identifiers.


def test_identifiers_follow_from_what_they_identify() -> None:
    keys = [("a", "learn", "k"), ("a", "recognize", "k"), ("b", "learn", "k"), ("a", "learn", "l"), ('a", "learn', "", "k")]
    made = [ids.image_id_of_request(*key) for key in keys]
    assert made == [ids.image_id_of_request(*key) for key in keys]
    assert len(set(made)) == len(keys)
    faces = {ids.face_id_learned(IMAGE_ID), *(ids.face_id_seen(IMAGE_ID, i) for i in range(3))}
    assert len(faces) == 4
    sources = {ids.source_of_face("a" * 64, [1, 2, 3, 4]), ids.source_of_face("a" * 64, [1, 2, 3, 5])}
    assert len(sources | {ids.source_of_face("b" * 64, [1, 2, 3, 4])}) == 3
    assert all(len(it) == 32 for it in sources)


def test_identifiers_of_a_release_are_those_of_the_next() -> None:
    """They are in stores and logs: a change here makes learned faces come twice."""
    assert ids.image_id_of_request("acme", "learn", "key") == "f9d2b02a-858d-5db6-a294-289ff0ffe5a2"
    assert ids.face_id_learned(IMAGE_ID) == "bcf694e0-4b60-5be1-b0d7-6f1377731a30"
    assert ids.source_of_face("a" * 64, [1, 2, 3, 4]) == "bf8db80567fb5df8c7bfe558ef9618ee"


@pytest.mark.parametrize(
    "text", ["", "x", IMAGE_ID.upper(), f"{{{IMAGE_ID}}}", IMAGE_ID.replace("-", ""), f"urn:uuid:{IMAGE_ID}"]
)
def test_only_the_plain_form_is_an_image_id(text: str) -> None:
    hexadecimal = "abcdef00-0000-4000-8000-000000000000"
    assert ids.is_image_id(hexadecimal)
    assert not ids.is_image_id(hexadecimal.upper())
    assert not ids.is_image_id(text) or text == IMAGE_ID
