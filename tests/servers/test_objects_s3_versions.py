"""Buckets that keep versions, and buckets with object lock: nothing that was deleted can be read any more."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from io import BytesIO
from urllib.parse import urlsplit

import pytest
from minio.commonconfig import ENABLED
from minio.versioningconfig import SUSPENDED, VersioningConfig

from backends.objects import ObjectInfo
from backends.s3 import versions
from backends.s3.objects import S3Objects
from schemas.errors import ConfigurationError, Unavailable
from stream.incoming import incoming_keys
from stream.object_listing import list_with_metadata
from tests.servers.buckets import S3_SERVERS, client_of, temporary_bucket
from tests.unit.backends.s3_stand_in import answer, error, stand_in

ID = "0b6f2a1e-5d3c-5e4f-8a9b-0c1d2e3f4a5b"
KEY = f"originals/{ID}"
OFF, ON = (f"<VersioningConfiguration>{it}</VersioningConfiguration>" for it in ("", "<Status>Enabled</Status>"))


@pytest.fixture(params=S3_SERVERS)
async def bucket(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    async with temporary_bucket(request.getfixturevalue(request.param)) as url:
        yield url


@pytest.fixture
async def open_store(bucket: str) -> AsyncIterator[Callable[[], S3Objects]]:
    opened: list[S3Objects] = []

    def opening() -> S3Objects:
        opened.append(S3Objects(bucket))
        return opened[-1]

    yield opening
    for objects in opened:
        await objects.close()


class OtherSystem:
    """A client of the same bucket. It blocks, which no test here minds."""

    def __init__(self, bucket: str) -> None:
        self.client, self.name = client_of(bucket), urlsplit(bucket).path[1:]

    def set_versioning(self, status: str) -> None:
        self.client.set_bucket_versioning(self.name, VersioningConfig(status))

    def put(self, name: str, data: bytes = b"theirs") -> None:
        self.client.put_object(self.name, name, BytesIO(data), len(data))

    def delete(self, name: str) -> None:
        self.client.remove_object(self.name, name)

    def readable(self, prefix: str = "") -> list[str]:
        """The names whose data can be read by some version."""
        found = self.client.list_objects(self.name, prefix, recursive=True, include_version=True)
        return sorted(it.object_name or "" for it in found if not it.is_delete_marker)


@pytest.fixture
def other(bucket: str) -> OtherSystem:
    return OtherSystem(bucket)


async def infos(objects: S3Objects, prefix: str = "") -> list[ObjectInfo]:
    return [it async for it in objects.list(prefix, versions=True)]


@pytest.mark.parametrize("suspended", [False, True])
async def test_a_delete_leaves_no_version(
    open_store: Callable[[], S3Objects], other: OtherSystem, suspended: bool
) -> None:
    objects = open_store()
    await objects.put(KEY, b"before versioning")
    other.set_versioning(ENABLED)
    for data in (b"1", b"2"):
        await objects.put(KEY, data)
    if suspended:
        other.set_versioning(SUSPENDED)
        await objects.put(KEY, b"3")
    beside = [f"{KEY}.crops", f"{KEY}/a", "incoming/a/b", "incoming/a/b.c", "incoming/a/bc"]
    for key in beside:
        await objects.put(key, b"beside")
    assert other.readable(KEY) == [KEY] * 3
    await objects.delete([KEY, "incoming/a/b"])
    assert not {KEY, "incoming/a/b"} & {*other.readable()}
    assert sorted([it.key async for it in objects.list()]) == sorted({*beside} - {"incoming/a/b"})
    await objects.delete([*beside, "incoming/never/there"])
    assert other.readable() == []
    assert await infos(objects) == []


async def test_older_versions_can_be_deleted_alone(open_store: Callable[[], S3Objects], other: OtherSystem) -> None:
    other.set_versioning(ENABLED)
    objects, hidden, beside = open_store(), "incoming/acme/learn/ann/1.jpg", "incoming/acme/learn/ann/2.jpg"
    for key in (KEY, beside):
        for data in (b"1", b"2"):
            await objects.put(key, data)
    other.put(hidden)
    other.delete(hidden)
    await objects.delete_older([KEY, hidden, "incoming/never/there"])
    assert other.readable() == [beside, beside, KEY]
    assert (await objects.get(KEY)).data == b"2"


async def test_a_delete_leaves_no_version_of_an_object_that_another_system_has_deleted(
    open_store: Callable[[], S3Objects], other: OtherSystem
) -> None:
    other.set_versioning(ENABLED)
    objects = open_store()
    for name in ("incoming/acme/learn/ann/1.jpg", "incoming/acme/learn/ann/2.jpg"):
        other.put(name)
        other.put(name, b"again")
        other.delete(name)
    other.put("incoming/acme/learn/bob/1.jpg")
    found = await incoming_keys("acme", "ann", objects)
    assert found == ["incoming/acme/learn/ann/1.jpg", "incoming/acme/learn/ann/2.jpg"]
    await objects.delete(found)
    assert other.readable() == ["incoming/acme/learn/bob/1.jpg"]


async def test_a_delete_of_more_versions_than_a_page(open_store: Callable[[], S3Objects], other: OtherSystem) -> None:
    other.set_versioning(ENABLED)
    objects = open_store()
    keys = [f"probes/{uuid.uuid4()}" for _ in range(510)]
    for data in (b"1", b"22"):
        await asyncio.gather(*(objects.put(key, data) for key in keys))
    assert sorted(it.key for it in await infos(objects)) == sorted(keys * 2)
    await objects.delete(keys)
    assert other.readable() == []


async def test_older_versions_are_listed_with_their_metadata(
    open_store: Callable[[], S3Objects], other: OtherSystem
) -> None:
    objects = open_store()
    await objects.put("a", b"", {"number": "1"})
    assert [it.version for it in await infos(objects)] == [None]  # without versioning
    other.set_versioning(ENABLED)
    objects = open_store()
    await objects.put("a", b"22", {"number": "2"})
    await objects.put("b", b"333", {"number": "3"})
    other.delete(await _name_of(other, "b"))
    found = {(it.key, it.size, it.version is None) for it in await infos(objects)}
    assert found == {("a", 0, False), ("a", 2, True), ("b", 3, False)}
    assert [it.key async for it in objects.list()] == ["a"]
    described = {(it.key, it.size): stored["number"] async for it, stored in list_with_metadata(objects, "a", "b")}
    assert described == {("a", 0): "1", ("a", 2): "2", ("b", 3): "3"}
    assert await objects.metadata("b") is None


async def _name_of(other: OtherSystem, key: str) -> str:
    [name] = {it for it in other.readable() if it.endswith(f"{key}@") or f"/{key}" in it}
    return name


async def test_versioning_that_is_enabled_later_is_noticed(
    open_store: Callable[[], S3Objects], other: OtherSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = open_store()
    await objects.ping()
    other.set_versioning(ENABLED)
    for key in (KEY, f"probes/{ID}"):
        await objects.put(key, b"1")
    await objects.delete([KEY])
    assert KEY in other.readable()  # it was not noticed yet
    assert [it.key for it in await infos(open_store(), KEY)] == [KEY]
    monkeypatch.setattr(versions, "LOOK_EVERY_S", 0)
    await objects.delete([KEY, f"probes/{ID}"])
    assert other.readable() == []


async def test_a_bucket_with_object_lock_is_refused(bucket: str) -> None:
    name = f"{urlsplit(bucket).path[1:]}x"
    client = client_of(bucket)
    client.make_bucket(name, object_lock=True)
    objects = S3Objects(f"{bucket}x")
    for call in (objects.create, objects.ping):
        with pytest.raises(ConfigurationError, match=rf"{name} has object lock.*without object lock") as refused:
            await call()
        assert "FACESTREAM_OBJECTS" in str(refused.value)
    await objects.close()
    client.remove_bucket(name)


# What only a server with other answers shows.


async def test_a_bucket_without_versions_is_looked_at_once() -> None:
    asked: list[str] = []

    def serve(method: str, path: str) -> bytes:
        asked.append(f"{method} {path.partition('?')[2]}")
        return answer(200, (OFF if "versioning" in path else "<DeleteResult/>").encode())

    with stand_in(serve) as port:
        objects = S3Objects(f"s3://ann:a-secret@127.0.0.1:{port}/faces")
        await objects.ping()
        for _ in range(3):
            await objects.delete(["a", "b"])
        await objects.close()
    assert asked == ["GET versioning=", *["POST delete="] * 3]


async def test_a_server_that_knows_no_versions() -> None:
    def serve(method: str, path: str) -> bytes:
        return error(501, "NotImplemented") if "versioning" in path else answer(200, b"<DeleteResult/>")

    with stand_in(serve) as port:
        objects = S3Objects(f"s3://ann:a-secret@127.0.0.1:{port}/faces")
        await objects.ping()
        await objects.delete(["a"])
        await objects.close()


@pytest.mark.parametrize("refused", ["versioning", "object-lock"])
async def test_a_user_who_may_not_look_is_told_what_to_allow(refused: str) -> None:
    def serve(method: str, path: str) -> bytes:
        return error(403, "AccessDenied") if refused in path else answer(200, ON.encode())

    with stand_in(serve) as port:
        objects = S3Objects(f"s3://ann:a-secret@127.0.0.1:{port}/faces")
        with pytest.raises(Unavailable, match=r"s3:GetBucketVersioning.*s3:DeleteObjectVersion"):
            await objects.ping()
        await objects.close()
