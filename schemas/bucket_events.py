"""`bucket.events`: the bucket notifications of an S3 store (MinIO)."""

from urllib.parse import unquote_plus

from pydantic import BaseModel, ConfigDict, Field

from schemas.event import EventRecord


class Bucket(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str


class NotifiedObject(BaseModel):
    """An object that a notification names. `key` is encoded as in the query of a URL."""

    model_config = ConfigDict(frozen=True, serialize_by_alias=True)

    key: str
    etag: str = Field("", alias="eTag")

    @property
    def name(self) -> str:
        """The object's name in its bucket."""
        return unquote_plus(self.key)


class BucketObject(BaseModel):
    model_config = ConfigDict(frozen=True)

    bucket: Bucket
    object: NotifiedObject


class Notification(BaseModel):
    model_config = ConfigDict(frozen=True, serialize_by_alias=True)

    event_name: str = Field(alias="eventName")
    s3: BucketObject

    @property
    def created(self) -> bool:
        return self.event_name.removeprefix("s3:").startswith("ObjectCreated:")


class BucketNotified(EventRecord):
    """A notification from a store. It may name several objects. Members that are not used here are ignored."""

    model_config = ConfigDict(serialize_by_alias=True)

    records: list[Notification] = Field(alias="Records")
