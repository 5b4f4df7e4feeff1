"""The four things that can be erased, the command that erases one, and its key in the topic `erasures`.

On the wire a command is one record, `EraseRequested`, with optional fields; here each kind has its own type. A key is a
digest, because the name of an erased person must not stay in a topic that is kept for ever.
"""

import hashlib
import json
from dataclasses import dataclass

from schemas.errors import UnreadableRecord
from schemas.origins import Cut
from schemas.records import EraseRequested


@dataclass(frozen=True, slots=True)
class DirectoryErasure:
    """Everybody in a directory, and all its pictures."""

    directory: str

    @property
    def keys(self) -> tuple[str, ...]:
        return (directory_erasure_key(self.directory),)


@dataclass(frozen=True, slots=True)
class PersonErasure:
    """All faces of a person, with their images."""

    directory: str
    person: str

    @property
    def keys(self) -> tuple[str, ...]:
        return (person_erasure_key(self.directory, self.person),)


@dataclass(frozen=True, slots=True)
class FaceErasure:
    """One face of a person, already learned or still to be learned, with its image."""

    directory: str
    person: str
    face_id: str
    image_id: str

    @property
    def keys(self) -> tuple[str, ...]:
        return (image_erasure_key(self.image_id), face_erasure_key(self.face_id))


@dataclass(frozen=True, slots=True)
class ImageErasure:
    """One image that no face is learned from."""

    directory: str
    image_id: str

    @property
    def keys(self) -> tuple[str, ...]:
        return (image_erasure_key(self.image_id),)


AnyErasure = DirectoryErasure | PersonErasure | FaceErasure | ImageErasure


def erase_command(erasure: AnyErasure, request_id: str, cut: Cut, reply_to: str | None) -> EraseRequested:
    """The record of a command, which is answered under `request_id`. Images that came before `cut` are erased."""
    command = EraseRequested(image_id=request_id, directory=erasure.directory, cut=cut, reply_to=reply_to)
    match erasure:
        case PersonErasure():
            return command.model_copy(update={"person": erasure.person})
        case FaceErasure():
            face = {"person": erasure.person, "face_id": erasure.face_id, "erased_image_id": erasure.image_id}
            return command.model_copy(update=face)
        case ImageErasure():
            return command.model_copy(update={"erased_image_id": erasure.image_id})
        case DirectoryErasure():
            return command


def erasure_of(command: EraseRequested) -> AnyErasure:
    """What a command erases. Raises UnreadableRecord if its fields match none of the four kinds."""
    match command:
        case EraseRequested(person=None, face_id=None, erased_image_id=None):
            return DirectoryErasure(command.directory)
        case EraseRequested(person=str(person), face_id=None, erased_image_id=None):
            return PersonErasure(command.directory, person)
        case EraseRequested(person=str(person), face_id=str(face_id), erased_image_id=str(image_id)):
            return FaceErasure(command.directory, person, face_id, image_id)
        case EraseRequested(person=None, face_id=None, erased_image_id=str(image_id)):
            return ImageErasure(command.directory, image_id)
    raise UnreadableRecord("an erase command names a directory, a person, a face with its image, or an image")


def person_erasure_key(directory: str, person: str) -> str:
    return _digest("person", directory, person)


def directory_erasure_key(directory: str) -> str:
    return _digest("directory", directory)


def face_erasure_key(face_id: str) -> str:
    return _digest("face", face_id)


def image_erasure_key(image_id: str) -> str:
    return _digest("image", image_id)


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
