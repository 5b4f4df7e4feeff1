"""Identifiers that follow from what they identify, so that a record handled twice has one effect (rule 2 of the design)."""

import hashlib
import json
import uuid

NAMESPACE = uuid.UUID("6f0d3f5e-7d1c-5c39-9c8e-0d9f4b1b6a2f")


def new_image_id() -> str:
    return str(uuid.uuid4())


def image_id_of_request(directory: str, purpose: str, idempotency_key: str) -> str:
    """The image_id of every request with this Idempotency-Key."""
    return str(uuid.uuid5(NAMESPACE, json.dumps([directory, purpose, idempotency_key])))


def face_id_learned(image_id: str) -> str:
    return str(uuid.uuid5(uuid.UUID(image_id), "learned"))


def face_id_seen(image_id: str, index: int) -> str:
    """The face_id of the index-th face, best score first, of a photo that was recognized or detected in."""
    return str(uuid.uuid5(uuid.UUID(image_id), str(index)))


def source_of_face(image_sha256: str, box: list[int]) -> str:
    """Tells one face of one picture: the same bytes and the same box give the same source (32 hex digits)."""
    return hashlib.sha256(json.dumps([image_sha256, box]).encode()).hexdigest()[:32]


def is_image_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
