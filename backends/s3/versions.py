"""The older versions that a bucket keeps, and its object lock.

Where a bucket keeps versions, a delete only hides an object: its bytes can still be read. So the store deletes all
versions of an object. A bucket whose versioning is suspended still has the versions from before.
"""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from minio import Minio
from minio.datatypes import Object
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from minio.versioningconfig import OFF

from schemas.errors import ConfigurationError, Unavailable

T = TypeVar("T")

LOOK_EVERY_S = 60.0  # versioning may be enabled at any time
NO_LOCK = "ObjectLockConfigurationNotFoundError"
UNKNOWN_TO_SERVER = "NotImplemented"


class BucketVersions:
    """The versions of the objects in a bucket. Methods raise the errors of minio, and Unavailable."""

    def __init__(self, client: Minio, bucket: str, where: str) -> None:
        """where: the store's name in messages."""
        self._client, self._bucket, self._where = client, bucket, where
        self._are_kept, self._looked_at = False, float("-inf")

    def check(self) -> None:
        """Looks at the bucket: one request, and another if it keeps versions. Raises ConfigurationError if it has
        object lock.
        """
        if self._look() and self._ask(self._client.get_object_lock_config, NO_LOCK) is not None:
            raise ConfigurationError(
                f"{self._where} has object lock, which may keep what has to be erased: copy the objects into a bucket"
                " without object lock, and name that one in FACESTREAM_OBJECTS"
            )

    def are_kept(self) -> bool:
        """Whether the bucket may have older versions. The answer may be a minute old."""
        return self._look() if time.monotonic() > self._looked_at + LOOK_EVERY_S else self._are_kept

    def of(self, name: str) -> list[DeleteObject]:
        """All versions of an object, and its delete markers."""
        return [DeleteObject(name, it.version_id) for it in self._list(name)]

    def older_than(self, name: str) -> list[DeleteObject]:
        """The versions of an object, without the object itself, or the delete marker that hides it."""
        return [DeleteObject(name, it.version_id) for it in self._list(name) if it.is_latest == "false"]

    def _list(self, name: str) -> Iterator[Object]:
        found = self._client.list_objects(self._bucket, name, include_version=True)
        return (it for it in found if it.object_name == name)

    def _look(self) -> bool:
        versioning = self._ask(self._client.get_bucket_versioning)
        self._are_kept, self._looked_at = versioning is not None and versioning.status_string != OFF, time.monotonic()
        return self._are_kept

    def _ask(self, question: Callable[[str], T], *none: str) -> T | None:
        """What the server says of the bucket; None for one of these error codes, and if it knows no versions."""
        try:
            return question(self._bucket)
        except S3Error as error:
            if error.code in (*none, UNKNOWN_TO_SERVER):
                return None
            if error.code == "AccessDenied":
                raise Unavailable(
                    f"{self._where}: allow this user s3:GetBucketVersioning. Where the bucket keeps versions, allow it"
                    " s3:GetBucketObjectLockConfiguration, s3:ListBucketVersions, s3:GetObjectVersion and"
                    " s3:DeleteObjectVersion too"
                ) from error
            raise
