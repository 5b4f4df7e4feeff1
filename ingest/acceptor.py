"""Accepts an upload: stores the object first, then appends the event (rule 1 of docs/architecture.md). It is idempotent
if there is an Idempotency-Key (rule 2).
"""

import asyncio
import hashlib
import json
import math
import time
from weakref import WeakValueDictionary

import structlog

from backends.log import EventLog, NewRecord
from backends.objects import ObjectReader
from backends.reserve import DiskReserve
from backends.vectors import VectorReader
from ingest.metrics import UPLOADED
from ingest.uploads import Upload
from schemas.errors import IdempotencyKeyReused, StorageFull, Unavailable
from schemas.ids import image_id_of_request, new_image_id
from schemas.media import media_type_of
from schemas.object_metadata import ObjectMetadata
from schemas.options import Options
from schemas.records import Answer, ImageReceived, Purpose
from stream.erase.erasures import NO_OFFSET, Erasures, last_offset
from stream.erase.guarded_store import GuardedStore

log = structlog.get_logger(__name__)

HASH_IN_THREAD = 1 << 20
FAILED_S = 10.0


class UploadAcceptor:
    """Stores uploads and appends their events."""

    def __init__(
        self,
        log: EventLog,
        objects: ObjectReader,
        vectors: VectorReader,
        store: GuardedStore,
        erasures: Erasures,
        reserve: DiskReserve,
        reply_to: str,
    ) -> None:
        self._log, self._objects, self._vectors = log, objects, vectors
        self._store, self._erasures, self._reserve = store, erasures, reserve
        self._reply_to = reply_to
        self._failed: tuple[float, str] | None = None  # when an upload could not be stored, and why
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def make_event(
        self,
        upload: Upload,
        purpose: Purpose,
        directory: str | None,
        person: str | None,
        options: Options,
        idempotency_key: str | None,
    ) -> ImageReceived:
        """The event of an upload; nothing is stored yet. Raises NotAnImage and, if there is an Idempotency-Key,
        Unavailable.
        """
        media_type = media_type_of(upload.data)
        image_id = (
            await self._image_id(directory, purpose, person, idempotency_key) if idempotency_key else new_image_id()
        )
        sha256 = await _sha256(upload.data)
        request = json.dumps([sha256, person, options.model_dump(mode="json")], sort_keys=True)
        return ImageReceived(
            image_id=image_id,
            purpose=purpose,
            directory=directory,
            person=person,
            media_type=media_type,
            sha256=sha256,
            request_digest=hashlib.sha256(request.encode()).hexdigest() if idempotency_key else None,
            filename=upload.filename[:255],
            reply_to=self._reply_to,
            options=options,
        )

    async def _image_id(self, directory: str | None, purpose: Purpose, person: str | None, idempotency_key: str) -> str:
        """The image_id for an Idempotency-Key. It stays the same until the image is erased; the next request gets
        another one, so that records of the erased image that are still in flight do not affect it.
        """
        await self._erasures.refresh()
        image_id, erased = image_id_of_request(directory or "", purpose, idempotency_key), NO_OFFSET
        while (offset := last_offset(self._erasures.of_image(directory, person, image_id))) > erased:
            erased = offset
            image_id = image_id_of_request(directory or "", purpose, idempotency_key, erased)
        return image_id

    async def earlier_answer(self, received: ImageReceived, recent: Answer | None) -> Answer | None:
        """The answer to an earlier request with the same key: `recent`, or the stored one. Raises IdempotencyKeyReused
        when that request had another body.
        """
        if recent is not None:
            _require_same(recent.request_digest, received)
            return recent
        stored = await self._vectors.answer(received.image_id)
        if stored is not None and stored.expires_at > time.time():
            answer = Answer.decode(stored.value.encode())
            _require_same(answer.request_digest, received)
            return answer
        metadata = await self._objects.metadata(received.object_key)
        if metadata is not None:
            _require_same(ObjectMetadata.decode(metadata).request_digest, received)
        return None

    async def check(self) -> None:
        """Raises Unavailable for some seconds after an upload could not be stored, if none was stored since."""
        if self._failed is not None and time.monotonic() - self._failed[0] < FAILED_S:
            raise Unavailable(f"an upload could not be stored: {self._failed[1]}")

    async def store(self, received: ImageReceived, data: bytes, topic: str) -> None:
        """Stores an upload and appends its event; `check` tells of a failure. Raises as `_store_and_append` does."""
        try:
            self._reserve.check()
            await self._store_and_append(received, data, topic)
        except (Unavailable, StorageFull) as error:
            self._failed = time.monotonic(), error.message
            raise
        self._failed = None

    async def _store_and_append(self, received: ImageReceived, data: bytes, topic: str) -> None:
        """Returns once the original is in the object store and the event is acknowledged. Raises Unavailable,
        StorageFull, and IdempotencyKeyReused when another replica has accepted another body under the same key
        meanwhile.
        """
        metadata = ObjectMetadata(
            directory=received.directory,
            person=received.person,
            request_digest=received.request_digest,
            received_at=math.ceil(time.time() * 1000),
            erasures_seen=self._erasures.seen,
        )
        repeatable = received.request_digest is not None
        if not await self._store.put_upload(received.object_key, data, metadata, if_absent=repeatable):
            stored = await self._objects.metadata(received.object_key)
            if stored is not None:
                _require_same(ObjectMetadata.decode(stored).request_digest, received)
        try:
            await self._log.append([NewRecord(topic, received.image_id, received.encode())])
        except StorageFull:  # nothing was appended; after any other failure the event may exist, so the object is kept
            if not repeatable:
                await self._store.delete_upload(received.object_key)
            raise
        UPLOADED.labels(received.purpose).inc(len(data))
        log.info(
            "accepted",
            image_id=received.image_id,
            purpose=received.purpose,
            directory=received.directory,
            bytes=len(data),
        )

    def lock_of(self, image_id: str) -> asyncio.Lock:
        """The lock with which requests with the same Idempotency-Key are accepted one after the other."""
        return self._locks.setdefault(image_id, asyncio.Lock())


def _require_same(digest: str | None, received: ImageReceived) -> None:
    if digest != received.request_digest:
        raise IdempotencyKeyReused("this Idempotency-Key came with another file or other fields before: use a new key")


async def _sha256(data: bytes) -> str:
    if len(data) < HASH_IN_THREAD:
        return hashlib.sha256(data).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
