"""Identifiers that are computed from what they identify, so that handling a record twice has the effect of handling it
once (rule 2 of the design).
"""

import hashlib
import json
import uuid
from typing import Annotated

from pydantic import Field

NAMESPACE = uuid.UUID("6f0d3f5e-7d1c-5c39-9c8e-0d9f4b1b6a2f")

# In some validators of JSON Schema, Python's among them, the end of a pattern also matches before a last line feed.
Uuid = Annotated[str, Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$", max_length=36)]


def new_image_id() -> str:
    return str(uuid.uuid4())


def image_id_of_request(directory: str, purpose: str, idempotency_key: str, *erased: int) -> str:
    """The image_id of every request with this Idempotency-Key. erased: the offset of the latest erasure of its image,
    after which the key stands for another image.
    """
    return str(uuid.uuid5(NAMESPACE, json.dumps([directory, purpose, idempotency_key, *erased])))


def image_id_of_event(source: str, event_id: str) -> str:
    """The image_id of every CloudEvent with this source and id."""
    return str(uuid.uuid5(NAMESPACE, json.dumps(["cloudevent", source, event_id])))


def image_id_of_object(bucket: str, key: str, etag: str) -> str:
    """The image_id of an object in a bucket. New content under the same key gets another image_id."""
    return str(uuid.uuid5(NAMESPACE, json.dumps(["object", bucket, key, etag])))


def learned_face_id(image_id: str) -> str:
    return str(uuid.uuid5(uuid.UUID(image_id), "learned"))


def probe_face_id(image_id: str, index: int) -> str:
    """The face_id of a face in a probe. index: its place in the order of the scores, best first."""
    return str(uuid.uuid5(uuid.UUID(image_id), str(index)))


def original_key(image_id: str, purpose: str) -> str:
    """The key of an original in the object store. Learned images are kept until they are erased and probes for some
    days, so each kind has its own prefix.
    """
    return f"{'originals' if purpose == 'learn' else 'probes'}/{image_id}"


def original_keys(image_id: str) -> tuple[str, ...]:
    """The possible keys of an original whose purpose is not known."""
    return original_key(image_id, "recognize"), original_key(image_id, "learn")


def sheet_key(image_id: str) -> str:
    """The key of the sheet of crops, which is stored next to a photo between the detect and the embed stage."""
    return f"{original_key(image_id, 'recognize')}.crops"


def crop_key(face_id: str) -> str:
    """The key of the stored picture of a learned face."""
    return f"crops/{face_id}"


def source_of_face(image_sha256: str, box: list[int]) -> str:
    """Identifies one face of one picture: the same bytes and the same box give the same source (32 hex digits)."""
    return hashlib.sha256(json.dumps([image_sha256, box]).encode()).hexdigest()[:32]


def is_image_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
