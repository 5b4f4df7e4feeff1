"""The images that are not finished: some group has not committed past their records."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import structlog

from backends.log import EventLog, Record
from schemas.cloudevents import decode_image_received
from schemas.errors import Unavailable, UnreadableRecord
from schemas.records import FacesDetected, ImageReceived
from stream.erase.erasures import object_keys_of_image, position_of
from stream.topic_reading import OffsetRange, read_ranges
from stream.topics import FACES_DETECTED, IMAGES_RECEIVED, IMAGES_RECEIVED_BULK, OF_IMAGES

log = structlog.get_logger(__name__)

BEFORE_SINK = tuple((group, topic) for group, topic in OF_IMAGES if group != "sink")


async def read_unfinished(
    log_: EventLog, pairs: Iterable[tuple[str, str]], take: Callable[[Sequence[Record]], None]
) -> None:
    """Passes the records of these groups and topics that the group has not committed past to `take`, in order within
    each partition. What an open transaction of another system holds back is not read. Raises Unavailable.
    """
    for group, topic in pairs:
        starts = await log_.group_offsets(group, topic)
        ends = {**await log_.end_offsets(topic), **await log_.held_offsets(topic)}
        if any((await log_.lag(group, topic)).values()):
            ranges = {each: OffsetRange(start, ends[each]) for each, start in starts.items() if start < ends[each]}
            await read_ranges(log_, topic, ranges, take)


async def images_before_sink(log_: EventLog, wanted: Callable[[ImageReceived], bool]) -> list[ImageReceived]:
    """The wanted ones of the images that processors or embedders have not handled. Only the last event of each image
    counts. A topic that cannot be read to its end counts as far as it can be read.
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
            events.pop(event.image_id, None)
            if wanted(event):
                events[event.image_id] = event

    for pair in BEFORE_SINK:
        try:
            await read_unfinished(log_, [pair], take)
        except Unavailable as error:
            log.warning("reading the images that wait has failed", topic=pair[1], reason=error.message)
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
