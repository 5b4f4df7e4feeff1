"""A notification of the bucket becomes an event of the bulk lane, or is ignored."""

import asyncio
import json
from pathlib import Path
from urllib.parse import quote_plus

import pytest

from backends.files.objects import FileObjects
from backends.log import Record
from schemas.errors import UnreadableRecord
from schemas.records import ImageReceived, Source
from stream.bridge import Bridge
from stream.topics import BUCKET_EVENTS, IMAGES_RECEIVED_BULK


def notified(key: str, etag: str = "e", event: str = "s3:ObjectCreated:Put", bucket: str = "faces") -> bytes:
    """A notification as MinIO writes it, shortened."""
    place = {
        "s3SchemaVersion": "1.0",
        "bucket": {"name": bucket},
        "object": {"key": quote_plus(key), "size": 3, "eTag": etag},
    }
    return json.dumps(
        {"EventName": event, "Key": key, "Records": [{"eventVersion": "2.0", "eventName": event, "s3": place}]}
    ).encode()


def events(tmp_path: Path, *values: bytes) -> list[ImageReceived]:
    async def handled() -> list[ImageReceived]:
        objects = FileObjects(tmp_path / "faces")
        records = [Record(BUCKET_EVENTS, 0, offset, 1_000 + offset, "", value) for offset, value in enumerate(values)]
        outputs = await Bridge(objects).handle(records)
        await objects.close()
        assert {it.topic for it in outputs} <= {IMAGES_RECEIVED_BULK}
        found = [ImageReceived.decode(it.value) for it in outputs]
        assert [it.key for it in outputs] == [it.image_id for it in found]
        return found

    return asyncio.run(handled())


def test_a_put_object_is_learned_or_recognized(tmp_path: Path) -> None:
    learn, recognize = "incoming/acmé/learn/Ann + Bob/2026/a b%.jpg", "incoming/acmé/recognize/x/1.jpg"
    first, second = events(
        tmp_path, notified(learn), notified(recognize, event="ObjectCreated:CompleteMultipartUpload")
    )
    assert (first.purpose, first.directory, first.person, first.received_at) == ("learn", "acmé", "Ann + Bob", 1_000)
    assert first.source == Source(bucket="faces", key=learn, etag="e")
    assert (second.purpose, second.directory, second.person, second.received_at) == ("recognize", "acmé", None, 1_001)


def test_an_object_notified_twice_is_one_image_and_other_content_is_another(tmp_path: Path) -> None:
    key = "incoming/a/recognize/1.jpg"
    ids = [
        it.image_id
        for it in events(tmp_path, notified(key), notified(key), notified(key, etag="f"), notified(f"{key}g"))
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    "value",
    [
        notified("incoming/a/recognize/1.jpg", event="s3:ObjectRemoved:Delete"),
        notified("incoming/a/recognize/1.jpg", bucket="another"),
        notified("originals/recognize/1.jpg"),
        notified("incoming/a/recognize/"),
        notified("incoming/a/recognize/folder/"),
        notified("incoming/a/learn/1.jpg"),
        notified("incoming/a/learn/Ann/"),
        notified("incoming/a/forget/1.jpg"),
        notified("incoming/a\0/recognize/1.jpg"),
        notified("incoming//recognize/1.jpg"),
    ],
)
def test_other_notifications_are_ignored(tmp_path: Path, value: bytes) -> None:
    assert events(tmp_path, value) == []


@pytest.mark.parametrize("value", [b"", b"{}", b'{"Records": [{"eventName": "s3:ObjectCreated:Put"}]}', b"\xff"])
def test_an_invalid_notification_is_unreadable(tmp_path: Path, value: bytes) -> None:
    with pytest.raises(UnreadableRecord):
        events(tmp_path, value)
