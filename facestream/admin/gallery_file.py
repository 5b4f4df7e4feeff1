"""The file of an exported directory: a tar with a JSON file, a crop and an original for each face.

    gallery.json            version, directory, generations, how many faces
    faces/FACE_ID.json      ExportedFace, with its vectors by generation
    crops/FACE_ID.jpg       the kept picture of the face
    originals/IMAGE_ID      the picture that it was learned from, as uploaded

Names in the file are never used as paths to write to.
"""

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.errors import ConfigurationError, InvalidRequest, StorageFull
from schemas.faces import Box, Landmarks
from schemas.ids import Uuid
from schemas.names import Name

Model = TypeVar("Model", bound=BaseModel)

GALLERY = "gallery.json"
LARGEST_JSON, LARGEST_CROP, LARGEST_ORIGINAL = 1_000_000, 2_000_000, 1_000_000_000  # bytes


class GalleryHead(BaseModel):
    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    directory: Name
    generations: list[str]
    faces: int


class ExportedFace(BaseModel):
    """A face. `landmarks` are in pixels of the crop, `box` in those of the original; `vectors` are base64 of
    little-endian float32.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    person: Name
    face_id: Uuid
    image_id: Uuid
    source: str
    detector: str
    box: Box | None = None
    landmarks: Landmarks
    vectors: dict[str, str]


class FaceWithPictures(BaseModel):
    model_config = ConfigDict(frozen=True)

    face: ExportedFace
    crop: bytes
    original: bytes | None


class GalleryWriter:
    """A context manager that writes the file. An unfinished file is deleted. Only the owner may read the file."""

    def __init__(self, path: Path, head: GalleryHead) -> None:
        self._path, self._part = path, path.parent / f"{path.name}.part"
        self._head = head

    def __enter__(self) -> "GalleryWriter":
        """Raises ConfigurationError if the file cannot be written."""
        if os.path.isdir(self._path):
            raise ConfigurationError(f"{self._path} is a folder: name a file")
        try:
            descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"{self._path} cannot be written: {error.strerror}") from None
        self._file = os.fdopen(descriptor, "wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w")
        self._add(GALLERY, self._head.model_dump_json().encode())  # into the buffer of the file
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Raises StorageFull, as `add` does."""
        try:
            if error is None:
                self._tar.close()
                self._file.close()
                self._part.replace(self._path)
        except OSError as failed:
            raise self._storage_full(failed) from None
        finally:
            with suppress(OSError):  # data that could not be written is still buffered
                self._file.close()
            self._part.unlink(missing_ok=True)

    def add(self, exported: FaceWithPictures) -> None:
        """Raises StorageFull."""
        if exported.original is not None:
            self._add(f"originals/{exported.face.image_id}", exported.original)
        self._add(f"crops/{exported.face.face_id}.jpg", exported.crop)
        self._add(f"faces/{exported.face.face_id}.json", exported.face.model_dump_json().encode())

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        try:
            self._tar.addfile(member, io.BytesIO(data))
        except OSError as error:
            raise self._storage_full(error) from None

    def _storage_full(self, error: OSError) -> StorageFull:
        return StorageFull(f"{self._path} cannot be written: {error.strerror}")


def read_head(path: Path) -> GalleryHead:
    """Raises InvalidRequest."""
    for _, _, data in _members(path):
        return _parse(GalleryHead, data, path)
    raise InvalidRequest(f"{path} is empty: it is no export of facestream")


def read_faces(path: Path) -> Iterator[FaceWithPictures]:
    """Raises InvalidRequest."""
    crop = original = None
    for kind, name, data in _members(path):
        if kind == "originals":
            original = (name, data)
        elif kind == "crops":
            crop = (name, data)
        elif kind == "faces":
            face = _parse(ExportedFace, data, path)
            if crop is None or crop[0] != f"{face.face_id}.jpg":
                raise InvalidRequest(f"{path}: the crop of face {face.face_id} is missing")
            picture = original[1] if original is not None and original[0] == face.image_id else None
            yield FaceWithPictures(face=face, crop=crop[1], original=picture)
            crop = original = None


def _members(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yields the folder, name and bytes of each member. The first is GALLERY."""
    try:
        with tarfile.open(path, "r|") as tar:
            for number, member in enumerate(tar):
                folder, _, name = member.name.rpartition("/")
                limit = {"crops": LARGEST_CROP, "originals": LARGEST_ORIGINAL}.get(folder, LARGEST_JSON)
                is_plain = member.isfile() and not member.issparse()  # a sparse one may be larger than the file
                if (number == 0) != (member.name == GALLERY) or not is_plain or member.size > limit:
                    raise InvalidRequest(
                        f"{path} is no export of facestream: '{member.name[:100]}' does not belong there"
                    )
                yield folder, name, _read(tar.extractfile(member))
    except (tarfile.TarError, EOFError) as error:
        raise InvalidRequest(f"{path} is no export of facestream, or is cut off: {error}") from None
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from None


def _read(file: IO[bytes] | None) -> bytes:
    return file.read() if file is not None else b""


def _parse(model: type[Model], data: bytes, path: Path) -> Model:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise InvalidRequest(f"{path}: no valid {model.__name__}: {first['loc']}: {first['msg']}") from None
