"""Accepts an upload: stores the object first, then appends the event (rule 1 of the design). A request with an
Idempotency-Key has one effect (rule 2).
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping
from weakref import WeakValueDictionary

import structlog

from backends.log import EventLog, NewRecord
from backends.objects import ObjectStore
from backends.vectors import VectorStore
from ingest.metrics import UPLOADED
from ingest.uploads import Upload
from schemas.errors import IdempotencyKeyReused, StorageFull
from schemas.ids import image_id_of_request, new_image_id
from schemas.media import media_type_of
from schemas.records import Answer, ImageReceived, Options, Purpose
from stream.erase.marks import NEVER, Erasures

log = structlog.get_logger(__name__)

HASH_IN_THREAD = 1 << 20


class Accept:
    """Stores uploads and appends their events."""

    def __init__(
        self, log: EventLog, objects: ObjectStore, vectors: VectorStore, erasures: Erasures, reply_to: str
    ) -> None:
        self._log, self._objects, self._vectors, self._erasures = log, objects, vectors, erasures
        self._reply_to = reply_to
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def event(
        self,
        upload: Upload,
        purpose: Purpose,
        directory: str | None,
        person: str | None,
        options: Options,
        idempotency_key: str | None,
    ) -> ImageReceived:
        """The event of an upload; nothing is stored yet. Raises NotAnImage, and Unavailable where there is a key."""
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
        """The image_id of each request with this key, until its image is erased. After that the key stands for another
        image, so that records of the first one that are still in flight do not affect it.
        """
        await self._erasures.refresh()
        image_id, erased = image_id_of_request(directory or "", purpose, idempotency_key), NEVER.offset
        while (offset := self._erasures.of_image(directory, person, image_id).offset) > erased:
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
            _require_same(metadata.get("request"), received)
        return None

    async def store(self, received: ImageReceived, data: bytes, topic: str) -> None:
        """Returns once the original is in the object store and the event is acknowledged. Raises Unavailable,
        StorageFull, and IdempotencyKeyReused when another replica has accepted another body under the same key
        meanwhile.
        """
        metadata: Mapping[str, str] = {
            "directory": received.directory or "",
            "person": received.person or "",
            "request": received.request_digest or "",
            "received": str(time.time()),
        }
        repeatable = received.request_digest is not None
        if not await self._objects.put(received.object_key, data, metadata, if_absent=repeatable):
            _require_same((await self._objects.metadata(received.object_key) or metadata)["request"], received)
        try:
            await self._log.append([NewRecord(topic, received.image_id, received.encode())])
        except StorageFull:  # nothing was appended; any other failure leaves the object for the event that may be there
            if not repeatable:
                await self._objects.delete([received.object_key])
            raise
        UPLOADED.labels(received.purpose).inc(len(data))
        log.info(
            "accepted",
            image_id=received.image_id,
            purpose=received.purpose,
            directory=received.directory,
            bytes=len(data),
        )

    def one_at_a_time(self, image_id: str) -> asyncio.Lock:
        """A lock, so that two requests with one Idempotency-Key are accepted one after the other. It exists for as long
        as somebody holds it.
        """
        return self._locks.setdefault(image_id, asyncio.Lock())


def _require_same(digest: str | None, received: ImageReceived) -> None:
    if digest != received.request_digest:
        raise IdempotencyKeyReused("this Idempotency-Key came with another file or other fields before: use a new key")


async def _sha256(data: bytes) -> str:
    if len(data) < HASH_IN_THREAD:
        return hashlib.sha256(data).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
