"""The object store on a server that speaks S3 (MinIO), through the minio package, whose calls run in threads.

names.py maps keys to names in the bucket, metadata.py maps metadata to headers, errors.py maps errors.
"""

import asyncio
import itertools
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import ParamSpec, TypeVar
from xml.etree.ElementTree import ParseError

import urllib3
from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import MinioException, S3Error
from minio.helpers import check_bucket_name, check_object_name
from urllib3.exceptions import HTTPError

from backends.object_checks import LONGEST_KEY, check_fetched, check_key, check_metadata, check_text
from backends.objects import ObjectInfo, ObjectStore, StoredObject
from backends.s3.errors import code_to_port_error, to_port_error
from backends.s3.metadata import headers_of, metadata_of
from backends.s3.names import INCOMING, is_level, key_of_name, name_of_key, names_begin_with
from backends.s3.notifications import enable_notifications
from backends.s3.private_parts import if_none_match
from backends.s3.versions import BucketVersions
from backends.urls import ServerUrl, server_of
from schemas.errors import ConfigurationError, InvalidRequest, ObjectMissing, Unavailable

P = ParamSpec("P")
T = TypeVar("T")

SETTING = "FACESTREAM_OBJECTS"
PORT = 9000
# More than there are cores, because calls wait for the server and not for the processor.
THREADS = 32
CONNECT_S = 10.0  # also the longest pause of a server that reads a put: SeaweedFS on a busy machine needs over 3 s
READ_S = 30.0
# A call that has waited this long for a free thread fails. Otherwise, if the store hangs, the last of many calls would
# wait for minutes.
QUEUE_TIMEOUT_S = 30.0
# Larger objects are put in parts. An uploaded picture is never larger.
PART_BYTES = 32 << 20
# MinIO answers AccessDenied, and stores nothing, when a delete empties the level of the name at that very moment.
PUT_ATTEMPTS = 5
LIST_BATCH = 1000
LONGEST_NAME = 1024
NO_SUCH_OBJECT = ("NoSuchKey", "NoSuchBucket", "InvalidBucketName", "XMinioInvalidObjectName", "KeyTooLongError")


class S3Objects(ObjectStore):
    """See ObjectStore. `s3://user:password@host:9000/bucket/prefix`, where the prefix may be missing.

    Options: tls (true or false), ca_file, region, password_file. Objects with names that names.py does not give are
    ignored.
    """

    def __init__(self, url: str) -> None:
        """Raises ConfigurationError. It does not connect before the first call."""
        server = server_of(url, setting=SETTING, default_port=PORT, options=("tls", "ca_file", "region"))
        self._bucket, _, prefix = server.path.rstrip("/").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._host = _host(server)
        self._where = f"s3://{self._host}/{self._bucket}"
        if prefix and not all(map(is_level, prefix.split("/"))):
            raise ConfigurationError(f"{SETTING}: '{prefix}' is not a prefix of names in a bucket")
        self._pool = _pool(server)
        self._client = _client(server, self._host, self._bucket, self._pool)
        self._versions = BucketVersions(self._client, self._bucket, self._where)
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="objects")
        self._closed = False

    def __repr__(self) -> str:
        return f"S3Objects('{self._where}/{self._prefix}')"

    async def create(self) -> None:
        await self._run(self._create)

    async def announce_incoming(self, target: str) -> None:
        """Has the server send an event to its Kafka target for each object that is put below `incoming/`.

        Raises ConfigurationError if it has no such target, Unavailable.
        """
        await self._run(enable_notifications, self._client, self._bucket, self._prefix + INCOMING, target)

    async def put(
        self, key: str, data: bytes, metadata: Mapping[str, str] | None = None, *, if_absent: bool = False
    ) -> bool:
        check_metadata(metadata or {})
        return await self._run(self._put, self._name(key), data, headers_of(metadata or {}), if_absent)

    async def get(self, key: str) -> StoredObject:
        found = await self._run(self._get, self._name(key))
        if found is None:
            raise ObjectMissing(f"there is no object '{key}'")
        return found

    async def metadata(self, key: str, *, version: str | None = None) -> Mapping[str, str] | None:
        return await self._run(self._metadata, self._name(key), version)

    async def fetch(self, bucket: str, name: str, *, etag: str | None, largest: int) -> bytes:
        found = await self._run(self._fetch, bucket, name, etag, largest)
        if found is None:
            raise ObjectMissing(f"there is no object '{name}' in the bucket '{bucket}'")
        return found

    def key_of(self, bucket: str, name: str) -> str | None:
        if bucket != self._bucket or not name.startswith(self._prefix):
            return None
        key = key_of_name(name.removeprefix(self._prefix))
        return key if key is not None and len(key) <= LONGEST_KEY else None

    async def delete(self, keys: Sequence[str]) -> None:
        await self._run(self._delete, [self._name(key) for key in keys])

    async def delete_older(self, keys: Sequence[str]) -> None:
        await self._run(self._delete_older, [self._name(key) for key in keys])

    async def list(self, prefix: str = "", *, versions: bool = False) -> AsyncIterator[ObjectInfo]:
        check_text(prefix, "the prefix")
        objects = self._walk(prefix, versions)
        while batch := await self._run(_batch, objects):
            for each in batch:
                yield each

    async def ping(self) -> None:
        await self._run(self._versions.check)

    async def close(self) -> None:
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(None, self._executor.shutdown)
        self._pool.clear()

    def _name(self, key: str) -> str:
        check_key(key)
        name = self._prefix + name_of_key(key)
        if len(name.encode()) > LONGEST_NAME:
            raise InvalidRequest(
                f"with the prefix '{self._prefix}' the key of an object is too long for S3: use a shorter prefix"
            )
        return name

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._closed:
            raise Unavailable(f"{self._where} is closed")
        asked = time.monotonic()

        def guarded() -> T:
            waited = time.monotonic() - asked
            if waited > QUEUE_TIMEOUT_S:
                raise Unavailable(f"{self._where} is too slow: a call waited {waited:.0f} s for a free thread")
            try:
                return work(*args, **kwargs)
            except (MinioException, HTTPError, ParseError) as error:
                raise to_port_error(error, self._where) from error

        return await asyncio.get_running_loop().run_in_executor(self._executor, guarded)

    # In the threads.

    def _create(self) -> None:
        if not self._client.bucket_exists(self._bucket):  # a user of a bucket need not have the right to create one
            try:
                self._client.make_bucket(self._bucket)
            except S3Error as error:
                if error.code != "BucketAlreadyOwnedByYou":  # made by another process just now
                    raise
        self._versions.check()

    def _put(self, name: str, data: bytes, headers: dict[str, str], if_absent: bool) -> bool:
        # The condition is checked in one request, so such an object is not put in parts.
        part = max(PART_BYTES, len(data)) if if_absent else PART_BYTES
        condition = if_none_match() if if_absent else None
        attempts = PUT_ATTEMPTS
        while True:
            try:
                # BytesIO does not copy the bytes as long as nobody writes to it.
                self._client.put_object(
                    self._bucket, name, BytesIO(data), len(data), metadata={**headers}, sse=condition, part_size=part
                )
                return True
            except S3Error as error:
                if error.code == "PreconditionFailed":
                    return False
                attempts -= 1
                if error.code != "AccessDenied" or not attempts:
                    raise

    def _get(self, name: str) -> StoredObject | None:
        try:
            response = self._client.get_object(self._bucket, name)
        except S3Error as error:
            if error.code == "NoSuchKey":
                return None
            raise
        try:
            return StoredObject(response.read(decode_content=False), metadata_of(response.headers.items()))
        finally:
            response.close()
            response.release_conn()

    def _fetch(self, bucket: str, name: str, etag: str | None, largest: int) -> bytes | None:
        try:
            check_bucket_name(bucket)
            check_object_name(name)
        except ValueError:  # no object has such a name
            return None
        if "\0" in name:  # nor such a name, for which each server has another error
            return None
        try:
            response = self._client.get_object(bucket, name)
        except S3Error as error:
            if error.code in NO_SUCH_OBJECT:
                return None
            raise
        with response:
            # As stored: urllib3 would decode the data by their Content-Encoding, into any number of bytes.
            data = response.read(largest + 1, decode_content=False)
            check_fetched(name, len(data), response.headers.get("ETag", ""), expected_etag=etag, largest=largest)
            response.read(1, decode_content=False)  # raises an error if the answer was cut off
            response.release_conn()
            return data

    def _metadata(self, name: str, version: str | None) -> Mapping[str, str] | None:
        try:
            found = self._client.stat_object(self._bucket, name, version_id=version)
        except S3Error as error:
            if error.code == "NoSuchKey":
                return None
            raise
        return metadata_of((found.metadata or {}).items())

    def _delete(self, names: Sequence[str]) -> None:
        if self._versions.are_kept():
            deleted = [each for name in names for each in self._versions.of(name)]
        else:
            deleted = [DeleteObject(name) for name in names]
        self._remove(deleted)

    def _delete_older(self, names: Sequence[str]) -> None:
        self._remove([each for name in names for each in self._versions.older_than(name)])

    def _remove(self, deleted: Sequence[DeleteObject]) -> None:
        for each in list(self._client.remove_objects(self._bucket, deleted)):
            raise code_to_port_error(each.code, each.message or "", self._where)

    def _walk(self, prefix: str, versions: bool) -> Iterator[ObjectInfo]:
        if len(prefix) > LONGEST_KEY:
            return
        versions = versions and self._versions.are_kept()
        for beginning in names_begin_with(prefix):
            for found in self._client.list_objects(
                self._bucket, self._prefix + beginning, recursive=True, include_version=versions
            ):
                key = key_of_name((found.object_name or "").removeprefix(self._prefix))
                if key is None or not key.startswith(prefix) or found.last_modified is None or found.is_delete_marker:
                    continue
                version = found.version_id if found.is_latest == "false" else None
                yield ObjectInfo(key, found.size or 0, found.last_modified.timestamp(), version)


def _batch(objects: Iterator[ObjectInfo]) -> Sequence[ObjectInfo]:
    return tuple(itertools.islice(objects, LIST_BATCH))


def _host(server: ServerUrl) -> str:
    if len(server.hosts) != 1:
        raise ConfigurationError(f"{SETTING}: one host, not {len(server.hosts)}: put a load balancer before several")
    [(host, port)] = server.hosts
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _pool(server: ServerUrl) -> urllib3.PoolManager:
    ca_file = server.options.get("ca_file")
    try:
        context = ssl.create_default_context(cafile=ca_file) if server.flag("tls") else None
    except OSError as error:
        raise ConfigurationError(f"{SETTING}: the certificates in {ca_file} cannot be read: {error}") from None
    return urllib3.PoolManager(
        maxsize=THREADS,
        timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
        # Only a failed connection is retried: a second put with if_absent would find the object of the first one.
        retries=urllib3.Retry(total=None, connect=1, read=0, redirect=False, status=0, other=0),
        ssl_context=context,
    )


def _client(server: ServerUrl, host: str, bucket: str, pool: urllib3.PoolManager) -> Minio:
    if (server.user is None) != (server.password is None):
        raise ConfigurationError(
            f"{SETTING}: a user without a password, or the reverse: the password is in the URL, in the file that "
            f"?password_file= names, or in {SETTING}_PASSWORD"
        )
    try:
        check_bucket_name(bucket, strict=True)
        return Minio(
            host,
            access_key=server.user,
            secret_key=server.password,
            secure=server.flag("tls"),
            region=server.options.get("region", "us-east-1"),
            http_client=pool,
        )
    except ValueError as error:
        raise ConfigurationError(f"{SETTING}: {error}: write s3://user@host:{PORT}/bucket") from None
