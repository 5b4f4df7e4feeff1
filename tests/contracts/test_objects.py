"""The promises of ObjectStore, tested with every adapter."""

import asyncio
import hashlib
import os
import time
from collections.abc import Callable

import pytest

from backends.objects import ObjectStore
from schemas.errors import InvalidRequest, ObjectMissing, Unavailable, UploadTooLarge

OpenObjects = Callable[[], ObjectStore]
Unique = Callable[[str], str]

HOSTILE_KEYS = [
    "a",
    "a/b",
    "a/b/c",
    "A",
    ".",
    "..",
    "../..",
    "../../etc/passwd",
    "/",
    "//",
    "/a",
    "a/",
    "a//b",
    "a/./b",
    "a/../b",
    "a\0b",
    "\0",
    "%",
    "%2F",
    "a%2Fb",
    "a+",
    "a@",
    "a@/b",
    ".tmp/x",
    " ",
    "a\nb",
    "a\\b",
    "*?[x]",
    "é",
    "e\u0301",
    "💙" * 250,
    "x" * 250,
    "x" * 249 + "y",
    "y" * 199 + "." + "/" + "z" * 49,
    "x" * 200,
    "x" * 200 + "/b",
    "xl.meta",
    "a/xl.meta",
    "a__XLDIR__",
    "~/a@",
    "~long/a@",
    "incoming",
    "\uffff",
    "0b6f2a1e-5d3c-5e4f-8a9b-0c1d2e3f4a5b",
    "0b6f2a1e-5d3c-5e4f-8a9b-0c1d2e3f4a5b/b",
    "0b6f2a1e-5d3c-5e4f-8a9b-0c1d2e3f4a5b/1b6f2a1e-5d3c-5e4f-8a9b-0c1d2e3f4a5b",
]


@pytest.fixture
def objects(open_objects: OpenObjects) -> ObjectStore:
    return open_objects()


async def keys(objects: ObjectStore, prefix: str) -> list[str]:
    return sorted([each.key async for each in objects.list(prefix)])


async def test_an_object_comes_back_as_it_was_put(objects: ObjectStore, unique: Unique) -> None:
    data = os.urandom(200_000)
    await objects.put(unique("a"), data, {"content-type": "image/jpeg", "note": "naïve 💙\n\0 'quoted'"})
    found = await objects.get(unique("a"))
    assert found.data == data
    assert found.metadata == {"content-type": "image/jpeg", "note": "naïve 💙\n\0 'quoted'"}
    assert await objects.metadata(unique("a")) == found.metadata


@pytest.mark.parametrize("data", [b"", b"\n", b"{}\n", b"\n\n{", bytes(3_000_000)])
async def test_any_bytes_can_be_stored(objects: ObjectStore, unique: Unique, data: bytes) -> None:
    await objects.put(unique("a"), data)
    found = await objects.get(unique("a"))
    assert (found.data, found.metadata) == (data, {})
    assert [each.size async for each in objects.list(unique("a"))] == [len(data)]


async def test_another_client_sees_it_at_once(objects: ObjectStore, open_objects: OpenObjects, unique: Unique) -> None:
    await objects.put(unique("a"), b"1")
    assert (await open_objects().get(unique("a"))).data == b"1"


async def test_putting_again_replaces_data_and_metadata(objects: ObjectStore, unique: Unique) -> None:
    await objects.put(unique("a"), b"the first and longer one", {"one": "1"})
    await objects.put(unique("a"), b"second", {"two": "2"})
    found = await objects.get(unique("a"))
    assert (found.data, found.metadata) == (b"second", {"two": "2"})


async def test_create_may_be_called_again_and_concurrently(open_objects: OpenObjects, unique: Unique) -> None:
    clients = [open_objects() for _ in range(4)]
    await clients[0].put(unique("a"), b"1")
    await asyncio.gather(*(client.create() for client in clients))
    assert (await clients[3].get(unique("a"))).data == b"1"


async def test_if_absent_does_not_replace_an_object(objects: ObjectStore, unique: Unique) -> None:
    assert await objects.put(unique("a"), b"first", {"one": "1"}, if_absent=True) is True
    assert await objects.put(unique("a"), b"second", {"two": "2"}, if_absent=True) is False
    found = await objects.get(unique("a"))
    assert (found.data, found.metadata) == (b"first", {"one": "1"})
    assert await objects.put(unique("a"), b"third") is True
    await objects.delete([unique("a")])
    assert await objects.put(unique("a"), b"fourth", if_absent=True) is True
    assert (await objects.get(unique("a"))).data == b"fourth"


@pytest.mark.parametrize("size", [10, 300_000, 40 << 20], ids=["small", "picture", "large"])
async def test_only_one_of_several_concurrent_puts_with_if_absent_succeeds(
    open_objects: OpenObjects, unique: Unique, size: int
) -> None:
    clients = [open_objects() for _ in range(4)]
    values = [bytes([number]) * size for number in range(4)]
    for attempt in range(1 if size > 1 << 20 else 10):
        key = unique(f"{attempt}")
        put = await asyncio.gather(
            *(client.put(key, value, if_absent=True) for client, value in zip(clients, values, strict=True))
        )
        assert sorted(put) == [False, False, False, True]
        assert (await clients[0].get(key)).data == values[put.index(True)]


async def test_hostile_keys_are_only_characters(objects: ObjectStore, unique: Unique) -> None:
    prefix = unique("hostile") + "/"
    for key in HOSTILE_KEYS:
        await objects.put(prefix + key, key.encode(), {"name": "x"})
    for key in HOSTILE_KEYS:
        assert (await objects.get(prefix + key)).data == key.encode()
    assert await keys(objects, prefix) == sorted(prefix + key for key in HOSTILE_KEYS)
    for key in HOSTILE_KEYS:
        await objects.delete([prefix + key])
        with pytest.raises(ObjectMissing):
            await objects.get(prefix + key)
    assert await keys(objects, prefix) == []


async def test_a_key_may_begin_with_anything(objects: ObjectStore, unique: Unique) -> None:
    """The keys have no prefix of the test, so that the hostile part comes first."""
    for beginning in (
        "/",
        "../",
        "./",
        "💙",
        ".tmp/",
        "\0",
        "~",
        "~/",
        "~long/",
        "incoming/",
        "incoming//",
        "incoming/../",
    ):
        key = unique(beginning + "a")
        await objects.put(key, b"1")
        assert await keys(objects, key) == [key]
        await objects.delete([key])


@pytest.mark.parametrize("filling", ["x", "x/", "/", "é", "💙", "\0", "\U0010ffff"])
async def test_keys_of_the_maximum_length_are_stored_listed_and_deleted(
    objects: ObjectStore, unique: Unique, filling: str
) -> None:
    end = unique("/longest")
    start = (filling * 300)[: 299 - len(end)]
    for key in (start + "1" + end, start + "2" + end):
        await objects.put(key, key.encode())
    assert (await objects.get(start + "1" + end)).data == (start + "1" + end).encode()
    for prefix in (start, start[:70], filling):
        assert await keys(objects, prefix) == [start + "1" + end, start + "2" + end]
    await objects.delete([start + "1" + end])
    assert await keys(objects, "") == [start + "2" + end]
    await objects.delete([start + "2" + end])


@pytest.mark.parametrize("key", ["", "x" * 301, "\ud800"])
async def test_a_text_that_is_not_a_key_is_refused(objects: ObjectStore, key: str) -> None:
    with pytest.raises(InvalidRequest):
        await objects.put(key, b"")


@pytest.mark.parametrize("metadata", [{"a": "x" * 2048}, {"é": "x"}, {"a": "\ud800"}])
async def test_metadata_out_of_bounds_is_refused(
    objects: ObjectStore, unique: Unique, metadata: dict[str, str]
) -> None:
    with pytest.raises(InvalidRequest):
        await objects.put(unique("a"), b"", metadata)
    assert await objects.metadata(unique("a")) is None


async def test_metadata_of_the_maximum_size_is_stored(objects: ObjectStore, unique: Unique) -> None:
    metadata = {"a": "\0" * 1000, "b": "é" * 500}
    await objects.put(unique("a"), b"data", metadata)
    assert await objects.metadata(unique("a")) == metadata
    assert (await objects.get(unique("a"))).data == b"data"


async def test_unusual_metadata_comes_back_unchanged(objects: ObjectStore, unique: Unique) -> None:
    names = "".join(map(chr, range(128)))
    for number, metadata in enumerate(
        (
            {"Directory": "acme", "directory": "bolt"},
            {names: "any name"},
            {"packed": "x"},
            {"": "no name", "packed": "x", "x-amz-meta-packed": "x", "x-amz-acl": "x", "if-none-match": "*"},
            {"spaces": "  a  b  ", "percent": "100%25 %", "plus": "a+b", "quotes": "\"'", "lines": "a\r\n b"},
            {f"name-{number}": "v" for number in range(40)},
        )
    ):
        await objects.put(unique(f"a{number}"), b"", metadata)
        assert await objects.metadata(unique(f"a{number}")) == metadata
        assert (await objects.get(unique(f"a{number}"))).metadata == metadata


async def test_a_missing_object_cannot_be_read_but_may_be_deleted(objects: ObjectStore, unique: Unique) -> None:
    with pytest.raises(ObjectMissing):
        await objects.get(unique("a"))
    assert await objects.metadata(unique("a")) is None
    await objects.delete([unique("a"), unique("b/c")])
    assert await keys(objects, unique("a")) == []


async def test_a_folder_in_a_key_is_not_an_object(objects: ObjectStore, unique: Unique) -> None:
    await objects.put(unique("a") + "/b", b"1")
    assert await objects.metadata(unique("a")) is None
    await objects.delete([unique("a")])
    assert (await objects.get(unique("a") + "/b")).data == b"1"


def bucket_of(objects: ObjectStore) -> str:
    """The store's bucket, by the name that other systems use."""
    return str(objects).rstrip("/')").rpartition("/")[2]


async def test_fetch_takes_the_bucket_and_name_that_other_systems_use(objects: ObjectStore) -> None:
    bucket, name, data = bucket_of(objects), "incoming/acmé co/learn/Ann/1 + 2%.jpg", os.urandom(3_000)
    await objects.put(name, data)
    etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
    for given in (None, etag, f'"{etag}"'):
        assert await objects.fetch(bucket, name, etag=given, largest=3_000) == data
    with pytest.raises(UploadTooLarge):
        await objects.fetch(bucket, name, etag=etag, largest=2_999)
    await objects.put(name, b"another")
    with pytest.raises(ObjectMissing, match="changed"):
        await objects.fetch(bucket, name, etag=etag, largest=3_000)
    assert await objects.fetch(bucket, name, etag=None, largest=7) == b"another"


@pytest.mark.parametrize(
    "name", ["incoming/a/b", "incoming", "incoming/..", "../a", "incoming/a//b", "x" * 2_000, "a\0b", "/"]
)
async def test_fetching_an_object_that_is_not_there(objects: ObjectStore, name: str) -> None:
    await objects.put("incoming/a", b"")
    for bucket in (bucket_of(objects), "no-such-bucket", "No bucket/at all", ".."):
        with pytest.raises(ObjectMissing):
            await objects.fetch(bucket, name, etag=None, largest=1)


async def test_key_of_converts_a_name_of_other_systems_to_our_key(objects: ObjectStore) -> None:
    bucket, name = bucket_of(objects), "incoming/acmé/a.jpg"
    key = objects.key_of(bucket, name)
    assert key == name
    await objects.put(key, b"1")
    assert await objects.fetch(bucket, name, etag=None, largest=1) == b"1"
    assert objects.key_of(f"{bucket}x", name) is None
    assert objects.key_of(bucket, "incoming/" + "x/" * 150) is None


async def test_deleting_many_leaves_the_others(objects: ObjectStore, unique: Unique) -> None:
    prefix = unique("many")
    await asyncio.gather(*(objects.put(f"{prefix}/{number % 3}/{number}", b"x") for number in range(60)))
    await objects.delete([f"{prefix}/{number % 3}/{number}" for number in range(60) if number % 3])
    assert await keys(objects, prefix) == sorted(f"{prefix}/0/{number}" for number in range(0, 60, 3))


async def test_listing_by_prefix(objects: ObjectStore, unique: Unique) -> None:
    root = unique("list")
    names = ["", "/a", "/ab", "/a/b", "/a/bc", "/a/b/c", "/b/a", "/.hidden", "/" + "x" * 250, "/" + "x" * 250 + "/y"]
    for name in names:
        await objects.put(root + name, b"12345")
    for prefix in [
        "",
        "/",
        "/a",
        "/a/",
        "/a/b",
        "/a/b/",
        "/c",
        "/.",
        "/.hid",
        "/x",
        "/" + "x" * 199,
        "/" + "x" * 201,
        "/" + "x" * 250 + "/",
    ]:
        assert await keys(objects, root + prefix) == sorted(root + name for name in names if name.startswith(prefix)), (
            prefix
        )
    infos = [each async for each in objects.list(root)]
    assert all(each.size == 5 for each in infos)
    assert all(abs(each.modified - time.time()) < 60 for each in infos)


async def test_a_prefix_longer_than_any_key_finds_nothing(objects: ObjectStore, unique: Unique) -> None:
    await objects.put(unique("a"), b"")
    assert await keys(objects, unique("a") + "/x" * 50_000) == []


async def test_listing_more_than_a_page(objects: ObjectStore, unique: Unique) -> None:
    prefix = unique("pages") + "/"
    for start in range(0, 2100, 100):
        await asyncio.gather(*(objects.put(f"{prefix}{number}", b"") for number in range(start, start + 100)))
    assert await keys(objects, prefix) == sorted(f"{prefix}{number}" for number in range(2100))
    await objects.delete([f"{prefix}{number}" for number in range(2100)])
    assert await keys(objects, prefix) == []


async def test_listing_while_objects_are_put_and_deleted(objects: ObjectStore, unique: Unique) -> None:
    prefix = unique("moving") + "/"
    for number in range(20):
        await objects.put(f"{prefix}{number}", b"")
    seen = []
    async for each in objects.list(prefix):
        seen.append(each.key)
        await objects.delete([each.key])
        await objects.put(f"{prefix}new/{each.key[-4:]}", b"")
    assert {f"{prefix}{number}" for number in range(20)} <= set(seen)


async def test_readers_never_see_a_partly_written_object(objects: ObjectStore, unique: Unique) -> None:
    values = [bytes([number]) * 300_000 for number in range(4)]
    await objects.put(unique("a"), values[0])
    done = False

    async def read() -> int:
        reads = 0
        while not done:
            assert (await objects.get(unique("a"))).data in values
            reads += 1
        return reads

    reading = asyncio.create_task(read())
    for number in range(20):
        await objects.put(unique("a"), values[number % 4])
    done = True
    assert await reading > 0


async def test_concurrent_puts_and_deletes(objects: ObjectStore, unique: Unique) -> None:
    """A level is emptied at the moment when another object is put into it."""
    prefix = unique("busy")

    async def come_and_go(name: str) -> None:
        for _ in range(30):
            await objects.put(f"{prefix}/deep/level/{name}", name.encode())
            assert (await objects.get(f"{prefix}/deep/level/{name}")).data == name.encode()
            await objects.delete([f"{prefix}/deep/level/{name}"])

    await asyncio.gather(*(come_and_go(name) for name in "abcd"))
    assert await keys(objects, prefix) == []


async def test_a_closed_store_raises_unavailable(objects: ObjectStore, unique: Unique) -> None:
    await objects.ping()
    await objects.put(unique("a"), b"")
    await objects.close()
    with pytest.raises(Unavailable):
        await objects.get(unique("a"))
    await objects.close()
