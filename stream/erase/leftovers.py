"""Takes back what somebody who was late has left behind an erasure: in `faces.learned`, where compaction would keep it
for good, and of images among the dead letters, whose pictures are kept for another try.
"""

from collections.abc import Sequence

from backends.log import EventLog, NewRecord, Record
from backends.objects import ObjectStore
from schemas.errors import UnreadableRecord
from schemas.records import FaceLearned
from stream.dead_letters import open_letters
from stream.erase.marks import Erasures, is_erased, objects_of
from stream.reading import read_whole
from stream.topics import FACES_LEARNED


async def take_back_late(log: EventLog, objects: ObjectStore, erasures: Erasures) -> int:
    """Reads the whole changelog; returns how many faces were taken back. Raises Unavailable, StorageFull."""
    late: dict[str, FaceLearned] = {}

    def take(records: Sequence[Record]) -> None:
        for record in records:
            late.pop(record.key, None)
            if record.value is None:
                continue
            try:
                face = FaceLearned.decode(record.value)
            except UnreadableRecord:
                continue
            if erasures.covers(face.directory, face.person, face.image_id, face.learned_at):
                late[record.key] = face

    await read_whole(log, FACES_LEARNED, take)
    if late:
        await log.append([NewRecord(FACES_LEARNED, key, None, face.directory) for key, face in late.items()])
        await objects.delete([key for face in late.values() for key in objects_of(face.image_id)])
    for letter in await open_letters(log):
        if letter.event is not None and is_erased(
            letter.event, letter.event.came_at(letter.record.timestamp), erasures
        ):
            await objects.delete(objects_of(letter.event.image_id))
    return len(late)
