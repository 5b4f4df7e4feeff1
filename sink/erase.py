"""Carries out an erase command, in order with what is in flight in the directory's partition (rule 6 of the design).

The erasure comes first: whoever writes something of the erased from then on, because it was at work on it, sees the
erasure when it looks again, and takes it back; what was written before is found here. Rows go last: as long as they are
there, a command that is carried out again finds everything else that has to go.
"""

import json
from collections.abc import Collection
from dataclasses import replace

from backends.log import EventLog, NewRecord, Record
from backends.objects import ObjectStore
from backends.vectors import Face, StoredAnswer, VectorStore
from schemas.answers import ErasedBody, ErasedCounts
from schemas.erased import erased_directory, erased_face, erased_image, erased_person
from schemas.ids import original_key, original_keys
from schemas.records import Answer, EraseRequested, Erasure
from sink.match.galleries import Galleries
from stream.answers import answer
from stream.dead_letters import open_letters
from stream.erase.marks import Erasures, Mark, is_erased, objects_of
from stream.erase.redaction import redacted
from stream.generations import Generations
from stream.listing import delete_each, listed
from stream.sources import incoming, sources_of
from stream.topics import ERASURES, FACES_LEARNED

AT_ONCE = 500


class Eraser:
    """Everything of a person, a face with its image, or a directory, in every generation."""

    def __init__(
        self,
        log_: EventLog,
        objects: ObjectStore,
        vectors: VectorStore,
        generations: Generations,
        erasures: Erasures,
        galleries: Galleries,
    ) -> None:
        self._log, self._objects, self._vectors = log_, objects, vectors
        self._generations, self._erasures, self._galleries = generations, erasures, galleries

    async def erase(self, record: Record, command: EraseRequested) -> list[NewRecord]:
        """The answer, when all is done. Raises Unavailable, StorageFull."""
        await self._generations.refresh()
        faces: dict[str, Face] = {}
        for generation in self._generations.all:
            faces |= await self._faces(command, generation.name)
        at = await self._announce(record, command, faces.values())
        later = {it.image_id for it in faces.values() if it.timestamp > at}
        faces = {face_id: it for face_id, it in faces.items() if it.timestamp <= at}
        images = {it.image_id for it in faces.values()} | (
            {command.erased_image_id} if command.erased_image_id else set()
        )
        await self._forget(command, sorted((images | await self._given_up(record, command)) - later))
        whole = command.person is None and command.erased_image_id is None
        if whole:
            await self._forget_pictures(command.directory, at, later)
        if command.erased_image_id is None:
            await self._objects.delete(await incoming(command.directory, command.person, at / 1000, self._objects))
        names = [it.name for it in self._generations.all]
        self._galleries.drop(lambda directory: directory == command.directory)
        if whole or command.person:
            await self._vectors.delete_faces(
                command.directory, names, at, person=command.person, face_id=command.face_id
            )
        await self._forget_names(command)
        body = ErasedBody(
            status="OK",
            directory=command.directory,
            person=command.person if not command.erased_image_id else None,
            erased=ErasedCounts(faces=len(faces), images=len(images)),
        )
        return [answer(command, 200, body, record.offset)]

    async def _announce(self, record: Record, command: EraseRequested, faces: Collection[Face]) -> int:
        """Tells everybody, and says up to which time faces are erased: once and for all, so that a command that is
        carried out again leaves alone who was learned after it.
        """
        keys = _keys(command)
        known = [self._erasures.of(key) for key in keys]
        if all(it.offset >= record.offset for it in known):
            return max(it.at for it in known)
        # a clock that was set back, or another server's, must not save a row that was written before
        at = max([record.timestamp, *(it.timestamp for it in faces)])
        erasure = Erasure(at=at, partition=record.partition, offset=record.offset).encode()
        await self._log.append([NewRecord(ERASURES, key, erasure) for key in keys])
        for key in keys:
            self._erasures.add(key, Mark(at, record.offset))
        return at

    async def _faces(self, command: EraseRequested, generation: str) -> dict[str, Face]:
        """Those that fall under the command, by face_id."""
        found: dict[str, Face] = {}
        if command.person is not None:
            of_person = await self._vectors.faces(command.directory, generation, command.person)
            found = {it.face_id: it for it in of_person if command.face_id in (None, it.face_id)}
        elif command.erased_image_id is None:
            async for page in self._vectors.read_faces(command.directory, generation):
                found |= {it.face_id: it for it in page}
        return found

    async def _given_up(self, record: Record, command: EraseRequested) -> set[str]:
        """The images among the dead letters that fall under the command: their pictures are kept for another try."""
        events = [it.event for it in await open_letters(self._log)]
        of_directory = [it for it in events if it is not None and it.directory == command.directory]
        return {it.image_id for it in of_directory if is_erased(it, it.came_at(record.timestamp), self._erasures)}

    async def _forget(self, command: EraseRequested, images: list[str]) -> None:
        """Takes these images out of the changelog, and deletes what is kept of them."""
        for begin in range(0, len(images), AT_ONCE):
            part = images[begin : begin + AT_ONCE]
            await self._log.append([NewRecord(FACES_LEARNED, image, None, command.directory) for image in part])
            sources = await sources_of(
                [key for image in part for key in original_keys(image)], command.directory, self._objects
            )
            await self._objects.delete([*sources, *(key for image in part for key in objects_of(image))])

    async def _forget_names(self, command: EraseRequested) -> None:
        """Takes who was erased out of the stored answers; of those to erased images nothing is left but that."""
        directory, person = (
            json.dumps(command.directory, ensure_ascii=False),
            json.dumps(command.person, ensure_ascii=False),
        )
        async for page in self._vectors.read_answers():
            changed: list[StoredAnswer] = []
            for it in page:
                if directory in it.value and (command.person is None or person in it.value):
                    answer = Answer.decode(it.value.encode())
                    left = redacted(answer, self._erasures)
                    if left is not answer:
                        changed.append(replace(it, value=left.encode().decode()))
            if changed:
                await self._vectors.put_answers(changed)

    async def _forget_pictures(self, directory: str, at: int, later: Collection[str]) -> None:
        """Deletes the pictures of a directory that no face tells of: probes, and what was not learned. later: images
        that were learned after the command, in spite of what the clock of who took them in says.
        """
        keep = {original_key(it, "learn") for it in later}
        pictures = listed(self._objects, "probes/", "originals/")
        before = ((info.key, it) async for info, it in pictures if float(it.get("received", 0)) * 1000 <= at)
        await delete_each(
            self._objects, (key async for key, it in before if it.get("directory") == directory and key not in keep)
        )


def _keys(command: EraseRequested) -> list[str]:
    if command.erased_image_id is not None:
        return [erased_image(command.erased_image_id), *([erased_face(command.face_id)] if command.face_id else [])]
    if command.person is not None:
        return [erased_person(command.directory, command.person)]
    return [erased_directory(command.directory)]
