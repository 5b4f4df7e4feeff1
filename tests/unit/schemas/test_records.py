"""Records: they are decoded as they were encoded, invalid ones are refused with a reason, and the committed schema is
up to date.
"""

import json
import math
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas import generate, ids
from schemas.answers import ErasedBody, ErasedCounts, Models
from schemas.bucket_events import BucketNotified
from schemas.calibration import Threshold
from schemas.erasure_records import Erasure, LogIdentity
from schemas.errors import UnreadableRecord
from schemas.event import EventRecord
from schemas.faces import Crop, DetectedFace, Detection, EmbeddedFace, encode_vector
from schemas.generation_records import ActiveGeneration, Generation, OnnxEmbedder
from schemas.options import Options
from schemas.records import (
    RECORDS,
    Answer,
    DeadLetter,
    DeadLetterClosed,
    EraseRequested,
    FaceLearned,
    FacesDetected,
    FacesEmbedded,
    FacesReembedded,
    ImageReceived,
    ReembeddedFace,
    Source,
    decode_dead_letter,
    decode_embedded,
)
from stream.topics import TOPICS
from tests.answers import detected, learned, recognized, recognized_person, refused
from tests.records import erasure

IMAGE_ID = str(uuid.UUID(int=1))
LANDMARKS = [(1.5, 2.5)] * 5
RECEIVED = ImageReceived(
    image_id=IMAGE_ID,
    purpose="learn",
    directory="acmé",
    person="Å\U0001f499",
    media_type="image/jpeg",
    sha256="a" * 64,
    filename='a"b\\c\n.jpg',
    reply_to="ingest-1",
    received_at=7,
    options=Options(face="10,20.5", strangers=0.25),
)
CROP = Crop(object_key="crops/x", landmarks=LANDMARKS)
FACE = Detection(face_id=IMAGE_ID, box=[1, 2, 4, 6], landmarks=LANDMARKS, score=0.5, detection_score=0.25)
DETECTED = DetectedFace(**FACE.model_dump(), crop=CROP, source="s", cell=3)
VECTOR = encode_vector(np.ones(3, np.float32))
EMBEDDED = EmbeddedFace(**FACE.model_dump(), vectors={"one": VECTOR}, crop=CROP, source="s")
REEMBEDDED = ReembeddedFace(person="b", face_id=IMAGE_ID, image_id=IMAGE_ID, source="s", learned_at=1, vector=VECTOR)
MODELS = Models(detector="d", embedder="e", generation="one")
ONNX = OnnxEmbedder(object_key="models/x", sha256="b" * 64, side=112, channels="bgr", scale=0.5, offset=-1)
LEARNED = FaceLearned(
    directory="a",
    person="b",
    face_id=IMAGE_ID,
    image_id=IMAGE_ID,
    source="s",
    crop=CROP,
    detector="d",
    learned_at=1 << 40,
    generations=["one", "two"],
)
NOTIFIED = BucketNotified.model_validate(
    {
        "EventName": "s3:ObjectCreated:Put",
        "Records": [
            {
                "eventName": "s3:ObjectCreated:Put",
                "s3": {"bucket": {"name": "b"}, "object": {"key": "a%2Fb+c", "eTag": "e"}},
            }
        ],
    }
)
ERASED = ErasedBody(status="OK", directory="a", person=None, erased=ErasedCounts(faces=1, images=2))
EXAMPLES: list[EventRecord] = [
    NOTIFIED,
    RECEIVED,
    ImageReceived(image_id=IMAGE_ID, purpose="detect", source=Source(bucket="photos", key="a/é.jpg", etag="e")),
    FacesDetected(received=RECEIVED, received_at=7, faces=[DETECTED], ignored=[FACE], models=MODELS, sheet_key="c"),
    FacesEmbedded(received=RECEIVED, received_at=7, faces=[EMBEDDED], ignored=[FACE], models=MODELS),
    EraseRequested(image_id=IMAGE_ID, directory="a", person="b", face_id=IMAGE_ID, reply_to="ingest-1"),
    EraseRequested(image_id=IMAGE_ID, directory="a"),
    FacesReembedded(directory="a", generation="two", faces=[REEMBEDDED]),
    LEARNED,
    Answer(image_id=IMAGE_ID, purpose="learn", status=201, body=learned()),
    Answer(image_id=IMAGE_ID, purpose="recognize", status=200, body=recognized(recognized_person(None, x=0.1))),
    Answer(image_id=IMAGE_ID, purpose="detect", status=200, body=detected(persons=[FACE.model_dump()]), store=False),
    Answer(image_id=IMAGE_ID, purpose="detect", status=500, body=refused(500, image_id=IMAGE_ID)),
    Answer(image_id=IMAGE_ID, purpose="erase", status=200, body=ERASED, offset=1 << 40),
    Generation(
        name="one",
        state="candidate",
        detector="d",
        embedder="e",
        template="arcface",
        dimension=512,
        onnx=ONNX,
        threshold=Threshold(people=[1, 10], one_in_10=[0.1, 0.2], one_in_100=[0.2, 0.3], one_in_1000=[0.3, 0.4]),
        faces=3,
    ),
    ActiveGeneration(active="one"),
    Erasure(at=1, partition=63, offset=1 << 40),
    erasure(offset=1 << 40, log="5f").model_copy(update={"kept_until": {"faces.embedded": [7]}, "faces": 3}),
    LogIdentity(id="5f"),
    DeadLetter(event=RECEIVED, topic="images.received", partition=3, offset=1 << 40, code="c", reason="r", attempts=3),
    DeadLetter(topic="images.received", partition=0, offset=0, code="c", reason="r", attempts=1),
    DeadLetterClosed(closed="retried", letter=1 << 40),
]
MODELS_OF_TOPICS = [model for models in RECORDS.values() for model in models]


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
    assert {type(it) for it in EXAMPLES} == set(MODELS_OF_TOPICS)


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda it: type(it).__name__)
def test_another_version_is_refused_but_unknown_members_are_ignored(record: EventRecord) -> None:
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
    for model in set(MODELS_OF_TOPICS):
        assert model.__name__ in message(value, model)


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda children: (
            st.lists(children)
            | st.dictionaries(st.sampled_from(sorted(ImageReceived.model_fields)) | st.text(), children)
        ),
        max_leaves=8,
    ).map(lambda it: json.dumps(it).encode())
)
def test_any_value_gives_a_record_or_unreadable_record(value: bytes) -> None:
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
        ("received_at", -1),
        ("received_at", 2**53),
        ("directory", ""),
        ("person", "a\x00b"),
        ("sha256", "A" * 64),
        ("options", {"top": 11}),
        ("options", {"unknown": 1}),
    ],
)
def test_a_member_out_of_bounds_is_named(member: str, wrong: Any) -> None:
    value = json.loads(RECEIVED.encode()) | {member: wrong}
    assert f"ImageReceived: {member}" in message(json.dumps(value).encode())


def replace_numbers(value: Any, number: float) -> Iterator[Any]:
    """Copies of a JSON value, in each of which one number is replaced, apart from `x`, which no release knows."""
    if isinstance(value, dict):
        for name, it in value.items():
            if name != "x":
                yield from (value | {name: changed} for changed in replace_numbers(it, number))
    elif isinstance(value, list):
        for i, it in enumerate(value):
            yield from ([*value[:i], changed, *value[i + 1 :]] for changed in replace_numbers(it, number))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield number


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda it: type(it).__name__)
def test_a_record_has_only_finite_numbers(record: EventRecord) -> None:
    for number in (math.nan, math.inf, -math.inf):
        for changed in replace_numbers(json.loads(record.encode()), number):
            assert type(record).__name__ in message(json.dumps(changed).encode(), type(record))


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("person", "takes a person"),
        ("directory", "takes a directory"),
        ("media_type", "missing"),
        ("sha256", "missing"),
    ],
)
def test_an_image_without_the_members_that_its_purpose_requires_is_refused(missing: str, said: str) -> None:
    value = {name: it for name, it in json.loads(RECEIVED.encode()).items() if name != missing}
    assert said in message(json.dumps(value).encode())


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
        ({"min_face": "inf"}, "min_face"),
        ({"min_face": "1e400"}, "min_face"),
        ({"min_face": 10**400}, "min_face"),
        ({"min_face": True}, "min_face"),
        ({"top": True}, "top"),
        ({"top": math.inf}, "top"),
        ({"strangers": math.nan}, "strangers"),
        ({"detail": "highest"}, "detail"),
        ({"face": "smallest"}, "face"),
        ({"face": "1,2,3"}, "face"),
        ({"face": "-1,2"}, "face"),
        ({"face": "1e3,2"}, "face"),
        ({"face": "largest\n"}, "face"),
        ({"force": "perhaps"}, "force"),
    ],
)
def test_options_out_of_bounds_are_refused_by_name(given: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Options.from_texts(given)
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
    assert Options.from_texts(given) == Options(
        top=10, limit=1, min_score=0.5, min_face=12.5, strangers=1, force=True, face="3,4.5"
    )


def test_a_vector_comes_back_bit_by_bit() -> None:
    vector = np.random.default_rng(0).standard_normal(128).astype(np.float32)
    face = EMBEDDED.model_copy(update={"vectors": {"one": encode_vector(vector)}})
    assert face.vector("one").tobytes() == vector.tobytes()
    strided = np.arange(20, dtype=np.float32)[::2]
    assert (
        EMBEDDED.model_copy(update={"vectors": {"one": encode_vector(strided)}}).vector("one").tolist()
        == strided.tolist()
    )


@pytest.mark.parametrize(("box", "side"), [([0, 0, 30, 40], np.sqrt(1_200)), ([5, 5, 5, 9], 0), ([9, 9, 5, 5], 0)])
def test_the_side_of_a_face_is_the_root_of_its_area(box: list[int], side: float) -> None:
    assert FACE.model_copy(update={"box": box}).side == pytest.approx(side)


def test_the_committed_schema_is_up_to_date() -> None:
    assert generate.SCHEMA_FILE.read_text() == generate.text(generate.schema()), "run python -m schemas.generate"


def test_the_schema_says_which_records_each_topic_carries() -> None:
    document = generate.schema()
    for topic, models in RECORDS.items():
        assert document["topics"][topic] == {"oneOf": [{"$ref": f"#/$defs/{model.__name__}"} for model in models]}
        assert {model.__name__ for model in models} <= document["$defs"].keys()


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda it: type(it).__name__)
def test_a_record_fits_only_its_own_kind(record: EventRecord) -> None:
    """If a topic has several kinds of records, each record fits only one kind."""
    value = record.encode()
    if type(record) in RECORDS["faces.embedded"]:
        assert decode_embedded(value) == record
    elif isinstance(record, DeadLetter | DeadLetterClosed):
        assert decode_dead_letter(value) == record
    for models in RECORDS.values():
        if type(record) in models:
            for other in set(models) - {type(record)}:
                assert other.__name__ in message(value, other)


@pytest.mark.parametrize(
    "value", [None, b"", b"{}", b"[" * 10_000, b'{"kind": "faces"}', b'{"kind": "x"}', b'{"closed": "lost"}']
)
def test_a_record_of_an_unknown_kind_is_unreadable(value: bytes | None) -> None:
    for decode in decode_embedded, decode_dead_letter:
        with pytest.raises(UnreadableRecord):
            decode(value)


@pytest.mark.parametrize(("purpose", "folder"), [("learn", "originals"), ("recognize", "probes"), ("detect", "probes")])
def test_the_object_key_of_an_original_follows_from_image_id_and_purpose(purpose: Any, folder: str) -> None:
    value = json.loads(RECEIVED.encode()) | {"purpose": purpose, "object_key": "somebody/elses"}
    assert ImageReceived.decode(json.dumps(value).encode()).object_key == f"{folder}/{IMAGE_ID}"


def test_an_image_was_received_at_its_append_time_or_earlier_if_it_says_so() -> None:
    first = RECEIVED.model_copy(update={"received_at": None})
    assert (first.first_received_at(10), RECEIVED.first_received_at(10), RECEIVED.first_received_at(3)) == (10, 7, 3)


# Identifiers.


def test_identifiers_follow_from_what_they_identify() -> None:
    keys = [
        ("a", "learn", "k"),
        ("a", "recognize", "k"),
        ("b", "learn", "k"),
        ("a", "learn", "l"),
        ('a", "learn', "", "k"),
    ]
    made = [ids.image_id_of_request(*key) for key in keys]
    assert made == [ids.image_id_of_request(*key) for key in keys]
    assert len(set(made)) == len(keys)
    faces = {ids.learned_face_id(IMAGE_ID), *(ids.probe_face_id(IMAGE_ID, i) for i in range(3))}
    assert len(faces) == 4
    sources = {ids.source_of_face("a" * 64, [1, 2, 3, 4]), ids.source_of_face("a" * 64, [1, 2, 3, 5])}
    assert len(sources | {ids.source_of_face("b" * 64, [1, 2, 3, 4])}) == 3
    assert all(len(it) == 32 for it in sources)


def test_identifiers_never_change_between_releases() -> None:
    """They are in stores and logs: if they changed, faces would be learned twice."""
    assert ids.image_id_of_request("acme", "learn", "key") == "f9d2b02a-858d-5db6-a294-289ff0ffe5a2"
    assert ids.image_id_of_event("/cms", "article-42") == "d5ee5bda-b041-53d9-81eb-076b0b7c4a5b"
    assert ids.image_id_of_object("faces", "incoming/a/recognize/1.jpg", "e") == "d229af88-8b4c-59d7-bd7f-5ce048e06a56"
    assert ids.learned_face_id(IMAGE_ID) == "bcf694e0-4b60-5be1-b0d7-6f1377731a30"
    assert ids.source_of_face("a" * 64, [1, 2, 3, 4]) == "bf8db80567fb5df8c7bfe558ef9618ee"


@pytest.mark.parametrize(
    "text", ["", "x", IMAGE_ID.upper(), f"{{{IMAGE_ID}}}", IMAGE_ID.replace("-", ""), f"urn:uuid:{IMAGE_ID}"]
)
def test_only_the_plain_form_is_an_image_id(text: str) -> None:
    hexadecimal = "abcdef00-0000-4000-8000-000000000000"
    assert ids.is_image_id(hexadecimal)
    assert not ids.is_image_id(hexadecimal.upper())
    assert not ids.is_image_id(text) or text == IMAGE_ID
