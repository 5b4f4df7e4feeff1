"""Carries out an erase command, in order with what is in flight in the directory's partition (rule 6 of
docs/architecture.md).

The erasure is announced first. A worker that is storing erased data at that time checks the erasures afterwards and
deletes the data; what was stored before is found here. Rows are deleted last: while they exist, a command that is
carried out again finds everything else that has to be deleted.
"""

import json
from collections.abc import Collection, Sequence

import structlog

from backends.log import EventLog, NewRecord, Record
from backends.objects import ObjectDeleter
from backends.vectors import Face, VectorDeleter
from schemas.answers import ErasedBody, ErasedCounts
from schemas.erasures import (
    AnyErasure,
    DirectoryErasure,
    FaceErasure,
    ImageErasure,
    PersonErasure,
    erasure_of,
)
from schemas.errors import UnreadableRecord
from schemas.ids import original_key, original_keys
from schemas.object_metadata import ObjectMetadata
from schemas.records import Answer, EraseRequested, Erasure
from sink.match.galleries import Galleries
from stream.answers import answer_record
from stream.dead_letters import open_letters
from stream.erase.erasures import ErasurePosition, Erasures, is_erased, object_keys_of_image
from stream.erase.guarded_store import AnswerToStore, GuardedStore, changelog_tombstones
from stream.erase.redaction import redact
from stream.generations import Generations
from stream.incoming import incoming_keys, source_keys_of
from stream.object_listing import delete_all, list_with_metadata
from stream.topics import ERASURES

log = structlog.get_logger(__name__)

IMAGES_PER_DELETE = 500


class Eraser:
    """Erases a directory, a person, a face with its image, or an image, in every generation."""

    def __init__(
        self,
        log_: EventLog,
        objects: ObjectDeleter,
        vectors: VectorDeleter,
        store: GuardedStore,
        generations: Generations,
        erasures: Erasures,
        galleries: Galleries,
    ) -> None:
        self._log, self._objects, self._vectors, self._store = log_, objects, vectors, store
        self._generations, self._erasures, self._galleries = generations, erasures, galleries

    async def erase(self, record: Record, command: EraseRequested) -> list[NewRecord]:
        """Deletes everything and returns the answer. Raises UnreadableRecord, Unavailable, StorageFull."""
        erasure = erasure_of(command)
        await self._generations.refresh()
        faces: dict[str, Face] = {}
        for generation in self._generations.all:
            faces |= await self._find_faces(erasure, generation.name)
        erased_at = await self._announce(record, erasure, faces.values())
        later = {it.image_id for it in faces.values() if it.timestamp > erased_at}
        faces = {face_id: it for face_id, it in faces.items() if it.timestamp <= erased_at}
        images = {it.image_id for it in faces.values()}
        if isinstance(erasure, FaceErasure | ImageErasure):
            images.add(erasure.image_id)
        dead_letters = await self._find_images_of_dead_letters(record, erasure.directory)
        await self._delete_images(erasure.directory, sorted((images | dead_letters) - later))
        await self._delete_pictures(erasure, erased_at, later)
        self._galleries.drop(lambda directory: directory == erasure.directory)
        await self._delete_faces(erasure, erased_at)
        await self._redact_answers(erasure)
        body = ErasedBody(
            status="OK",
            directory=erasure.directory,
            person=erasure.person if isinstance(erasure, PersonErasure) else None,
            erased=ErasedCounts(faces=len(faces), images=len(images)),
        )
        return [answer_record(command, 200, body, record.offset)]

    async def _announce(self, record: Record, erasure: AnyErasure, faces: Collection[Face]) -> int:
        """Announces the erasure to every role. Returns the time up to which faces are erased, in ms. It is determined
        only once, so that a command that is carried out again does not delete faces that were learned after it.
        """
        known = [self._erasures.last_erasure(key) for key in erasure.keys]
        if all(it.offset >= record.offset for it in known):
            return max(it.time_ms for it in known)
        # if a clock was set back, or another server's clock differs, a row that was written before must be deleted
        # nevertheless
        erased_at = max([record.timestamp, *(it.timestamp for it in faces)])
        value = Erasure(at=erased_at, partition=record.partition, offset=record.offset).encode()
        await self._log.append([NewRecord(ERASURES, key, value) for key in erasure.keys])
        for key in erasure.keys:
            self._erasures.add(key, ErasurePosition(erased_at, record.offset))
        return erased_at

    async def _find_faces(self, erasure: AnyErasure, generation: str) -> dict[str, Face]:
        """The faces of a generation to erase, by face_id."""
        match erasure:
            case DirectoryErasure(directory):
                pages = self._vectors.read_faces(directory, generation)
                return {it.face_id: it async for page in pages for it in page}
            case PersonErasure(directory, person):
                return {it.face_id: it for it in await self._vectors.faces(directory, generation, person)}
            case FaceErasure(directory, person, face_id):
                of_person = await self._vectors.faces(directory, generation, person)
                return {it.face_id: it for it in of_person if it.face_id == face_id}
            case ImageErasure():
                return {}

    async def _find_images_of_dead_letters(self, record: Record, directory: str) -> set[str]:
        """The erased images among the dead letters, whose pictures are kept for another try."""
        events = [it.event for it in await open_letters(self._log)]
        of_directory = [it for it in events if it is not None and it.directory == directory]
        return {
            it.image_id for it in of_directory if is_erased(it, it.first_received_at(record.timestamp), self._erasures)
        }

    async def _delete_images(self, directory: str, images: Sequence[str]) -> None:
        """Deletes these images from the changelog, and everything that is stored for them."""
        for begin in range(0, len(images), IMAGES_PER_DELETE):
            part = images[begin : begin + IMAGES_PER_DELETE]
            await self._log.append(changelog_tombstones(part, directory))
            sources = await source_keys_of([key for image in part for key in original_keys(image)], self._objects)
            await self._objects.delete([*sources, *(key for image in part for key in object_keys_of_image(image))])

    async def _delete_pictures(self, erasure: AnyErasure, erased_at: int, later: Collection[str]) -> None:
        """Deletes the pictures that no face refers to. later: the images that were learned after the command, although
        by the clock of the ingest that accepted them they came before it.
        """
        match erasure:
            case DirectoryErasure(directory):
                await self._delete_pictures_of_directory(directory, erased_at, later)
                await self._objects.delete(await incoming_keys(directory, None, erased_at / 1000, self._objects))
            case PersonErasure(directory, person):
                await self._objects.delete(await incoming_keys(directory, person, erased_at / 1000, self._objects))

    async def _delete_pictures_of_directory(self, directory: str, erased_at: int, later: Collection[str]) -> None:
        """Deletes probes, and portraits that were not learned."""
        keep = {original_key(it, "learn") for it in later}
        pictures = list_with_metadata(self._objects, "probes/", "originals/")
        described = ((info.key, ObjectMetadata.decode(it)) async for info, it in pictures)
        of_directory = ((key, it) async for key, it in described if it.directory == directory and key not in keep)
        await delete_all(self._objects, (key async for key, it in of_directory if (it.received_at or 0) <= erased_at))

    async def _delete_faces(self, erasure: AnyErasure, erased_at: int) -> None:
        names = [it.name for it in self._generations.all]
        match erasure:
            case DirectoryErasure(directory):
                await self._vectors.delete_faces(directory, names, erased_at)
            case PersonErasure(directory, person):
                await self._vectors.delete_faces(directory, names, erased_at, person=person)
            case FaceErasure(directory, person, face_id):
                await self._vectors.delete_faces(directory, names, erased_at, person=person, face_id=face_id)

    async def _redact_answers(self, erasure: AnyErasure) -> None:
        """Removes the erased people from the stored answers. Answers to erased images are replaced by `erased`. An
        answer that cannot be decoded, because another release has written it, is deleted: it may name them.
        """
        texts = [json.dumps(erasure.directory, ensure_ascii=False)]
        if isinstance(erasure, PersonErasure | FaceErasure):
            texts.append(json.dumps(erasure.person, ensure_ascii=False))
        async for page in self._vectors.read_answers():
            changed: list[AnswerToStore] = []
            unreadable: list[str] = []
            for it in page:
                if not all(text in it.value for text in texts):
                    continue
                try:
                    answer_ = Answer.decode(it.value.encode())
                except UnreadableRecord as error:
                    log.error("unreadable answer deleted", image_id=it.image_id, reason=error.message)
                    unreadable.append(it.image_id)
                    continue
                if redact(answer_, self._erasures) is not answer_:
                    changed.append(AnswerToStore(answer_, it.value, it.expires_at))
            if changed:
                await self._store.put_answers(changed)
            if unreadable:
                await self._vectors.delete_answers(unreadable)
