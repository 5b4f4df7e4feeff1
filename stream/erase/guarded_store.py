"""The only way to store data that belongs to a person or an image (rule 6 of docs/architecture.md).

An erasure may happen while data of the erased person is being stored: the eraser has already searched and found
nothing, and the worker that stores the data does not know of the erasure yet. So after each put the erasures are
checked, and data that was erased meanwhile is deleted by the worker that put it. If a worker crashes between the two
steps, its event is not committed, and the next worker that handles the event deletes the data.

Nothing else puts objects, faces or answers, or makes records of the changelog: stages and routes have only ports that
cannot put.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass

import structlog

from backends.log import NewRecord
from backends.objects import ObjectStore
from backends.vectors import FaceVector, StoredAnswer, VectorStore
from schemas.errors import Erased, UnreadableRecord
from schemas.ids import original_keys
from schemas.object_metadata import ObjectMetadata
from schemas.records import Answer, FaceLearned, ImageReceived
from stream.erase.erasures import Erasures, object_keys_of_image
from stream.erase.redaction import redact
from stream.incoming import own_source_key, source_keys_of
from stream.topics import FACES_LEARNED

log = structlog.get_logger(__name__)

ERASED_AFTER_IT_CAME = "this was erased after the image came: send it again if it is wanted after all"


@dataclass(frozen=True, slots=True)
class AnswerToStore:
    """An answer, its JSON text as in the log, and the time until which it is kept (seconds since the epoch)."""

    answer: Answer
    value: str
    expires_at: float


class GuardedStore:
    """Stores data and checks the erasures. If the data was erased, it deletes it and raises Erased."""

    def __init__(self, objects: ObjectStore, vectors: VectorStore, erasures: Erasures) -> None:
        self._objects, self._vectors, self._erasures = objects, vectors, erasures

    def metadata(
        self, received: ImageReceived, received_at: int, *, image_id: str | None = None, source: str | None = None
    ) -> ObjectMetadata:
        """The metadata of an object of an image. image_id: only for a crop; the others: see ObjectMetadata."""
        return ObjectMetadata(
            directory=received.directory,
            person=received.person,
            request_digest=received.request_digest,
            received_at=received_at,
            image_id=image_id,
            source=source,
            erasures_seen=self._erasures.seen,
        )

    async def drop_if_erased(self, received: ImageReceived, offset: int | None = None) -> None:
        """Deletes everything that is stored for an image if, as far as this process knows, it was erased after it came.
        Raises Erased in that case. The arguments are those of Erasures.cover_image.
        """
        if self._erasures.cover_image(received, offset):
            source = own_source_key(received, self._objects)
            await self._delete_erased(received.image_id, [source] if source is not None else [])

    async def drop_if_erased_meanwhile(self, received: ImageReceived) -> None:
        """As `drop_if_erased`, after reading the latest erasures from the log."""
        await self._erasures.refresh()
        await self.drop_if_erased(received)

    async def drop_if_deleted(self, received: ImageReceived) -> None:
        """For an image whose original is missing: as `drop_if_erased_meanwhile`, and also if it was uploaded while its
        directory or person was being erased: the eraser has found an upload without a record.
        """
        await self.drop_if_erased_meanwhile(received)
        if received.source is None and self._erasures.of_image(received.directory, received.person, received.image_id):
            await self._delete_erased(received.image_id, [])

    async def put(
        self, received: ImageReceived, key: str, data: bytes, metadata: ObjectMetadata, *, if_absent: bool = False
    ) -> bool:
        """Stores a picture of an image, then reads from the log whether the image was erased since it came. Returns
        what ObjectStore.put returns. Raises Erased, after everything of the image is deleted; Unavailable, StorageFull.
        """
        stored = await self._objects.put(key, data, metadata.encode(), if_absent=if_absent)
        await self._erasures.refresh()
        if self._erasures.cover_image(received):
            await self._delete_erased(
                received.image_id, await source_keys_of(original_keys(received.image_id), self._objects)
            )
        return stored

    async def put_of_row(self, image_id: str, version: int, key: str, data: bytes, metadata: ObjectMetadata) -> None:
        """Stores a picture of a face whose row has this version. Raises as `put` does."""
        await self._objects.put(key, data, metadata.encode())
        await self._erasures.refresh()
        if self._erasures.cover_row(metadata.directory or "", metadata.person or "", image_id, version):
            await self._delete_erased(image_id, [])

    async def put_upload(self, key: str, data: bytes, metadata: ObjectMetadata, *, if_absent: bool) -> bool:
        """Stores the original of an image whose event is appended next. The stage that handles the event checks the
        erasures, so that the upload need not wait for the log twice. Returns what ObjectStore.put returns.
        """
        return await self._objects.put(key, data, metadata.encode(), if_absent=if_absent)

    async def delete_upload(self, key: str) -> None:
        """Deletes an original whose event was not appended."""
        await self._objects.delete([key])

    async def put_faces(
        self, faces: Sequence[FaceVector], *, listed: Container[tuple[str, str]] = ()
    ) -> list[FaceVector]:
        """Stores the faces that no erasure covers, and returns them. Only the sink that has the
        directory's partition stores its faces. It carries out the erase commands itself, in order, so that the erasures
        need not be read from the log. `listed`: see VectorStore.put_faces.
        """
        left = [it for it in faces if not self._is_erased(it)]
        if left:
            await self._vectors.put_faces(left, listed=listed)
        return left

    def changelog_records(self, faces: Sequence[FaceLearned]) -> list[NewRecord]:
        """The records of `faces.learned` for the faces that no erasure covers, as far as this process knows. Records
        that are appended after an erasure nevertheless are deleted by stream.erase.leftovers.
        """
        return [
            NewRecord(FACES_LEARNED.name, it.image_id, it.encode(), it.directory)
            for it in faces
            if not self._erasures.cover_row(it.directory, it.person, it.image_id, it.learned_at)
        ]

    async def put_answers(self, answers: Sequence[AnswerToStore]) -> None:
        """Stores answers without the people who were erased after them. The eraser may have searched the stored answers
        before these were there. So the erasures are read from the log after storing, and answers that name an erased
        person are stored again without the name.
        """
        stored = self._redact(answers)
        await self._vectors.put_answers(stored)
        await self._erasures.refresh()
        again = [now for put, now in zip(stored, self._redact(answers), strict=True) if now != put]
        if again:
            await self._vectors.put_answers(again)

    async def redact_answers(self, *texts: str) -> None:
        """Removes the erased people from the stored answers that have all these texts. Answers to erased images are
        replaced by `erased`. An answer that cannot be decoded, because another release has written it, is deleted: it
        may name them.
        """
        async for page in self._vectors.read_answers():
            changed: list[AnswerToStore] = []
            unreadable: list[str] = []
            for it in page:
                if not all(text in it.value for text in texts):
                    continue
                try:
                    answer = Answer.decode(it.value.encode())
                except UnreadableRecord as error:
                    log.error("unreadable answer deleted", image_id=it.image_id, reason=error.message)
                    unreadable.append(it.image_id)
                    continue
                if redact(answer, self._erasures) is not answer:
                    changed.append(AnswerToStore(answer, it.value, it.expires_at))
            if changed:
                await self.put_answers(changed)
            if unreadable:
                await self._vectors.delete_answers(unreadable)

    def _redact(self, answers: Sequence[AnswerToStore]) -> list[StoredAnswer]:
        stored = []
        for it in answers:
            left = redact(it.answer, self._erasures)
            value = it.value if left is it.answer else left.encode().decode()
            stored.append(StoredAnswer(it.answer.image_id, value, it.expires_at))
        return stored

    def _is_erased(self, face_vector: FaceVector) -> bool:
        face = face_vector.face
        return self._erasures.cover_row(face_vector.directory, face.person, face.image_id, face.timestamp)

    async def _delete_erased(self, image_id: str, sources: Sequence[str]) -> None:
        await self._objects.delete([*object_keys_of_image(image_id), *sources])
        raise Erased(ERASED_AFTER_IT_CAME)


def changelog_tombstones(image_ids: Sequence[str], directory: str) -> list[NewRecord]:
    """The records that delete images from `faces.learned`."""
    return [NewRecord(FACES_LEARNED.name, image_id, None, directory) for image_id in image_ids]
