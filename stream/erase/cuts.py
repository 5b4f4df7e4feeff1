"""Makes the cuts of erasures, and finds what came after one."""

import asyncio
from collections.abc import Mapping, Sequence

from backends.log import EventLog, Record, TopicPartition
from schemas.bucket_events import BucketNotified
from schemas.cloudevents import decode_image_received
from schemas.errors import UnreadableRecord
from schemas.ids import image_id_of_object
from schemas.origins import Cut
from schemas.records import FacesReembedded, decode_embedded
from stream.erase.erasures import position_of
from stream.topic_reading import OffsetRange, read_ranges
from stream.topics import BUCKET_EVENTS, FACES_EMBEDDED, ORIGIN_TOPICS


async def make_cut(log: EventLog) -> Cut:
    """The current moment: what is appended from now on comes after it. Raises Unavailable."""
    return Cut(next_offsets=await end_offsets(log, ORIGIN_TOPICS))


async def start_offsets(log: EventLog, topics: Sequence[str]) -> dict[str, list[int]]:
    """For each topic the start offset of every partition. Raises Unavailable."""
    return _in_order(topics, await asyncio.gather(*(log.start_offsets(topic) for topic in topics)))


async def end_offsets(log: EventLog, topics: Sequence[str]) -> dict[str, list[int]]:
    """For each topic the end offset of every partition. Raises Unavailable."""
    return _in_order(topics, await asyncio.gather(*(log.end_offsets(topic) for topic in topics)))


def _in_order(topics: Sequence[str], offsets: Sequence[Mapping[int, int]]) -> dict[str, list[int]]:
    return {topic: [of_one[it] for it in range(len(of_one))] for topic, of_one in zip(topics, offsets, strict=True)}


class LaterImages:
    """The images that came after an erasure, as far as their records are there: `image_ids`, and their sources, each a
    bucket and a key.
    """

    def __init__(self, cut: Cut) -> None:
        self._cut = cut
        self.image_ids: set[str] = set()
        self.sources: set[tuple[str, str]] = set()

    def take(self, records: Sequence[Record]) -> None:
        for record in records:
            try:
                if record.topic == BUCKET_EVENTS:
                    for it in BucketNotified.decode(record.value).records:
                        bucket, name = it.s3.bucket.name, it.s3.object.name
                        self.image_ids.add(image_id_of_object(bucket, name, it.s3.object.etag))
                        self.sources.add((bucket, name))
                elif record.topic == FACES_EMBEDDED:
                    event = decode_embedded(record.value)
                    if isinstance(event, FacesReembedded):  # faces that are imported have no other record
                        self.image_ids.update(it.image_id for it in event.faces)
                else:
                    received = decode_image_received(record.value, record.headers).with_origin(position_of(record))
                    if self._cut.covers(received.origin):
                        continue  # it was sent again
                    self.image_ids.add(received.image_id)
                    if received.source is not None:
                        self.sources.add((received.source.bucket, received.source.key))
            except UnreadableRecord:
                continue


async def images_after(log: EventLog, cut: Cut, command: TopicPartition, offset: int) -> LaterImages:
    """Reads what has come after an erasure: after its cut, and after its command in the directory's partition. Raises
    Unavailable.
    """
    found = LaterImages(cut)
    end = (await log.end_offsets(command.topic))[command.partition]
    if offset + 1 < end:
        await read_ranges(log, command.topic, {command.partition: OffsetRange(offset + 1, end)}, found.take)
    ends = await end_offsets(log, tuple(cut.next_offsets))
    for topic, offsets in cut.next_offsets.items():
        ranges = {
            partition: OffsetRange(start, end)
            for partition, (start, end) in enumerate(zip(offsets, ends[topic], strict=True))
            if start < end
        }
        await read_ranges(log, topic, ranges, found.take)
    return found
