"""The key of an erasure: a digest of what was erased, because `erasures` is kept for ever and must not hold the name of
an erased person.
"""

import hashlib
import json


def erased_person(directory: str, person: str) -> str:
    return _digest("person", directory, person)


def erased_directory(directory: str) -> str:
    return _digest("directory", directory)


def erased_face(face_id: str) -> str:
    return _digest("face", face_id)


def erased_image(image_id: str) -> str:
    return _digest("image", image_id)


def _digest(*what: str) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()
