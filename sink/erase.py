"""Carries out an erase command, in order with what is in flight in the directory's partition (rule 6 of
docs/architecture.md).

The erasure is announced first. A worker that is storing erased data at that time checks the erasures afterwards and
deletes the data; what was stored before is found here. Rows are deleted last: while they exist, a command that is
carried out again finds everything else that has to be deleted.
"""

import json
from collections.abc import Collection, Sequence

from backends.log import EventLog, NewRecord, Record
from backends.objects import ObjectDeleter
from backends.vectors import Face, VectorDeleter
from schemas.answers import ErasedBody, ErasedCounts
from schemas.erasure_records import Erasure
from schemas.erasures import (
    AnyErasure,
    DirectoryErasure,
    FaceErasure,
    ImageErasure,
    PersonErasure,
    erasure_of,
)
from schemas.errors import Erased
from schemas.ids import original_keys
from schemas.object_metadata import ObjectMetadata
from schemas.records import EraseRequested, ImageReceived
from sink.match.galleries import Galleries
from stream.answers import answer_record, error_answer_record
from stream.dead_letters import open_letters
from stream.erase.cuts import images_after, make_cut
from stream.erase.erasures import Erasures, object_keys_of_image
from stream.erase.guarded_store import ERASED_AFTER_IT_CAME, GuardedStore, changelog_tombstones
from stream.generations import Generations
from stream.incoming import incoming_keys, source_keys_of
from stream.object_listing import OBJECTS_PER_DELETE, list_with_metadata
from stream.topics import ERASURES
from stream.unfinished import images_before_sink

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

    async def erase(self, record: Record, command: EraseRequested, version: int) -> list[NewRecord]:
        """Deletes everything and returns the answer. A command that was carried out before is only answered again.
        version: the highest that a row of an earlier record in this partition may have. Raises UnreadableRecord,
        Unavailable, StorageFull.
        """
        erasure = erasure_of(command)
        known = [self._erasures.get(key) for key in erasure.keys]
        done = [it.erasure for it in known if it is not None and _is_done(it.erasure, record)]
        if len(done) == len(known):
            mine = done[0] if done[0].offset == record.offset else done[0].model_copy(update={"faces": 0, "images": 0})
            return [_answer(record, command, erasure, mine)]
        await self._generations.refresh()
        faces: dict[str, Face] = {}
        for generation in self._generations.all:
            faces |= await self._find_faces(erasure, generation.name)
        announced = await self._announce(record, command, erasure, version, faces.values())
        faces = {face_id: it for face_id, it in faces.items() if it.timestamp <= announced.at}
        images = {it.image_id for it in faces.values()}
        if isinstance(erasure, FaceErasure | ImageErasure):
            images.add(erasure.image_id)
        dead_letters = await self._find_images_of_dead_letters(erasure.directory)
        waiting = await self._find_waiting_images(erasure)
        await self._delete_images(erasure.directory, sorted({*images, *dead_letters, *(it.image_id for it in waiting)}))
        await self._delete_pictures(record, erasure, announced)
        self._galleries.drop(lambda directory: directory == erasure.directory)
        await delete_faces(self._vectors, self._generations, erasure, announced.at)
        await self._store.redact_answers(*_texts(erasure))
        finished = announced.model_copy(
            update={
                "done": True,
                "faces": len(faces),
                "images": len(images),
                "first_record": self._first_record(erasure),
            }
        )
        await self._append(erasure, finished)
        refused = [error_answer_record(it, Erased(ERASED_AFTER_IT_CAME)) for it in waiting]
        return [*refused, _answer(record, command, erasure, finished)]

    async def _announce(
        self, record: Record, command: EraseRequested, erasure: AnyErasure, version: int, faces: Collection[Face]
    ) -> Erasure:
        """Announces the erasure to every role, with the version up to which rows are erased. It is determined only
        once, so that a command that is carried out again deletes nothing that was learned after it.
        """
        known = [self._erasures.get(key) for key in erasure.keys]
        before = [it.erasure for it in known if it is not None and it.offset == record.offset]
        announced_before = len(before) == len(known)
        if announced_before and before[0].done is not None:
            return before[0]
        announced = Erasure(  # or again, if an older version has announced it, which knew no cuts
            at=before[0].at if announced_before else max([version, *(it.timestamp for it in faces)]),
            partition=record.partition,
            offset=record.offset,
            log=self._erasures.log_id,
            cut=command.cut or await make_cut(self._log),
            done=False,
        )
        await self._append(erasure, announced)
        return announced

    async def _append(self, erasure: AnyErasure, value: Erasure) -> None:
        await self._log.append([NewRecord(ERASURES, key, value.encode()) for key in erasure.keys])
        await self._erasures.refresh()

    def _first_record(self, erasure: AnyErasure) -> int | None:
        known = (self._erasures.get(key) for key in erasure.keys)
        return min((it.first_record for it in known if it is not None), default=None)

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

    async def _find_images_of_dead_letters(self, directory: str) -> set[str]:
        """The erased images among the dead letters, whose pictures are kept for another try."""
        events = [it.event for it in await open_letters(self._log)]
        of_directory = [it for it in events if it is not None and it.directory == directory]
        return {it.image_id for it in of_directory if self._erasures.cover_image(it)}

    async def _find_waiting_images(self, erasure: AnyErasure) -> list[ImageReceived]:
        """The erased images that no processor has handled. The processors will refuse them again."""
        if not isinstance(erasure, DirectoryErasure | PersonErasure):
            return []  # the others name their image
        return await images_before_sink(
            self._log, lambda it: it.directory == erasure.directory and self._erasures.cover_image(it)
        )

    async def _delete_images(self, directory: str, images: Sequence[str]) -> None:
        """Deletes these images from the changelog, and everything that is stored for them."""
        for begin in range(0, len(images), IMAGES_PER_DELETE):
            part = images[begin : begin + IMAGES_PER_DELETE]
            await self._log.append(changelog_tombstones(part, directory))
            sources = await source_keys_of([key for image in part for key in original_keys(image)], self._objects)
            await self._objects.delete([*sources, *(key for image in part for key in object_keys_of_image(image))])

    async def _delete_pictures(self, record: Record, erasure: AnyErasure, announced: Erasure) -> None:
        """Deletes the pictures that no face refers to. Those of images that came after the command are kept."""
        match erasure:
            case DirectoryErasure(directory):
                keys = [
                    *await self._pictures_of_directory(directory),
                    *await incoming_keys(directory, None, self._objects),
                ]
            case PersonErasure(directory, person):
                keys = await incoming_keys(directory, person, self._objects)
            case _:
                return
        if not keys or announced.cut is None:
            return
        later = await images_after(self._log, announced.cut, record.topic_partition, record.offset)
        kept = {key for image_id in later.image_ids for key in object_keys_of_image(image_id)}
        kept |= {key for source in later.sources if (key := self._objects.key_of(*source)) is not None}
        left = [key for key in keys if key not in kept]
        for begin in range(0, len(left), OBJECTS_PER_DELETE):
            await self._objects.delete(left[begin : begin + OBJECTS_PER_DELETE])

    async def _pictures_of_directory(self, directory: str) -> list[str]:
        """The keys of probes and portraits, learned or not."""
        pictures = list_with_metadata(self._objects, "probes/", "originals/")
        described = ((info.key, ObjectMetadata.decode(it)) async for info, it in pictures)
        return sorted({key async for key, it in described if it.directory == directory})


async def delete_faces(vectors: VectorDeleter, generations: Generations, erasure: AnyErasure, erased_at: int) -> None:
    """Deletes the rows of an erasure in every generation, with versions up to `erased_at`."""
    names = [it.name for it in generations.all]
    match erasure:
        case DirectoryErasure(directory):
            await vectors.delete_faces(directory, names, erased_at)
        case PersonErasure(directory, person):
            await vectors.delete_faces(directory, names, erased_at, person=person)
        case FaceErasure(directory, person, face_id):
            await vectors.delete_faces(directory, names, erased_at, person=person, face_id=face_id)


def _texts(erasure: AnyErasure) -> list[str]:
    """What the JSON of an answer has if it may have to be redacted."""
    texts = [json.dumps(erasure.directory, ensure_ascii=False)]
    if isinstance(erasure, PersonErasure | FaceErasure):
        texts.append(json.dumps(erasure.person, ensure_ascii=False))
    return texts


def _is_done(erasure: Erasure, record: Record) -> bool:
    """Whether the command in this record was carried out, or a later one of the same."""
    return erasure.offset > record.offset or (erasure.offset == record.offset and erasure.done is True)


def _answer(record: Record, command: EraseRequested, erasure: AnyErasure, done: Erasure) -> NewRecord:
    body = ErasedBody(
        status="OK",
        directory=erasure.directory,
        person=erasure.person if isinstance(erasure, PersonErasure) else None,
        erased=ErasedCounts(faces=done.faces, images=done.images),
    )
    return answer_record(command, 200, body, record.offset)
