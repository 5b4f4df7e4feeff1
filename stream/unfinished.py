"""The images that are not finished, whose objects no sweep may delete, however old they seem by a clock."""

from collections.abc import AsyncIterator, Sequence

from backends.log import EventLog, Record
from schemas.cloudevents import decode_image_received
from schemas.errors import UnreadableRecord
from stream.erase.erasures import object_keys_of_image
from stream.topic_reading import OffsetRange, read_ranges
from stream.topics import IMAGES_RECEIVED, IMAGES_RECEIVED_BULK, OF_IMAGES


class UnfinishedImages:
    """The objects of the images whose records some group has not committed past. They are read when they are needed."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._keys: frozenset[str] | None = None

    async def without(self, keys: AsyncIterator[str]) -> AsyncIterator[str]:
        """These keys without those of unfinished images. Raises Unavailable."""
        async for key in keys:
            if self._keys is None:
                self._keys = await self._read()
            if key not in self._keys:
                yield key

    async def _read(self) -> frozenset[str]:
        keys: set[str] = set()

        def take(records: Sequence[Record]) -> None:
            for record in records:
                keys.update(object_keys_of_image(_image_id(record)))

        for group, topic in OF_IMAGES:
            starts, ends = await self._log.group_offsets(group, topic), await self._log.end_offsets(topic)
            if not any((await self._log.lag(group, topic)).values()):
                continue
            ranges = {each: OffsetRange(start, ends[each]) for each, start in starts.items() if start < ends[each]}
            await read_ranges(self._log, topic, ranges, take)
        return frozenset(keys)


def _image_id(record: Record) -> str:
    if record.topic in (IMAGES_RECEIVED, IMAGES_RECEIVED_BULK):
        try:
            return decode_image_received(record.value, record.headers).image_id
        except UnreadableRecord:
            pass
    return record.key
