"""The one way to store what belongs to a person or an image (rule 6 of docs/architecture.md).

An erasure may come while something of the erased is being stored: the eraser has already looked and found nothing,
the worker that stores does not know of the erasure yet. So each put is followed by a look at the erasures, and what
was erased meanwhile is taken back by the one that put it. A worker that dies between the two leaves its event
uncommitted: the next one that handles it takes back what is there.

Nobody else puts objects, faces or answers, or makes records of the changelog: stages and routes hold ports that cannot.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass

from backends.log import NewRecord
from backends.objects import ObjectStore
from backends.vectors import FaceVector, StoredAnswer, VectorStore
from schemas.errors import Erased
from schemas.ids import original_keys
from schemas.object_metadata import ObjectMetadata
from schemas.records import Answer, FaceLearned, ImageReceived
from stream.erase.marks import Erasures, is_erased, object_keys_of_image
from stream.erase.redaction import redacted
from stream.incoming import own_source_key, source_keys_of
from stream.topics import FACES_LEARNED


@dataclass(frozen=True, slots=True)
class AnswerToStore:
    """An answer, its JSON text as it is in the log, and until when it is kept (seconds since the epoch)."""

    answer: Answer
    value: str
    expires_at: float


class GuardedStore:
    """Stores, looks at the erasures, takes back what was erased, and then raises Erased."""

    def __init__(self, objects: ObjectStore, vectors: VectorStore, erasures: Erasures) -> None:
        self._objects, self._vectors, self._erasures = objects, vectors, erasures

    async def drop_if_erased(self, received: ImageReceived, received_at: int) -> None:
        """Deletes all that is kept of an image that was erased after it came, as far as this process knows. Raises
        Erased then. received_at: ms.
        """
        if is_erased(received, received_at, self._erasures):
            source = own_source_key(received, self._objects)
            await self._take_back(received.image_id, [source] if source is not None else [])

    async def drop_if_erased_meanwhile(self, received: ImageReceived, received_at: int) -> None:
        """The same, after asking the log."""
        await self._erasures.refresh()
        await self.drop_if_erased(received, received_at)

    async def put(
        self, image_id: str, key: str, data: bytes, metadata: ObjectMetadata, *, if_absent: bool = False
    ) -> bool:
        """Stores a picture of an image, then asks the log whether the image was erased since it came. The answer is
        that of ObjectStore.put. Raises Erased, with nothing left of the image; Unavailable, StorageFull.
        """
        assert metadata.received_at is not None
        stored = await self._objects.put(key, data, metadata.encoded(), if_absent=if_absent)
        await self._erasures.refresh()
        if self._erasures.erased_since(metadata.directory, metadata.person, image_id, metadata.received_at):
            await self._take_back(image_id, await source_keys_of(original_keys(image_id), self._objects))
        return stored

    async def put_upload(self, key: str, data: bytes, metadata: ObjectMetadata, *, if_absent: bool) -> bool:
        """Stores the original of an image whose event is appended next. Whoever handles that event looks at the
        erasures, so that the upload need not wait for the log twice. The answer is that of ObjectStore.put.
        """
        return await self._objects.put(key, data, metadata.encoded(), if_absent=if_absent)

    async def delete_upload(self, key: str) -> None:
        """Deletes an original whose event was not appended."""
        await self._objects.delete([key])

    async def put_faces(
        self, faces: Sequence[FaceVector], *, listed: Container[tuple[str, str]] = ()
    ) -> list[FaceVector]:
        """Stores the faces that were not erased since their timestamp, and returns them. Only the sink that has the
        directory's partition stores its faces. It carries out the erase commands itself, in order, so that the log need
        not be asked. `listed`: see VectorStore.put_faces.
        """
        left = [it for it in faces if not self._is_erased(it)]
        if left:
            await self._vectors.put_faces(left, listed=listed)
        return left

    def changelog(self, faces: Sequence[FaceLearned]) -> list[NewRecord]:
        """The records of `faces.learned` for the faces that were not erased since they were learned, as far as this
        process knows. What is appended behind an erasure all the same is found by stream.erase.leftovers.
        """
        return [
            NewRecord(FACES_LEARNED.name, it.image_id, it.encode(), it.directory)
            for it in faces
            if not self._erasures.erased_since(it.directory, it.person, it.image_id, it.learned_at)
        ]

    async def put_answers(self, answers: Sequence[AnswerToStore]) -> None:
        """Stores answers without the people who were erased after them. The eraser may have looked for their names
        before these answers were there: so the log is asked then, and what names somebody is stored once more.
        """
        stored = self._redacted(answers)
        await self._vectors.put_answers(stored)
        await self._erasures.refresh()
        again = [now for put, now in zip(stored, self._redacted(answers), strict=True) if now != put]
        if again:
            await self._vectors.put_answers(again)

    def _redacted(self, answers: Sequence[AnswerToStore]) -> list[StoredAnswer]:
        stored = []
        for it in answers:
            left = redacted(it.answer, self._erasures)
            value = it.value if left is it.answer else left.encode().decode()
            stored.append(StoredAnswer(it.answer.image_id, value, it.expires_at))
        return stored

    def _is_erased(self, it: FaceVector) -> bool:
        return self._erasures.erased_since(it.directory, it.face.person, it.face.image_id, it.face.timestamp)

    async def _take_back(self, image_id: str, sources: Sequence[str]) -> None:
        await self._objects.delete([*object_keys_of_image(image_id), *sources])
        raise Erased("this was erased after the image came: send it again if it is wanted after all")


def changelog_tombstones(image_ids: Sequence[str], directory: str) -> list[NewRecord]:
    """The records that take images out of `faces.learned`."""
    return [NewRecord(FACES_LEARNED.name, image_id, None, directory) for image_id in image_ids]
