"""Pictures that other systems have put somewhere: which of them an event may refer to, and how they become originals.

An object of our own bucket may be had below `incoming/{directory}/` of the event's directory, one of another bucket
where a setting names the bucket. What is erased goes from our bucket too, from others only its copy does.
"""

import asyncio
import hashlib
import unicodedata
from collections.abc import Collection
from pathlib import PurePosixPath

from backends.objects import ObjectStore, StoredObject
from schemas.errors import ForbiddenSource, ObjectMissing
from schemas.media import media_type_of
from schemas.names import normalised
from schemas.records import ImageReceived, Purpose

INCOMING = "incoming/"
SOURCE = (
    "source"  # in an original's metadata: what follows `incoming/{directory}/` in the key of its source in our bucket
)
LONGEST_FILENAME = 255


class Sources:
    """`buckets` are those of others that events may refer to, `largest` is in bytes."""

    def __init__(self, objects: ObjectStore, buckets: Collection[str], largest: int) -> None:
        self._objects, self._buckets, self._largest = objects, frozenset(buckets), largest

    async def original(self, received: ImageReceived, received_at: int) -> tuple[ImageReceived, StoredObject]:
        """The event with what follows from the picture's bytes, and its original, which is copied from the event's
        source where that was not done before. received_at: when it came, ms. Raises ForbiddenSource, ObjectMissing,
        UploadTooLarge, NotAnImage, Unavailable, StorageFull.
        """
        source = received.source
        if source is None:
            return received, await self._objects.get(received.object_key)
        key = own_source(received, self._objects)
        is_ours = self._objects.key_of(source.bucket, source.key) is not None
        if key is None and (is_ours or source.bucket not in self._buckets):
            raise ForbiddenSource(
                f"an event may not refer to '{source.key}' in the bucket '{source.bucket}': in ours only what lies below"
                f" {INCOMING}{received.directory or '{directory}'}/ may be had, and of others what FACESTREAM_SOURCES names"
            )
        try:
            data = await self._objects.fetch(source.bucket, source.key, etag=source.etag, largest=self._largest)
        except ObjectMissing as missing:
            return await self._copied_before(received, missing)
        described = await asyncio.to_thread(_described, received, data)
        metadata = {
            "directory": received.directory or "",
            "person": received.person or "",
            "request": received.request_digest or "",
            "received": str(received_at / 1000),
        }
        if key is not None:
            metadata[SOURCE] = key.split("/", 2)[2]
        if not await self._objects.put(received.object_key, data, metadata, if_absent=True):
            return await self._copied_before(received, ObjectMissing("it went a moment ago"))
        return described, StoredObject(data, metadata)

    async def _copied_before(
        self, received: ImageReceived, missing: ObjectMissing
    ) -> tuple[ImageReceived, StoredObject]:
        """An event that came before has left a copy; whatever its source is by now, the copy is the picture."""
        try:
            stored = await self._objects.get(received.object_key)
        except ObjectMissing:
            raise missing from None
        return await asyncio.to_thread(_described, received, stored.data), stored


def _described(received: ImageReceived, data: bytes) -> ImageReceived:
    media_type = media_type_of(data)
    filename = received.filename or (PurePosixPath(received.source.key).name if received.source else "")
    known = {
        "media_type": media_type,
        "sha256": hashlib.sha256(data).hexdigest(),
        "filename": filename[:LONGEST_FILENAME],
    }
    return received.model_copy(update=known)


def own_source(received: ImageReceived, objects: ObjectStore) -> str | None:
    """The key, in our bucket, of an event's source below `incoming/` of its own directory."""
    if received.source is None or received.directory is None:
        return None
    key = objects.key_of(received.source.bucket, received.source.key)
    return key if key is not None and directory_of(key) == received.directory else None


def directory_of(key: str) -> str | None:
    """Whose an object is below `incoming/`."""
    levels = key.split("/", 2)
    if len(levels) < 3 or levels[0] + "/" != INCOMING or not levels[2]:
        return None
    try:
        return normalised(levels[1])
    except ValueError:
        return None


def place_of(key: str) -> tuple[Purpose, str, str | None] | None:
    """What the place of an object says, where it is one of a bucket that is watched: purpose, directory and person."""
    if not key.startswith(INCOMING) or key.endswith("/"):  # that stands for a folder
        return None
    match key.removeprefix(INCOMING).split("/"):
        case [directory, "learn", person, _, *_]:
            return "learn", directory, person
        case [directory, "recognize", _, *_]:
            return "recognize", directory, None
    return None


async def sources_of(image_keys: Collection[str], directory: str, objects: ObjectStore) -> list[str]:
    """The keys of the sources, in our bucket, of a directory's originals."""
    found = await asyncio.gather(*(objects.metadata(key) for key in image_keys))
    rests = [metadata[SOURCE] for metadata in found if metadata is not None and SOURCE in metadata]
    return [f"{INCOMING}{form}/{rest}" for rest in rests for form in _forms(directory)]


async def incoming(directory: str, person: str | None, until_s: float, objects: ObjectStore) -> list[str]:
    """The keys below `incoming/` of a directory, or of a person to learn in it, that were put until then (s since the
    epoch).
    """
    of_person = [""] if person is None else [f"learn/{form}/" for form in _forms(person)]
    prefixes = {f"{INCOMING}{form}/{rest}" for form in _forms(directory) for rest in of_person}
    return [it.key for prefix in prefixes async for it in objects.list(prefix) if it.modified <= until_s]


def _forms(name: str) -> set[str]:
    """How others may have written it: names are in NFC, file names on some systems in NFD."""
    return {name, unicodedata.normalize("NFD", name)}
