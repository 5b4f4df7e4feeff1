"""Records of the topics with defaults, for tests that set only the members that matter to them. Unless a test says
otherwise, they are about the person obama in the directory acme. The bodies of answers are in answers.py.
"""

import uuid
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel

from backends.log import NewRecord, Record
from schemas.erasure_records import Erasure
from schemas.erasures import directory_erasure_key, face_erasure_key, image_erasure_key, person_erasure_key
from schemas.errors import FacestreamError, ProcessingFailed
from schemas.faces import Crop, EmbeddedFace
from schemas.ids import crop_key, learned_face_id
from schemas.origins import Cut, Origin
from schemas.records import Answer, DeadLetter, FaceLearned, FacesEmbedded, ImageReceived, Purpose
from stream.dead_letters import dead_letter_record
from stream.topics import DEAD_LETTERS, ERASURES, IMAGES_RECEIVED, ORIGIN_TOPICS, PARTITIONS
from tests import answers

LANDMARKS = [(1.0, 1.0)] * 5

Kind = TypeVar("Kind", bound=BaseModel)


def _make(kind: type[Kind], defaults: dict[str, Any], members: dict[str, Any]) -> Kind:
    assert members.keys() <= kind.model_fields.keys(), "a record ignores a member that it does not have"
    return kind.model_validate(defaults | members)


def image_id(name: object) -> str:
    """The id of the image that a test calls by this name."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name}"))


def face_id(name: object) -> str:
    """The id of the face that a test calls by this name. For a learned face use `learned_face_id`."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name}"))


def image_received(name: object = "photo", purpose: Purpose = "recognize", **members: Any) -> ImageReceived:
    """An uploaded JPEG, or an event that refers to an object if `source` is given."""
    defaults: dict[str, Any] = {"image_id": image_id(name), "purpose": purpose, "directory": "acme"}
    if purpose == "learn":
        defaults["person"] = "obama"
    if members.get("source") is None:
        defaults |= {"media_type": "image/jpeg", "sha256": "0" * 64, "filename": f"{name}.jpg"}
    return _make(ImageReceived, defaults, members)


def embedded_face(face_id: str, **members: Any) -> EmbeddedFace:
    defaults = {"box": [1, 2, 51, 62], "landmarks": LANDMARKS, "score": 0.99, "detection_score": 0.8}
    return _make(EmbeddedFace, {"face_id": face_id} | defaults, members)


def faces_embedded(received: ImageReceived, *faces: EmbeddedFace, **members: Any) -> FacesEmbedded:
    defaults = {"received": received, "received_at": 500, "faces": list(faces), "models": answers.MODELS}
    return _make(FacesEmbedded, defaults, members)


def face_learned(name: object = "portrait", **members: Any) -> FaceLearned:
    """The face of the portrait that a test calls by this name."""
    of_image = image_id(name)
    learned = learned_face_id(of_image)
    defaults = {
        "directory": "acme",
        "person": "obama",
        "face_id": learned,
        "image_id": of_image,
        "source": f"source of {name}",
        "crop": Crop(object_key=crop_key(learned), landmarks=LANDMARKS),
        "detector": "centerface",
        "learned_at": 1_000,
        "generations": [],
    }
    return _make(FaceLearned, defaults, members)


def answer_with_name(name: object, purpose: Purpose, person: str = "obama", **members: Any) -> Answer:
    """The answer to an image, in which the face that was learned from this very image has the person's name."""
    of_image = image_id(name)
    learned = learned_face_id(of_image)
    defaults: dict[str, Any] = {"image_id": of_image, "purpose": purpose, "directory": "acme", "status": 200}
    if purpose == "learn":
        defaults["body"] = answers.learned(person, image_id=of_image, face_id=learned)
    else:
        face = answers.recognized_person(person, answers.candidate(person, face_id=learned))
        defaults["body"] = answers.recognized(face, image_id=of_image)
    return _make(Answer, defaults, members)


def erasure_keys(name: object) -> dict[str, str]:
    """The keys of the erasures under which a portrait falls, by what is erased."""
    return {
        "person": person_erasure_key("acme", "obama"),
        "directory": directory_erasure_key("acme"),
        "image": image_erasure_key(image_id(name)),
        "face": face_erasure_key(learned_face_id(image_id(name))),
    }


def origin_at(offset: int, topic: str = IMAGES_RECEIVED, partition: int = 0) -> Origin:
    return Origin(topic=topic, partition=partition, offset=offset)


def cut_at(offset: int) -> Cut:
    """The cut at this offset of every partition: images whose origins have smaller offsets came before it."""
    return Cut(next_offsets={topic: [offset] * PARTITIONS for topic in ORIGIN_TOPICS})


def erasure(*, at: int = 1_000, partition: int = 0, offset: int = 0, before: int = 1_000, log: str = "") -> Erasure:
    """An erasure that was carried out. at: the version of rows up to which it erases them; before: the offset of its
    cut in every partition; log: the id of the log, "" for one that was made without `create_stores`.
    """
    return Erasure(at=at, partition=partition, offset=offset, log=log, cut=cut_at(before), done=True)


def erasure_record(key: str, **members: Any) -> NewRecord:
    """members: those of `erasure`."""
    return NewRecord(ERASURES, key, erasure(**members).encode())


def dead_letter_of(
    event: ImageReceived | None,
    *,
    error: FacestreamError | None = None,
    at: int = 1_000,
    offset: int = 44,
    key: str = "key",
) -> NewRecord:
    """The dead letter of a record that was appended at `at`, in ms. offset: of that record; dead letters with the same
    one are repetitions. key: of that record, if it has no event.
    """
    failed = Record(IMAGES_RECEIVED, 3, offset, at, key, b"")
    if event is not None:
        failed = replace(failed, original_key=event.image_id, value=event.encode())
    return dead_letter_record(failed, event, error or ProcessingFailed("a defect"), 3, "processors")


def older_dead_letter_of(event: ImageReceived | None, **members: Any) -> NewRecord:
    """The dead letter that version 0.1 has written of a record of `images.received`."""
    defaults = {"topic": IMAGES_RECEIVED, "partition": 3, "offset": 44, "code": "processing_failed"}
    defaults |= {"event": event, "reason": "a defect", "attempts": 3}
    key = "key" if event is None else event.image_id
    return NewRecord(DEAD_LETTERS, key, _make(DeadLetter, defaults, members).encode())


def appended(record: NewRecord, *, at: int = 1_000, offset: int = 0) -> Record:
    """The record as the log returns it after it was appended at `at`, in ms."""
    return Record(record.topic, 0, offset, at, record.key, record.value, tuple(record.headers))
