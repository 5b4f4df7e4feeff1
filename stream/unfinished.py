"""The images that are not finished: some group has not committed past their records."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from backends.log import EventLog, Record
from schemas.cloudevents import decode_image_received
from schemas.errors import UnreadableRecord
from schemas.records import FacesDetected, ImageReceived
from stream.erase.erasures import object_keys_of_image, position_of
from stream.topic_reading import OffsetRange, read_ranges
from stream.topics import FACES_DETECTED, IMAGES_RECEIVED, IMAGES_RECEIVED_BULK, OF_IMAGES

BEFORE_SINK = tuple((group, topic) for group, topic in OF_IMAGES if group != "sink")


async def read_unfinished(
    log: EventLog, pairs: Iterable[tuple[str, str]], take: Callable[[Sequence[Record]], None]
) -> None:
    """Passes the records of these groups and topics that the group has not committed past to `take`, in order within
    each partition. Raises Unavailable.
    """
    for group, topic in pairs:
        starts, ends = await log.group_offsets(group, topic), await log.end_offsets(topic)
        if any((await log.lag(group, topic)).values()):
            ranges = {each: OffsetRange(start, ends[each]) for each, start in starts.items() if start < ends[each]}
            await read_ranges(log, topic, ranges, take)


async def images_before_sink(log: EventLog) -> list[ImageReceived]:
    """The events of the images that processors or embedders have not handled, the last one of each image. Raises
    Unavailable.
    """
    events: dict[str, ImageReceived] = {}

    def take(records: Sequence[Record]) -> None:
        for record in records:
            try:
                if record.topic == FACES_DETECTED:
                    event = FacesDetected.decode(record.value).received
                else:
                    event = decode_image_received(record.value, record.headers).with_origin(position_of(record))
            except UnreadableRecord:
                continue
            events[event.image_id] = event

    await read_unfinished(log, BEFORE_SINK, take)
    return list(events.values())


class UnfinishedImages:
    """The objects of unfinished images, which no sweep may delete, however old they seem by a clock. They are read when
    they are needed.
    """

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

        await read_unfinished(self._log, OF_IMAGES, take)
        return frozenset(keys)


def _image_id(record: Record) -> str:
    if record.topic in (IMAGES_RECEIVED, IMAGES_RECEIVED_BULK):
        try:
            return decode_image_received(record.value, record.headers).image_id
        except UnreadableRecord:
            pass
    return record.key
