"""The stage that reads `bucket.events`: an object that somebody puts into our bucket below `incoming/` becomes an event
of the bulk lane.

  incoming/{directory}/learn/{person}/…    is learned
  incoming/{directory}/recognize/…         is recognized

All other objects in notifications are counted and ignored. Two notifications of the same object give one image; new
content under the same name gives another image.
"""

from collections.abc import Mapping, Sequence

import structlog
from prometheus_client import Counter
from pydantic import ValidationError

from backends.log import CommittedOffset, NewRecord, Record, TopicPartition
from backends.objects import ObjectReader
from schemas.bucket_events import BucketNotified, Notification
from schemas.errors import UnreadableRecord
from schemas.ids import image_id_of_object
from schemas.records import ImageReceived, Source
from stream.erase.erasures import position_of
from stream.incoming import read_incoming_key
from stream.topics import IMAGES_RECEIVED_BULK

log = structlog.get_logger(__name__)

NOTIFIED = Counter("facestream_bucket_events_total", "Objects in bucket notifications, by outcome", ["outcome"])


class Bridge:
    """Stage of the consumer group `bridge`."""

    name = "bridge"

    def __init__(self, objects: ObjectReader) -> None:
        self._objects = objects

    async def on_assignment(self, assignment: Mapping[TopicPartition, CommittedOffset]) -> None:
        """Does nothing: the stage keeps no state in memory."""

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        outputs: list[NewRecord] = []
        for record in records:
            for notification in BucketNotified.decode(record.value).records:
                event = self._event(notification, record)
                NOTIFIED.labels("ignored" if event is None else "announced").inc()
                if event is not None:
                    outputs.append(NewRecord(IMAGES_RECEIVED_BULK, event.image_id, event.encode()))
        return outputs

    def event_of(self, record: Record) -> ImageReceived:
        raise UnreadableRecord("nobody waits for the answer to a bucket notification")

    async def check_stores(self) -> None:
        """Does nothing: the stage needs only the log."""

    def _event(self, notification: Notification, record: Record) -> ImageReceived | None:
        """The event of an object. The record of the notification is its origin."""
        bucket, name, etag = notification.s3.bucket.name, notification.s3.object.name, notification.s3.object.etag
        key = self._objects.key_of(bucket, name) if notification.created else None
        read = None if key is None else read_incoming_key(key)
        if read is None:
            return None
        purpose, directory, person = read
        try:
            return ImageReceived(
                image_id=image_id_of_object(bucket, name, etag),
                purpose=purpose,
                directory=directory,
                person=person,
                source=Source(bucket=bucket, key=name, etag=etag or None),
                received_at=record.timestamp,
                origin=position_of(record),
            )
        except ValidationError as error:
            log.warning("no event is made of an object", key=key, reason=error.errors(include_url=False)[0]["msg"])
            return None
