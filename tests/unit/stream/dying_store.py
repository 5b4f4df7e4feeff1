"""A process that crashes, the first time, between a put and the check of the erasures: python dying_store.py FOLDER
WHAT. Between the two, a person is erased, as if by another process.

WHAT is the put after which it crashes: of a `copy` of a source, of a `crop`, or of an `answer`. It runs until
everything is committed, then ends with 0.
"""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from backends.files.objects import FileObjects
from backends.log import CommittedOffset, EventLog, NewRecord, Record, TopicPartition
from backends.sqlite.log import SqliteLog
from backends.sqlite.vectors import SqliteVectors
from backends.vectors import StoredAnswer
from schemas.erasures import PersonErasure
from schemas.ids import crop_key, learned_face_id
from schemas.records import ImageReceived
from sink.answers import AnswerStage
from stream import lanes
from stream.answers import answer_record
from stream.erase.erasures import Erasures, position_of
from stream.erase.guarded_store import GuardedStore
from stream.sources import SourceCopier
from stream.topics import IMAGES_RECEIVED, RESULTS
from stream.worker import Worker
from tests import answers
from tests.records import erasure_record

DIED = 77
ERASED = PersonErasure("acme", "obama")
ERASED_OFFSET = 1_000  # after all images, and after all answers


class Death:
    """At the put that `what` names, only the first time: erases the person before it, and ends the process after it."""

    def __init__(self, folder: Path, what: str, log: EventLog) -> None:
        self._what, self._marker, self._log = what, folder / "died", log

    def comes_at(self, what: str) -> bool:
        return what == self._what and not self._marker.exists()

    async def erase(self) -> None:
        await self._log.append([erasure_record(key, offset=ERASED_OFFSET) for key in ERASED.keys])

    def die(self) -> None:
        self._marker.touch()
        os._exit(DIED)


class DyingObjects(FileObjects):
    death: Death

    async def put(
        self, key: str, data: bytes, metadata: Mapping[str, str] | None = None, *, if_absent: bool = False
    ) -> bool:
        deadly = self.death.comes_at("crop" if key.startswith("crops/") else "copy")
        if deadly:
            await self.death.erase()
        stored = await super().put(key, data, metadata, if_absent=if_absent)
        if deadly:
            self.death.die()
        return stored


class DyingVectors(SqliteVectors):
    death: Death

    async def put_answers(self, answers: Sequence[StoredAnswer]) -> None:
        deadly = self.death.comes_at("answer")
        if deadly:
            await self.death.erase()
        await super().put_answers(answers)
        if deadly:
            self.death.die()


class KeepingStage:
    """Handles an image like a processor, but without networks: copies its source, and stores a crop."""

    name = "processors"

    def __init__(self, store: GuardedStore, sources: SourceCopier) -> None:
        self._store, self._sources = store, sources

    async def on_assignment(self, assignment: Mapping[TopicPartition, CommittedOffset]) -> None:
        """Does nothing: the stage keeps no state in memory."""

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        outputs: list[NewRecord] = []
        for record in records:
            received, received_at = self.event_of(record), record.timestamp
            await self._store.drop_if_erased(received)
            received, _ = await self._sources.read_original(received, received_at)
            key = crop_key(learned_face_id(received.image_id))
            metadata = self._store.metadata(received, received_at, image_id=received.image_id)
            await self._store.put(received, key, b"crop", metadata)
            outputs.append(answer_record(received, 201, answers.learned()))
        return outputs

    def event_of(self, record: Record) -> ImageReceived:
        return ImageReceived.decode(record.value).with_origin(position_of(record))

    async def check_stores(self) -> None:
        """Does nothing: the store is available."""


async def main(folder: Path, what: str) -> None:
    lanes.POLL_S = 0.05
    log = SqliteLog(folder / "log.db")
    objects, vectors = DyingObjects(folder / "objects"), DyingVectors(folder / "vectors.db")
    objects.death = vectors.death = Death(folder, what, log)
    erasures = Erasures(log)
    await erasures.start()
    store = GuardedStore(objects, vectors, erasures)
    stage: KeepingStage | AnswerStage
    if what == "answer":
        stage, topic = AnswerStage(vectors, objects, store, keep_probes=True), RESULTS
    else:
        stage, topic = KeepingStage(store, SourceCopier(objects, store, [], 1_000)), IMAGES_RECEIVED
    worker = Worker(log, stage, [topic], member="one", max_in_flight=8)
    task = asyncio.create_task(worker.run())
    while sum((await log.lag(stage.name, topic)).values()) and not task.done():
        await asyncio.wait([task], timeout=0.01)
    worker.stop()
    await task
    await erasures.close()
    for store_ in (log, objects, vectors):
        await store_.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
