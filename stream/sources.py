"""Copies the picture that an event refers to, and makes it the image's original.

An event may refer to an object of our own bucket below `incoming/{directory}/` of its own directory, and to one of
another bucket where a setting names the bucket. An erasure deletes both the object in our bucket and its copy, but of
an object in another bucket only the copy.
"""

import asyncio
import hashlib
from collections.abc import Collection
from pathlib import PurePosixPath

from backends.objects import ObjectReader, StoredObject
from schemas.errors import ForbiddenSource, ObjectMissing
from schemas.media import media_type_of
from schemas.records import ImageReceived
from stream.erase.guarded_store import GuardedStore
from stream.incoming import INCOMING, own_source_key, source_of_original

LONGEST_FILENAME = 255


class SourceCopier:
    """Reads and copies sources. `buckets` are the other systems' buckets to which events may refer; `largest` is in
    bytes.
    """

    def __init__(self, objects: ObjectReader, store: GuardedStore, buckets: Collection[str], largest: int) -> None:
        self._objects, self._store = objects, store
        self._buckets, self._largest = frozenset(buckets), largest

    async def read_original(self, received: ImageReceived, received_at: int) -> tuple[ImageReceived, StoredObject]:
        """The event, completed from the bytes of its picture, and its original. A source is copied first, unless that
        was done before. received_at: when the image was received, ms. Raises Erased, ForbiddenSource, ObjectMissing,
        UploadTooLarge, NotAnImage, Unavailable, StorageFull.
        """
        source = received.source
        if source is None:
            return received, await self._objects.get(received.object_key)
        key = own_source_key(received, self._objects)
        is_ours = self._objects.key_of(source.bucket, source.key) is not None
        if key is None and (is_ours or source.bucket not in self._buckets):
            raise ForbiddenSource(
                f"an event may not refer to '{source.key}' in the bucket '{source.bucket}': "
                + (
                    f"in our bucket only to what lies below {INCOMING}{received.directory or '{directory}'}/"
                    if is_ours
                    else "it is not ours, and FACESTREAM_SOURCES does not name it"
                )
            )
        try:
            data = await self._objects.fetch(source.bucket, source.key, etag=source.etag, largest=self._largest)
        except ObjectMissing as missing:
            return await self._read_earlier_copy(received, missing)
        completed = await asyncio.to_thread(_complete, received, data)
        of_source = source_of_original(key) if key is not None else None
        metadata = self._store.metadata(received, received_at, source=of_source)
        if not await self._store.put(received, received.object_key, data, metadata, if_absent=True):
            return await self._read_earlier_copy(received, ObjectMissing("it was just deleted"))
        return completed, StoredObject(data, metadata.encode())

    async def _read_earlier_copy(
        self, received: ImageReceived, missing: ObjectMissing
    ) -> tuple[ImageReceived, StoredObject]:
        """The copy that an earlier event has left. It is the picture, even if the source has changed since. The worker
        that made it may have crashed before it checked the erasures.
        """
        try:
            stored = await self._objects.get(received.object_key)
        except ObjectMissing:
            raise missing from None
        await self._store.drop_if_erased_meanwhile(received)
        return await asyncio.to_thread(_complete, received, stored.data), stored


def _complete(received: ImageReceived, data: bytes) -> ImageReceived:
    """The event, with the fields that are determined from the bytes. Raises NotAnImage."""
    media_type = media_type_of(data)
    filename = received.filename or (PurePosixPath(received.source.key).name if received.source else "")
    known = {
        "media_type": media_type,
        "sha256": hashlib.sha256(data).hexdigest(),
        "filename": filename[:LONGEST_FILENAME],
    }
    return received.model_copy(update=known)
