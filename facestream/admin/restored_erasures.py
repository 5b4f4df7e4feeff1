"""Carries out erasures on a restored log and its stores, before anything serves them (rule 6 of docs/architecture.md).

A backup knows the erasures of its time. Those that came later are known elsewhere, as digests. Everything in the backup
is older than they are, so whatever has one of these digests is deleted. The restored log gets a new id, because from
here on its offsets are others than those of the log that was backed up.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from backends.log import EventLog, NewRecord, Record
from backends.sqlite.snapshots import leave_out_an_offset
from backends.vectors import Face
from facestream.admin.erasure_search import read_all_faces
from facestream.progress import progress_bar
from facestream.runtime.stores import Stores
from facestream.runtime.system_state import SystemState
from schemas.erasure_records import Erasure, LogIdentity
from schemas.erasures import (
    AnyErasure,
    DirectoryErasure,
    FaceErasure,
    PersonErasure,
    directory_erasure_key,
    erasure_of,
    person_erasure_key,
)
from schemas.errors import UnreadableRecord
from schemas.ids import crop_key, is_image_id, original_key
from schemas.object_metadata import ObjectMetadata
from schemas.records import EraseRequested, FaceLearned, FacesEmbedded, ImageReceived, decode_embedded
from sink.erase import Eraser, delete_faces
from sink.match.galleries import Galleries
from stream.dead_letters import open_letters
from stream.erase.cuts import make_cut
from stream.erase.erasures import Erasures, KnownErasure, identity_record, object_keys_of_image
from stream.erase.guarded_store import GuardedStore
from stream.erase.leftovers import delete_leftovers
from stream.object_listing import delete_all, list_with_metadata
from stream.topic_reading import read_topic
from stream.topics import ERASURES, FACES_EMBEDDED, FACES_LEARNED
from stream.unfinished import UnfinishedImages, images_before_sink, read_unfinished

SINK = [("sink", FACES_EMBEDDED)]
PROBES, PORTRAITS = "probes/", ("originals/", "crops/")


@dataclass(slots=True)
class _Rows:
    """The faces in the vector store. `erased`: the face_ids of those to erase, which `erasures` cover. `pictures`: the
    keys of the pictures of all other faces. `version`: the highest one.
    """

    erased: set[str] = field(default_factory=set)
    erasures: set[AnyErasure] = field(default_factory=set)
    pictures: set[str] = field(default_factory=set)
    version: int = 0


@dataclass(frozen=True, slots=True)
class OtherErasures:
    """What another log knows of erasures: the records of its topic `erasures`, and the erase commands that its sink has
    not handled, with their records.
    """

    records: Sequence[Record]
    commands: Sequence[tuple[Record, EraseRequested]] = ()

    def known(self, log: EventLog) -> Erasures:
        known = Erasures(log)
        for record in self.records:
            known.apply(record)
        for record, command in self.commands:
            erasure = Erasure(at=record.timestamp, partition=record.partition, offset=record.offset, log=known.log_id)
            for key in erasure_of(command).keys:
                known.add(key, erasure)
        return known


def erase_commands(records: Iterable[Record]) -> list[tuple[Record, EraseRequested]]:
    """The erase commands among records of `faces.embedded`."""
    commands = []
    for record in records:
        with suppress(UnreadableRecord):
            event = decode_embedded(record.value)
            if isinstance(event, EraseRequested):
                erasure_of(event)
                commands.append((record, event))
    return commands


class RestoredErasures:
    """Carries out erasures on stores that nobody else uses. log_file: the file of their log."""

    def __init__(self, stores: Stores, state: SystemState, log_file: Path) -> None:
        self._stores, self._state, self._log_file = stores, state, log_file
        self._store = GuardedStore(stores.objects, stores.vectors, state.erasures)

    async def carry_out(self, others: Sequence[OtherErasures]) -> int:
        """Carries out the erasures that the log does not know, and gives it a new id. Returns how many faces were
        deleted. Raises Unavailable.
        """
        waiting = await self._finish_commands()
        wanted = Erasures(self._stores.log)
        for other in (it.known(self._stores.log) for it in others):
            for key, erasure in other.items():
                if not self._knows(key, erasure, same_log=bool(other.log_id) and other.log_id == self._known.log_id):
                    wanted.add(key, erasure.erasure)
        rows = await self._read_rows(wanted)
        version = max(rows.version, int(time.time() * 1000))
        await self._announce(wanted, version)
        for it in rows.erasures:
            await delete_faces(self._stores.vectors, self._state.generations, it, version)
        if not wanted.empty:
            await self._store.redact_answers()
        await self._delete_probes(wanted)
        await self._delete_waiting_pictures(waiting)
        await delete_leftovers(self._stores.log, self._stores.objects, self._known)
        await self._delete_unknown_pictures(rows.pictures)
        return len(rows.erased)

    async def _finish_commands(self) -> list[tuple[int, ImageReceived]]:
        """Carries out the erase commands that the sink had not finished. The sink will answer them. Returns the images
        that wait for the sink, each with the offset of its record.
        """
        stores, commands = self._stores, []
        waiting: list[tuple[int, ImageReceived]] = []

        def take(records: Sequence[Record]) -> None:
            commands.extend(erase_commands(records))
            for record in records:
                with suppress(UnreadableRecord):
                    if isinstance(event := decode_embedded(record.value), FacesEmbedded):
                        waiting.append((record.offset, event.received))

        await read_unfinished(stores.log, SINK, take)
        galleries = Galleries(stores.vectors, 0)
        eraser = Eraser(
            stores.log,
            stores.objects,
            stores.vectors,
            self._store,
            self._state.generations,
            self._known,
            galleries,
        )
        for record, command in commands:
            await eraser.erase(record, command, record.timestamp)
        return waiting

    @property
    def _known(self) -> Erasures:
        return self._state.erasures

    def _knows(self, key: str, other: KnownErasure, *, same_log: bool) -> bool:
        """Whether the log knows this erasure, or a later one of the same. Only offsets of the same log can be compared;
        versions of different ones come from clocks.
        """
        mine = self._known.get(key)
        if mine is None:
            return False
        return mine.offset >= other.offset if same_log else mine.version >= other.version

    async def _read_rows(self, wanted: Erasures) -> _Rows:
        rows = _Rows()
        async for directory, face in read_all_faces(self._stores.vectors, self._state.generations):
            rows.version = max(rows.version, face.timestamp)
            if wanted.of_image(directory, face.person, face.image_id):
                rows.erased.add(face.face_id)
                rows.erasures.add(_erasure_of_row(wanted, directory, face))
            else:
                rows.pictures |= {original_key(face.image_id, "learn"), crop_key(face.face_id)}
        return rows

    async def _announce(self, wanted: Erasures, version: int) -> None:
        """Appends the log's new id, its own erasures under that id, and the wanted ones. The offset of these is one
        that no record has: it comes after all records of the backup, and before all that follow.
        """
        await asyncio.to_thread(leave_out_an_offset, self._log_file, FACES_EMBEDDED)
        log = self._stores.log
        identity = identity_record()
        log_id = LogIdentity.decode(identity.value).id
        ends, cut = await log.end_offsets(FACES_EMBEDDED), await make_cut(log)
        erasures = {
            key: it.erasure.model_copy(update={"log": log_id, "first_record": it.first_record})
            for key, it in self._known.items()
            if it.erasure.log == self._known.log_id
        }
        for key, it in wanted.items():
            partition = it.erasure.partition
            erasures[key] = Erasure(
                at=version, partition=partition, offset=ends[partition] - 1, log=log_id, cut=cut, done=True
            )
        await log.append([identity, *(NewRecord(ERASURES, key, it.encode()) for key, it in erasures.items())])
        await self._known.refresh()

    async def _delete_probes(self, wanted: Erasures) -> None:
        async def erased() -> AsyncIterator[str]:
            async for info, stored in list_with_metadata(self._stores.objects, PROBES):
                image_id = info.key.removeprefix(PROBES).removesuffix(".crops")
                if wanted.of_image(ObjectMetadata.decode(stored).directory, None, image_id):
                    yield info.key

        await delete_all(self._stores.objects, erased())

    async def _delete_waiting_pictures(self, for_sink: Sequence[tuple[int, ImageReceived]]) -> None:
        """Deletes the pictures of erased images that are still to be handled. They will be answered `erased`."""
        erased = await images_before_sink(self._stores.log, self._known.cover_image)
        erased += [it for offset, it in for_sink if self._known.cover_image(it, offset)]
        await self._stores.objects.delete([key for it in erased for key in object_keys_of_image(it.image_id)])

    async def _delete_unknown_pictures(self, known: set[str]) -> None:
        """Deletes the portraits and crops that belong to no face and to no image that may still be learned: those that
        were erased, and those that were stored after the moment of the backup. known: the keys of the faces' pictures.
        """
        log, objects = self._stores.log, self._stores.objects
        crops: dict[str, str] = {}  # of learned images, by image_id

        def take(records: Sequence[Record]) -> None:
            for record in records:
                crops.pop(record.key, None)
                with suppress(UnreadableRecord):
                    if record.value is not None:
                        crops[record.key] = FaceLearned.decode(record.value).crop.object_key

        await read_topic(log, FACES_LEARNED.name, take)
        known |= {key for image_id, crop in crops.items() for key in (original_key(image_id, "learn"), crop)}
        letters = [it.image_id for it in await open_letters(log)]
        known |= {key for image_id in letters if is_image_id(image_id) for key in object_keys_of_image(image_id)}

        async def unknown() -> AsyncIterator[str]:
            with progress_bar("checked objects", 0, always=False) as advance:
                for prefix in PORTRAITS:
                    async for info in objects.list(prefix):
                        advance(1)
                        if info.key not in known:
                            yield info.key

        await delete_all(objects, UnfinishedImages(log).without(unknown()))


def _erasure_of_row(wanted: Erasures, directory: str, face: Face) -> AnyErasure:
    """The largest of the wanted erasures that cover a face."""
    if wanted.get(directory_erasure_key(directory)):
        return DirectoryErasure(directory)
    if wanted.get(person_erasure_key(directory, face.person)):
        return PersonErasure(directory, face.person)
    return FaceErasure(directory, face.person, face.face_id, face.image_id)
