"""Tests specific to the object store on S3: its URL, errors, time limits, and objects of other systems.

The promises of every store are tested in tests/contracts/test_objects.py.
"""

import asyncio
import gzip
import hashlib
import random
import subprocess
import threading
import time
import tracemalloc
import zlib
from base64 import b85encode
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from urllib3.connection import HTTPConnection

from backends.s3 import objects as objects_s3
from backends.s3.metadata import headers_of, metadata_of
from backends.s3.objects import S3Objects
from schemas.errors import (
    ConfigurationError,
    FacestreamError,
    InvalidRequest,
    StorageFull,
    Unavailable,
    UploadTooLarge,
)
from tests.blocking import LoopWatch
from tests.servers.buckets import S3_SERVERS, client_of, temporary_bucket
from tests.unit.backends.s3_stand_in import answer, error, stand_in

ID = "0b6f2a1e-5d3c-5e4f-8a9b-0c1d2e3f4a5b"


@pytest.fixture(params=S3_SERVERS)
async def bucket(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    async with temporary_bucket(request.getfixturevalue(request.param)) as url:
        yield url


def at(port: int, options: str = "") -> S3Objects:
    return S3Objects(f"s3://ann:a-secret@127.0.0.1:{port}/faces{options}")


async def keys(objects: S3Objects, prefix: str = "") -> list[str]:
    return sorted([each.key async for each in objects.list(prefix)])


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s3://ann:a-secret@host:9000", "bucket"),
        ("s3://ann:a-secret@host:9000/", "bucket"),
        ("s3://ann:a-secret@host:9000/ab", "bucket"),
        ("s3://ann:a-secret@host:9000/Faces", "bucket"),
        ("s3://ann:a-secret@host:9000/faces//x", "prefix"),
        ("s3://ann:a-secret@host:9000/faces/../x", "prefix"),
        ("s3://ann:a-secret@host:9000,host2:9000/faces", "one host"),
        ("s3://ann@host:9000/faces", "FACESTREAM_OBJECTS_PASSWORD"),
        ("s3://:a-secret@host:9000/faces", "user"),
        ("s3://ann:a-secret@host:9000/faces?tls=yes", "tls"),
        ("s3://ann:a-secret@host:9000/faces?tls=true&ca_file=/nowhere.pem", "nowhere.pem"),
        ("s3://ann:a-secret@host:9000/faces?colour=red", "colour"),
    ],
)
def test_a_url_that_is_not_understood_is_refused(url: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FACESTREAM_OBJECTS_PASSWORD", raising=False)
    with pytest.raises(ConfigurationError, match=why) as refused:
        S3Objects(url)
    assert "a-secret" not in str(refused.value)


async def test_its_password_is_never_shown() -> None:
    with stand_in(lambda method, path: error(403, "AccessDenied")) as port:
        objects = at(port)
        assert repr(objects) == f"S3Objects('s3://127.0.0.1:{port}/faces/')"
        with pytest.raises(Unavailable, match="refuses this user") as refused:
            await objects.get("a")
        assert "a-secret" not in f"{refused.value!r} {refused.value.__cause__!r} {refused.value.__cause__}"
        await objects.close()


async def test_two_prefixes_of_a_bucket_are_two_stores(bucket: str) -> None:
    one, other, both = S3Objects(f"{bucket}/one"), S3Objects(f"{bucket}/one/more/"), S3Objects(bucket)
    for objects, key in ((one, "a"), (one, f"crops/{ID}"), (other, "a"), (other, "..")):
        await objects.put(key, key.encode())
    assert await keys(one) == ["a", f"crops/{ID}"]
    assert await keys(other) == ["..", "a"]
    assert await keys(other, ".") == [".."]
    assert (await other.get("..")).data == b".."
    await other.delete(["a", ".."])
    assert (await keys(other), await keys(one)) == ([], ["a", f"crops/{ID}"])
    for objects in (one, other, both):
        await objects.close()


async def test_a_key_that_no_longer_fits_below_the_prefix_is_refused(bucket: str) -> None:
    objects = S3Objects(f"{bucket}/{'a-long-one' * 10}")
    await objects.put("x" * 300, b"")
    with pytest.raises(InvalidRequest, match="shorter prefix"):
        await objects.put("💙" * 300, b"")
    await objects.close()


async def test_objects_below_incoming_keep_the_names_that_other_systems_gave_them(bucket: str) -> None:
    """They are put through S3 under their own names, and are read and deleted under the same names."""
    client, name = client_of(bucket), urlsplit(bucket).path[1:]
    theirs = [
        "incoming/acme/learn/ann/x.jpg",
        "incoming/acme.com/learn/Ann Müller/IMG (1) 100%+é.jpg",
        f"incoming/acme/{ID}",
    ]
    for key in theirs:
        client.put_object(name, key, BytesIO(b"theirs"), 6, metadata={"Camera": "M"})
    for key in ("holiday.jpg", "originals/holiday.jpg", "incoming/acme/", "~/a"):  # no keys of ours
        client.put_object(name, key, BytesIO(b""), 0)
    objects = S3Objects(bucket)
    assert await keys(objects) == sorted(theirs)
    assert await keys(objects, "incoming/acme/") == sorted([theirs[0], theirs[2]])
    assert await keys(objects, "incoming/acme.com/learn/Ann M") == [theirs[1]]
    for prefix in ("incoming/.", "incoming/acme/..", "incoming/acme//", "incoming/" + "x" * 280):
        assert await keys(objects, prefix) == []
    for key in theirs:
        assert (await objects.get(key)).data == b"theirs"
        assert await objects.metadata(key) == {"camera": "M"}
    await objects.delete(theirs)
    assert await keys(objects) == []
    assert {each.object_name for each in client.list_objects(name)} == {"holiday.jpg", "originals/", "incoming/", "~/"}
    await objects.put("incoming/acme/learn/bob/y.jpg", b"ours")
    assert client.stat_object(name, "incoming/acme/learn/bob/y.jpg").size == 4
    await objects.close()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "aws-chunked", "gzip, aws-chunked"])
async def test_bytes_are_read_as_they_are_stored_whatever_their_encoding(bucket: str, encoding: str) -> None:
    """A limit holds for what arrives: a few bytes must not become gigabytes."""
    stored = (zlib if encoding == "deflate" else gzip).compress(bytes(65_536))
    client, name, key = client_of(bucket), urlsplit(bucket).path[1:], "incoming/acme/learn/ann/1.jpg"
    client.put_object(name, key, BytesIO(stored), len(stored), metadata={"Content-Encoding": encoding})
    objects = S3Objects(bucket)
    etag = hashlib.md5(stored, usedforsecurity=False).hexdigest()
    assert await objects.fetch(name, key, etag=etag, largest=1_000) == stored
    with pytest.raises(UploadTooLarge):
        await objects.fetch(name, key, etag=etag, largest=len(stored) - 1)
    assert (await objects.get(key)).data == stored
    await objects.close()


@pytest.mark.parametrize("size", [1_000, 1_001])
async def test_an_object_whose_length_is_not_said_is_read_up_to_the_limit(size: int) -> None:
    chunk = b"%x\r\n%s\r\n" % (size, bytes(size))
    answered = b"HTTP/1.1 200 -\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n"
    with stand_in(lambda method, path: answered) as port:
        objects = at(port)
        if size <= 1_000:
            assert await objects.fetch("faces", "a", etag=None, largest=1_000) == bytes(size)
        else:
            with pytest.raises(UploadTooLarge):
                await objects.fetch("faces", "a", etag=None, largest=1_000)
        await objects.close()


async def test_an_object_that_was_cut_off_is_not_read() -> None:
    cut = b"HTTP/1.1 200 -\r\nContent-Length: 10\r\nConnection: close\r\n\r\nshort"
    with stand_in(lambda method, path: cut) as port:
        objects = at(port)
        with pytest.raises(Unavailable, match=r"cannot be reached: .*broken"):
            await objects.fetch("faces", "a", etag=None, largest=1_000)
        await objects.close()


async def test_a_large_object_is_sent_in_parts_without_copying_it(bucket: str) -> None:
    objects, client, name = S3Objects(bucket), client_of(bucket), urlsplit(bucket).path[1:]
    data = random.Random(1).randbytes(objects_s3.PART_BYTES)
    tracemalloc.start()
    try:
        await objects.put(f"originals/{ID}", data, {"name": "x"})
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert "-" not in (client.stat_object(name, f"originals/{ID}").etag or "-")  # one request, so never seen in part
    await objects.put(f"originals/{ID}", data + b"more", {"name": "y"})
    assert (client.stat_object(name, f"originals/{ID}").etag or "").endswith("-2")
    found = await objects.get(f"originals/{ID}")
    assert found.data == data + b"more"
    assert found.metadata == {"name": "y"}
    await objects.close()


async def test_one_client_keeps_its_connections(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connected, connect = 0, HTTPConnection.connect

    def counting(connection: HTTPConnection) -> None:
        nonlocal connected
        connected += 1
        connect(connection)

    monkeypatch.setattr(HTTPConnection, "connect", counting)
    objects = S3Objects(bucket)
    for number in range(20):
        await objects.put("a", bytes(number))
        await objects.get("a")
    await objects.close()
    assert connected == 1


async def test_several_make_a_bucket_at_once(bucket: str) -> None:
    clients = [S3Objects(f"{bucket}x") for _ in range(8)]
    await asyncio.gather(*(client.create() for client in clients))
    await clients[0].ping()
    client_of(bucket).remove_bucket(f"{urlsplit(bucket).path[1:]}x")
    for client in clients:
        await client.close()


async def test_without_the_bucket_the_error_says_to_run_init(bucket: str) -> None:
    objects = S3Objects(f"{bucket}x")
    for call in (objects.ping(), objects.put("a", b""), objects.get("a"), objects.delete(["a"]), keys(objects)):
        with pytest.raises(Unavailable, match="facestream init"):
            await call
    await objects.close()


async def test_a_wrong_password_is_said(bucket: str) -> None:
    parts = urlsplit(bucket)
    objects = S3Objects(bucket.replace(f":{parts.password}@", ":another-secret@"))
    for call in (objects.create(), objects.ping(), objects.put("a", b""), objects.metadata("a")):
        with pytest.raises(Unavailable, match="password") as refused:
            await call
        assert "another-secret" not in str(refused.value)
    await objects.close()


async def test_a_store_that_cannot_announce_what_is_put_says_so(bucket: str, request: pytest.FixtureRequest) -> None:
    objects = S3Objects(bucket)
    is_minio = "minio" in request.node.name
    why = "MINIO_NOTIFY_KAFKA_ENABLE_NONE=on" if is_minio else "the store announces no objects to Kafka"
    with pytest.raises(ConfigurationError, match=why):
        await objects.announce_incoming("NONE")
    await objects.close()


async def test_a_server_that_is_not_there(unused_tcp_port: int) -> None:
    objects = at(unused_tcp_port)
    for call in (
        objects.create(),
        objects.ping(),
        objects.put("a", b""),
        objects.get("a"),
        objects.delete(["a"]),
        keys(objects),
    ):
        with pytest.raises(Unavailable, match="cannot be reached: Connection refused"):
            await call
    await objects.close()


@pytest.mark.parametrize(
    ("answered", "raised", "message"),
    [
        (error(507, "XMinioStorageFull"), StorageFull, "free some space"),
        (
            error(500, "InternalError", "an internal error: cause(no space left on device)"),
            StorageFull,
            "free some space",
        ),
        (error(503, "SlowDownWrite"), Unavailable, "so it is"),
        (error(503, "XMinioServerNotInitialized"), Unavailable, "so it is"),
        (error(400, "AuthorizationHeaderMalformed"), Unavailable, "region"),
        (answer(502, b"bad gateway", "Content-Type: text/html"), Unavailable, "right port"),
        (answer(500, b"", "Content-Type: application/xml"), Unavailable, "right port"),
        (
            answer(307, b"", "Location: http://127.0.0.1:1/elsewhere", "Content-Type: application/xml"),
            Unavailable,
            "right port",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Unavailable, "cannot be reached"),
        (b"", Unavailable, "cannot be reached: Connection aborted"),
        (
            b"HTTP/1.1 200 -\r\nContent-Length: 10\r\nConnection: close\r\n\r\nshort",
            Unavailable,
            "cannot be reached: .*broken",
        ),
    ],
)
async def test_errors_of_the_server_become_our_errors(
    answered: bytes, raised: type[FacestreamError], message: str
) -> None:
    with stand_in(
        lambda method, path: answered if b"Content-Length" in answered else answered + b"Connection: close\r\n\r\n"
    ) as port:
        objects = at(port)
        for call in (objects.put("a", b"data"), objects.get("a")):
            with pytest.raises(raised, match=message):
                await call
        await objects.close()


@pytest.mark.parametrize("page", [b"", b"<html>a page"])
async def test_a_server_of_something_else_is_not_taken_for_a_store(page: bytes) -> None:
    with stand_in(lambda method, path: answer(200, page, "Content-Type: text/html")) as port:
        objects = at(port)
        for call in (objects.create(), objects.ping(), objects.delete(["a"]), keys(objects)):
            with pytest.raises(Unavailable, match="right port"):
                await call
        await objects.close()


async def test_a_delete_that_failed_for_one_key_is_an_error() -> None:
    failed = (
        b"<DeleteResult><Error><Key>a</Key><Code>SlowDownWrite</Code><Message>too busy</Message></Error></DeleteResult>"
    )
    with stand_in(lambda method, path: answer(200, failed if "delete" in path else b"<Off/>")) as port:
        objects = at(port)
        with pytest.raises(Unavailable, match="too busy"):
            await objects.delete(["a", "b"])
        await objects.close()


async def test_a_put_into_a_level_that_is_just_being_emptied_is_repeated() -> None:
    answers = [error(403, "AccessDenied"), error(403, "AccessDenied"), answer(200, b"", 'ETag: "x"')]
    with stand_in(lambda method, path: answers.pop(0)) as port:
        objects = at(port)
        assert await objects.put("a", b"") is True
        assert answers == []
        await objects.close()


async def test_a_put_whose_outcome_is_unknown_is_not_sent_again() -> None:
    """With if_absent the second one would find the object of the first."""
    seen: list[str] = []

    def die(method: str, path: str) -> bytes:
        seen.append(method)
        return b"Connection: close"

    with stand_in(die) as port:
        objects = at(port)
        with pytest.raises(Unavailable):
            await objects.put("a", b"", if_absent=True)
        assert seen == ["PUT"]
        await objects.close()


async def test_a_server_that_hangs_blocks_neither_the_loop_nor_its_callers_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(objects_s3, "READ_S", 1.0)
    monkeypatch.setattr(objects_s3, "QUEUE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(objects_s3, "THREADS", 2)
    hanging = threading.Event()

    def hang(method: str, path: str) -> bytes:
        hanging.wait(60)
        return b""

    with stand_in(hang) as port:
        objects = at(port)
        started = time.monotonic()
        async with LoopWatch() as watch:
            calls = [asyncio.create_task(objects.get("a")) for _ in range(40)]
            await asyncio.wait(calls)
        assert watch.longest_s < 0.05
        assert time.monotonic() - started < 6  # 40 calls by two threads, one after the other, would be 8 s
        failed = [str(call.exception()) for call in calls]
        assert sum("no answer in time" in each for each in failed) == 2
        assert sum("waited" in each for each in failed) == 38
        assert all(isinstance(call.exception(), Unavailable) for call in calls)
        hanging.set()
        await objects.close()


async def test_the_store_works_again_when_the_server_is_back(unused_tcp_port: int) -> None:
    stored = answer(200, b"", 'ETag: "x"')
    objects = at(unused_tcp_port)
    for _ in range(3):
        with stand_in(lambda method, path: stored, port=unused_tcp_port):
            await asyncio.gather(*(objects.put("a", b"") for _ in range(10)))
        with pytest.raises(Unavailable):
            await objects.put("a", b"")
    await objects.close()


@pytest.fixture
def tls(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "1",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*make, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


async def test_tls(tls: tuple[Path, Path]) -> None:
    with stand_in(lambda method, path: answer(200, b"data"), tls=tls) as port:
        trusting, strict, plain = at(port, f"?tls=true&ca_file={tls[0]}"), at(port, "?tls=true"), at(port)
        assert (await trusting.get("a")).data == b"data"
        with pytest.raises(Unavailable, match="TLS: CERTIFICATE_VERIFY_FAILED"):
            await strict.get("a")
        with pytest.raises(Unavailable):
            await plain.get("a")
        for objects in (trusting, strict, plain):
            await objects.close()


def test_metadata_that_does_not_fit_is_refused() -> None:
    noise = random.Random(1)
    headers_of({"a": "".join(noise.choice("abcdefgh\0\1") for _ in range(2000))})
    with pytest.raises(InvalidRequest, match="bytes as S3 carries it"):
        headers_of({"a": "".join(chr(noise.randrange(128)) for _ in range(2040))})
    assert headers_of({"directory": "acme", "received": "1.5"}) == {
        "x-amz-meta-directory": "acme",
        "x-amz-meta-received": "1.5",
    }


def packed(text: str) -> str:
    return b85encode(zlib.compress(text.encode())).decode()


@pytest.mark.parametrize("header", ["junk", "\x7f", b85encode(b"junk").decode(), packed("[]"), packed('{"a": 1}')])
def test_a_packed_header_that_is_not_ours_is_metadata_like_any_other(header: str) -> None:
    assert metadata_of([("X-Amz-Meta-Packed", header)]) == {"packed": unquote(header)}


def test_packed_metadata_is_unpacked_up_to_a_limit() -> None:
    longest = {chr(number): "" for number in range(32)} | {"name": "\0" * 1_900}
    assert metadata_of(headers_of(longest).items()) == longest
    header = packed('{"a": "' + "b" * 64_000 + '"}')
    assert len(header) < 200
    assert metadata_of([("x-amz-meta-packed", header)]) == {"packed": unquote(header)}


async def test_with_a_prefix_only_objects_below_it_belong_to_the_store() -> None:
    objects = S3Objects("s3://ann:a-secret@127.0.0.1:1/faces/in/side")
    assert objects.key_of("faces", "in/side/incoming/acme/1.jpg") == "incoming/acme/1.jpg"
    assert objects.key_of("faces", "incoming/acme/1.jpg") is None
    assert objects.key_of("faces", f"in/side/originals/{ID}") == f"originals/{ID}"
    assert objects.key_of("faces", "in/side/incoming/acme//1.jpg") is None
    await objects.close()
