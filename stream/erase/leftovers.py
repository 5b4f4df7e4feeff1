"""Deletes data that a suspended worker has written after an erasure, when it had already lost its partition: records in
`faces.learned`, which compaction would keep for ever, and pictures of dead letters, which are kept for another try.
"""

from collections.abc import Sequence

from backends.log import EventLog, Record
from backends.objects import ObjectDeleter
from schemas.errors import UnreadableRecord
from schemas.records import FaceLearned
from stream.dead_letters import open_letters
from stream.erase.erasures import Erasures, object_keys_of_image
from stream.erase.guarded_store import changelog_tombstones
from stream.topic_reading import read_topic
from stream.topics import FACES_LEARNED


async def delete_leftovers(log: EventLog, objects: ObjectDeleter, erasures: Erasures) -> int:
    """Reads the whole changelog; returns how many faces were deleted from it. Raises Unavailable, StorageFull."""
    erased: dict[str, FaceLearned] = {}

    def take(records: Sequence[Record]) -> None:
        for record in records:
            erased.pop(record.key, None)
            if record.value is None:
                continue
            try:
                face = FaceLearned.decode(record.value)
            except UnreadableRecord:
                continue
            if erasures.cover_row(face.directory, face.person, face.image_id, face.learned_at):
                erased[record.key] = face

    await read_topic(log, FACES_LEARNED.name, take)
    if erased:
        tombstones = [it for key, face in erased.items() for it in changelog_tombstones([key], face.directory)]
        await log.append(tombstones)
        await objects.delete([key for face in erased.values() for key in object_keys_of_image(face.image_id)])
    for letter in await open_letters(log):
        event = letter.event
        if event is not None and erasures.cover_image(event):
            await objects.delete(object_keys_of_image(event.image_id))
    return len(erased)
