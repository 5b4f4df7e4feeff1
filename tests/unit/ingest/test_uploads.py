"""Reading uploads through a real aiohttp server: order of fields, limits, hostile bodies, and their memory."""

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress

import pytest
from aiohttp import FormData, web
from aiohttp.test_utils import TestClient, TestServer

from ingest.problems import answer_errors
from ingest.uploads import FIELDS_ROOM, LONGEST_FIELD, MOST_PARTS, UploadMemory, read_upload
from schemas.errors import TooMuchInFlight, UploadTooLarge

LARGEST = 100_000
MOST = 4  # uploads at once, of the largest
BOUNDARY = "frontier"
Client = TestClient[web.Request, web.Application]


class Uploads:
    """An application that reads an upload and says what it has read."""

    def __init__(self) -> None:
        self.memory = UploadMemory(MOST * LARGEST, LARGEST)
        self.client: Client

    async def read(self, request: web.Request) -> web.Response:
        reserved = self.memory.reserve(request.content_length)
        try:
            upload = await read_upload(request, LARGEST)
        finally:
            self.memory.give_back(reserved)
        body = {
            "size": len(upload.data),
            "data": upload.data.hex(),
            "filename": upload.filename,
            "fields": upload.fields,
        }
        return web.json_response(body)

    @property
    def room(self) -> int:
        """How many more of the largest uploads are taken now."""
        reserved: list[int] = []
        with suppress(TooMuchInFlight):
            while True:
                reserved.append(self.memory.reserve(None))
        for size in reserved:
            self.memory.give_back(size)
        return len(reserved)

    async def post(
        self, data: object, *, query: str = "", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, object]]:
        async with self.client.post(f"/upload{query}", data=data, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def raw(self, body: bytes, *, boundary: str = BOUNDARY) -> tuple[int, dict[str, object]]:
        return await self.post(body, headers={"Content-Type": f"multipart/form-data; boundary={boundary}"})


@pytest.fixture
async def uploads() -> AsyncIterator[Uploads]:
    made = Uploads()
    app = web.Application(middlewares=[answer_errors], client_max_size=0)
    app.router.add_post("/upload", made.read)
    async with TestClient(TestServer(app)) as client:
        made.client = client
        yield made
    assert made.room == MOST  # whatever happened, the memory was given back


def form(*fields: tuple[str, str] | tuple[str, bytes, str]) -> FormData:
    data = FormData(default_to_multipart=True)
    for field in fields:
        if len(field) == 3:
            data.add_field(field[0], field[1], filename=field[2])
        else:
            data.add_field(field[0], field[1])
    return data


def part(name: str, value: bytes, *headers: bytes) -> bytes:
    lines = [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'.encode(), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + value + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


@pytest.mark.parametrize("position", [0, 1, 2], ids=["first", "between", "last"])
async def test_fields_may_come_before_and_after_the_file(uploads: Uploads, position: int) -> None:
    fields: list[tuple[str, str] | tuple[str, bytes, str]] = [("directory", "acmé"), ("person", "Å\U0001f499")]
    fields.insert(position, ("file", b"\x00\xff\r\n--", "portrait.jpg"))
    status, body = await uploads.post(form(*fields))
    assert status == 200
    assert body["data"] == b"\x00\xff\r\n--".hex()
    assert body["filename"] == "portrait.jpg"
    assert body["fields"] == {"directory": "acmé", "person": "Å\U0001f499"}


async def test_fields_of_the_query_are_read(uploads: Uploads) -> None:
    status, body = await uploads.post(form(("file", b"x", "x.jpg"), ("top", "1")), query="?limit=3")
    assert (status, body["fields"]) == (200, {"top": "1", "limit": "3"})


@pytest.mark.parametrize("second", ["1", "2"], ids=["the same", "another"])
@pytest.mark.parametrize("place", ["form", "query", "both"])
async def test_a_field_that_is_there_twice_is_refused_by_name(uploads: Uploads, place: str, second: str) -> None:
    values = [("top", "1"), ("top", second)]
    in_form = {"form": values, "query": [], "both": values[1:]}[place]
    in_query = {"form": "", "query": f"?top=1&top={second}", "both": "?top=1"}[place]
    status, body = await uploads.post(form(*in_form, ("file", b"x", "x.jpg")), query=in_query)
    assert (status, body["code"], body["field"]) == (400, "invalid_request", "top")


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "deflate", "compress", "nonsense", "gzip, identity"])
async def test_a_body_with_an_encoding_is_refused(uploads: Uploads, encoding: str) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Content-Encoding": encoding}
    async with uploads.client.post(
        "/upload", data=gzip.compress(part("file", b"x") + END), headers=headers
    ) as response:
        body = await response.json(content_type=None)
        assert (response.status, body["code"]) == (415, "unsupported_encoding")
        assert response.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("encoding", ["", "identity"])
async def test_a_body_as_it_is_may_say_so(uploads: Uploads, encoding: str) -> None:
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Content-Encoding": encoding}
    status, body = await uploads.post(part("file", b"x") + END, headers=headers)
    assert (status, body["data"]) == (200, b"x".hex())


async def test_a_file_with_an_encoding_of_its_own_is_taken_as_it_is(uploads: Uploads) -> None:
    stored = gzip.compress(bytes(1_000_000))
    assert len(stored) < LARGEST < 1_000_000
    status, body = await uploads.raw(part("file", stored, b"Content-Encoding: gzip") + END)
    assert (status, body["data"]) == (200, stored.hex())


async def test_an_empty_file_is_no_image(uploads: Uploads) -> None:
    status, body = await uploads.post(form(("file", b"", "x.jpg")))
    assert (status, body["code"]) == (415, "not_an_image")
    assert "empty" in str(body["detail"])


async def test_a_part_without_a_name_is_refused_and_not_read(uploads: Uploads) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield part("x", b"").replace(b'; name="x"', b"")[:-2]
        while True:
            yield b"x" * LARGEST
            await asyncio.sleep(0)

    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    status, body = await asyncio.wait_for(uploads.post(endless(), headers=headers), 10)
    assert (status, body["code"]) == (400, "invalid_request")


async def test_the_largest_file_is_taken_one_byte_more_is_not(uploads: Uploads) -> None:
    status, body = await uploads.post(form(("directory", "acme"), ("file", b"x" * LARGEST, "x.jpg")))
    assert (status, body["size"]) == (200, LARGEST)
    status, body = await uploads.post(form(("directory", "acme"), ("file", b"x" * (LARGEST + 1), "x.jpg")))
    assert (status, body["code"], body["limit"]) == (413, "upload_too_large", LARGEST)


async def test_a_length_above_the_limit_is_refused_before_anything_is_read(uploads: Uploads) -> None:
    status, body = await uploads.post(form(("file", b"x" * (LARGEST + FIELDS_ROOM + 1), "x.jpg")))
    assert (status, body["code"]) == (413, "upload_too_large")
    assert f"{LARGEST:,}" in str(body["detail"])


async def test_a_body_without_length_is_cut_off_at_the_limit(uploads: Uploads) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield part("file", b"")[:-2]
        while sent < 500 * LARGEST:
            sent += LARGEST
            yield b"x" * LARGEST
            await asyncio.sleep(0)

    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    async with uploads.client.post("/upload", data=endless(), headers=headers) as response:
        assert response.status == 413
        assert (await response.json(content_type=None))["code"] == "upload_too_large"
    assert sent < 500 * LARGEST


async def test_a_small_body_without_length_is_taken(uploads: Uploads) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for byte in part("directory", b"acme") + part("file", b"picture") + END:
            yield bytes([byte])

    status, body = await uploads.post(chunks(), headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
    assert (status, body["data"], body["fields"]) == (200, b"picture".hex(), {"directory": "acme"})


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([("directory", "acme")], "missing_field"),
        ([("file", b"a", "a.jpg"), ("file", b"b", "b.jpg")], "invalid_request"),
        ([("file", b"a", "a.jpg"), ("person", "x" * (LONGEST_FIELD + 1))], "invalid_request"),
        ([("file", b"a", "a.jpg"), ("person", "é" * LONGEST_FIELD)], "invalid_request"),
        ([("file", b"a", "a.jpg"), *((f"f{i}", "x") for i in range(MOST_PARTS))], "invalid_request"),
    ],
    ids=["no file", "two files", "long field", "long field in bytes", "too many parts"],
)
async def test_a_wrong_form_is_a_400_that_says_why(
    uploads: Uploads, fields: list[tuple[str, str] | tuple[str, bytes, str]], code: str
) -> None:
    status, body = await uploads.post(form(*fields))
    assert (status, body["code"]) == (400, code)


async def test_what_is_just_within_the_limits_is_taken(uploads: Uploads) -> None:
    most = [(f"f{i}", "x" * LONGEST_FIELD) for i in range(10)] + [(f"g{i}", "x") for i in range(MOST_PARTS - 11)]
    status, body = await uploads.post(form(*most, ("file", b"a", "a.jpg")))
    assert status == 200
    assert body["fields"] == dict(most)


async def test_another_content_type_is_refused_with_the_remedy(uploads: Uploads) -> None:
    for content_type in (
        "image/jpeg",
        "application/x-www-form-urlencoded",
        "application/json",
        "multipart/mixed; boundary=x",
        "",
    ):
        status, body = await uploads.post(b"{}", headers={"Content-Type": content_type})
        assert (status, body["code"]) == (400, "invalid_request"), content_type
        assert "curl" in str(body["detail"])


def hostile() -> Iterable[tuple[str, bytes]]:
    file = part("file", b"picture")
    yield "nothing", b""
    yield "no boundary", b"just some text"
    yield "no end", file[:-2]
    yield "cut in the headers", file[:40]
    yield "another boundary", file.replace(BOUNDARY.encode(), b"another") + END
    yield "a header without colon", part("file", b"x", b"Nonsense") + END
    yield "a long header", part("file", b"x", b"X-Long: " + b"x" * 70_000) + END
    yield "many headers", part("file", b"x", *[b"X-%d: x" % i for i in range(2_000)]) + END
    yield "a header that is no UTF-8", part("file", b"x", b"\xff") + END
    nested = b'--in\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--in--\r\n'
    yield "nested", part("file", nested, b"Content-Type: multipart/mixed; boundary=in") + END
    yield "not UTF-8", part("person", b"\xff\xfe") + file + END
    yield "a long default charset", part("_charset_", b"x" * 100) + file + END
    yield "no name", file.replace(b'; name="file"', b"") + END


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in hostile()])
@pytest.mark.filterwarnings("ignore::aiohttp.multipart.BadContentDispositionHeader")
async def test_a_malformed_body_is_a_400(uploads: Uploads, body: bytes) -> None:
    status, answer = await asyncio.wait_for(uploads.raw(body), 10)
    assert (status, answer["code"]) in [(400, "invalid_request"), (400, "missing_field")]


@pytest.mark.parametrize("length", [b"1000", b"-1", b"0", b"many"])
async def test_the_boundary_ends_a_part_whatever_its_content_length_says(uploads: Uploads, length: bytes) -> None:
    """RFC 7578 knows no Content-Length of a part."""
    body = part("file", b"picture", b"Content-Length: " + length) + part("top", b"1") + END
    status, answer = await asyncio.wait_for(uploads.raw(body), 10)
    assert (status, answer["data"], answer["fields"]) == (200, b"picture".hex(), {"top": "1"})


@pytest.mark.parametrize("boundary", ["", '""', "x" * 71, "%00"])
async def test_a_malformed_boundary_is_a_400(uploads: Uploads, boundary: str) -> None:
    status, answer = await uploads.raw(part("file", b"x") + END, boundary=boundary)
    assert (status, answer["code"]) == (400, "invalid_request")


async def test_invalid_utf8_in_a_file_name_is_replaced(uploads: Uploads) -> None:
    body = part("file", b"picture").replace(b'name="file"', b'name="file"; filename="M\xfcller.jpg"') + END
    status, answer = await uploads.raw(body)
    assert (status, answer["filename"]) == (200, "M\ufffdller.jpg")


async def test_invalid_utf8_in_the_name_of_a_field_is_replaced(uploads: Uploads) -> None:
    status, answer = await uploads.raw(
        part("file", b"picture") + part("person", b"x").replace(b"person", b"p\xffrson") + END
    )
    assert (status, answer["fields"]) == (200, {"p\ufffdrson": "x"})


async def test_memory_is_released_when_a_client_disconnects(uploads: Uploads) -> None:
    started = asyncio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield part("file", b"x" * 1_000)[:-2]
        started.set()
        await asyncio.sleep(60)

    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    task = asyncio.create_task(uploads.post(half(), headers=headers))
    await started.wait()
    await until(lambda: uploads.room < MOST)
    task.cancel()
    await asyncio.wait([task])
    await until(lambda: uploads.room == MOST)


@pytest.mark.parametrize("sent", [b"", part("file", b"x" * 1_000)[:-2]], ids=["nothing", "half"])
async def test_an_upload_of_which_nothing_more_comes_is_given_up(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr("ingest.uploads.SILENCE_S", 0.3)

    async def stalling() -> AsyncIterator[bytes]:
        yield sent
        await asyncio.sleep(60)

    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    status, answer = await asyncio.wait_for(uploads.post(stalling(), headers=headers), 10)
    assert (status, answer["code"]) == (408, "upload_stalled")


async def test_a_slow_upload_is_read_to_its_end(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.uploads.SILENCE_S", 0.5)

    async def slow() -> AsyncIterator[bytes]:
        yield part("file", b"x" * 1_000)[:-2]
        for _ in range(8):
            await asyncio.sleep(0.1)
            yield b"y" * 100
        yield b"\r\n" + END

    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    status, answer = await uploads.post(slow(), headers=headers)
    assert (status, answer["size"]) == (200, 1_800)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        await asyncio.sleep(0.01)


def test_memory_is_counted_until_it_is_given_back() -> None:
    memory = UploadMemory(limit=1_000, largest=600)
    first = memory.reserve(500)
    unknown = memory.reserve(500)
    with pytest.raises(TooMuchInFlight) as raised:
        memory.reserve(1)
    assert raised.value.details["retry_after"] == 1
    memory.give_back(first)
    with pytest.raises(TooMuchInFlight):
        memory.reserve(None)  # of unknown length: as large as it may be
    memory.give_back(unknown)
    memory.give_back(memory.reserve(None))
    with pytest.raises(UploadTooLarge):
        memory.reserve(600 + FIELDS_ROOM + 1)


def test_one_upload_is_always_accepted_even_with_little_memory() -> None:
    memory = UploadMemory(limit=10, largest=600)
    size = memory.reserve(500)
    with pytest.raises(TooMuchInFlight):
        memory.reserve(1)
    memory.give_back(size)
    assert memory.reserve(500) == 500
