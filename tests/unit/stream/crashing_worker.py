"""A worker in a separate process that crashes where a test says: python crashing_worker.py LOG MODE ORDER. LOG is the
folder of an embedded log, or the URL of a log, which takes the mode `killer` only.

It runs until everything is committed, then ends with 0. With a mode that names a moment, the image `deadly` ends the
process at that moment, once (exit code 77). The image `killer` ends it every time, by SIGKILL.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from backends.log import CommittedOffset, Consumer, NewRecord, Record, TopicPartition
from backends.open import open_log
from backends.sqlite.log import SqliteLog
from schemas.records import ImageReceived
from stream import lanes as lanes_module
from stream.answers import answer_record
from stream.topics import IMAGES_RECEIVED
from stream.worker import Worker
from tests.answers import recognized
from tests.unit.delegating import DelegatingConsumer

DIED = 77


class Death:
    """Ends the process at the moment that `mode` names, the first time only."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.mode, self.marker = mode, folder / "died"

    def at(self, moment: str) -> None:
        if moment == self.mode and not self.marker.exists():
            self.marker.touch()
            os._exit(DIED)


class CrashingStage:
    name = "stage"

    def __init__(self, death: Death) -> None:
        self.death = death

    async def on_assignment(self, assignment: Mapping[TopicPartition, CommittedOffset]) -> None:
        """Does nothing: the stage keeps no state in memory."""

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        images = [ImageReceived.decode(record.value) for record in records]
        for image in images:
            if image.filename == "killer":
                os.kill(os.getpid(), signal.SIGKILL)
            if image.filename == "deadly":
                self.death.at("in handle")
        await asyncio.sleep(0)
        return [
            answer_record(image, 200, recognized(image_id=image.image_id, filename=image.filename)) for image in images
        ]

    def event_of(self, record: Record) -> ImageReceived:
        return ImageReceived.decode(record.value)

    async def check_stores(self) -> None:
        """Does nothing: the store is available."""


class CrashingConsumer(DelegatingConsumer):
    def __init__(self, inner: Consumer, log: "CrashingLog") -> None:
        super().__init__(inner)
        self.log = log

    async def commit(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        await super().commit(offsets)
        if self.log.appended:
            self.log.death.at("after commit")


class CrashingLog(SqliteLog):
    def __init__(self, path: Path, death: Death) -> None:
        super().__init__(path)
        self.death, self.appended = death, False

    async def append(self, records: Sequence[NewRecord]) -> list[TopicPartition]:
        deadly = any(b'"filename":"deadly"' in (record.value or b"") for record in records)
        if deadly:
            self.death.at("before append")
        places = await super().append(records)
        if deadly:
            self.death.at("after append")
            self.appended = True
        return places

    async def consumer(self, group: str, topics: Sequence[str], *, member: str, linger_s: float = 0.0) -> Consumer:
        return CrashingConsumer(await super().consumer(group, topics, member=member, linger_s=linger_s), self)


async def main(where: str, mode: str, *, ordered: bool) -> None:
    lanes_module.POLL_S = 0.05
    death = Death(Path(where), mode)
    log = open_log(where) if "://" in where else CrashingLog(Path(where) / "log.db", death)
    sequence_of = (lambda _: "") if ordered else None
    worker = Worker(
        log, CrashingStage(death), [IMAGES_RECEIVED], member="one", sequence_of=sequence_of, max_in_flight=8
    )
    task = asyncio.create_task(worker.run())
    while sum((await log.lag(CrashingStage.name, IMAGES_RECEIVED)).values()) and not task.done():
        await asyncio.wait([task], timeout=0.01)
    worker.stop()
    await task
    await log.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], ordered=sys.argv[3] == "ordered"))
