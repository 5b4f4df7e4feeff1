"""The client of the command line against a server with scripted answers; what it prints and draws."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import BodyPartReader, web
from aiohttp.test_utils import TestServer
from PIL import Image

from facestream.client import http as client_module
from facestream.client.draw import NotDrawn, draw, drawing_paths, label_of
from facestream.client.http import ATTEMPTS, PhotoResult, ServiceClient, UnexpectedAnswer, UnreadablePhoto, read_photo
from facestream.client.report import Report, advice
from facestream.client.send_photos import check_options
from facestream.flags import argument_type
from schemas.answers import RecognizedPerson, problem
from schemas.errors import ConfigurationError, InvalidRequest
from schemas.names import normalise_name
from tests.answers import recognized, recognized_person, refused

Reply = Callable[[], web.Response]
IMAGE_ID = "8b0ccb5c-5b0f-4d4c-9d3c-3f3a2f0a7f11"
WORKING = {"status": "working", "image_id": IMAGE_ID, "location": f"/results/{IMAGE_ID}"}
NOBODY = recognized()
BOX = [0, 0, 40, 40]


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / 'été 日本 "1".jpg'
    path.write_bytes(b"\xff\xd8\xff picture")
    return str(path)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "LONGEST_PAUSE_S", 0.01)
    monkeypatch.setattr(client_module, "POLL_S", 0.01)


def saying(status: int, body: Any, **headers: str) -> Reply:
    return lambda: web.json_response(
        body, status=status, headers={name.replace("_", "-"): it for name, it in headers.items()}
    )


class Scripted:
    """A server that gives the replies in turn, and then repeats the last one. `requests`: those that it got."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = list(replies)
        self.requests: list[dict[str, Any]] = []

    async def reply(self, request: web.Request) -> web.Response:
        sent: dict[str, Any] = {"path": request.path, "key": request.headers.get("Idempotency-Key"), "fields": {}}
        if request.method == "POST":
            async for part in await request.multipart():
                assert isinstance(part, BodyPartReader)
                assert part.name
                sent["fields"][part.name] = (part.filename, bytes(await part.read()))
        self.requests.append(sent)
        return (self._replies.pop(0) if len(self._replies) > 1 else self._replies[0])()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[ServiceClient]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.reply)
        async with TestServer(app) as server, ServiceClient(str(server.make_url("")), "fs_key") as client:
            yield client


async def test_a_busy_service_is_asked_again_with_one_idempotency_key(photo: str, quick: None) -> None:
    busy = saying(429, {"code": "too_much_in_flight"}, Retry_After="1")
    script = Scripted(busy, saying(503, {}), saying(202, WORKING), saying(202, WORKING), saying(200, NOBODY.members()))
    async with script.client() as client:
        begun = asyncio.get_running_loop().time()
        assert await client.send("recognize", photo, {"directory": "dé"}) == PhotoResult(photo, 200, NOBODY)
        assert asyncio.get_running_loop().time() - begun > 1  # what Retry-After asked for
    assert [it["path"] for it in script.requests] == ["/recognize"] * 3 + [f"/results/{IMAGE_ID}"] * 2
    assert len({it["key"] for it in script.requests[:3]}) == 1
    assert script.requests[0]["key"]
    for sent in script.requests[:3]:
        assert sent["fields"] == {
            "directory": (None, "dé".encode()),
            "file": (Path(photo).name, b"\xff\xd8\xff picture"),
        }


async def test_two_photos_have_two_idempotency_keys(photo: str) -> None:
    script = Scripted(saying(200, NOBODY.members()))
    async with script.client() as client:
        await asyncio.gather(client.send("recognize", photo, {}), client.send("recognize", photo, {}))
    assert len({it["key"] for it in script.requests}) == 2


async def test_retries_end_with_the_last_answer(photo: str, quick: None) -> None:
    script = Scripted(saying(503, refused(503, "unavailable", "the log cannot be reached").members()))
    async with script.client() as client:
        outcome = await client.send("learn", photo, {})
    assert outcome.failed
    assert outcome.body.members()["detail"] == "the log cannot be reached"
    assert len(script.requests) == ATTEMPTS


async def test_a_service_that_is_gone_fails_the_rest_at_once(
    photo: str, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Scripted(saying(200, {}))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", script.reply)
    async with TestServer(app) as server, ServiceClient(str(server.make_url(""))) as client:
        await client.check()
        await server.close()
        first = await client.send("learn", photo, {})
        monkeypatch.setattr(client_module, "LONGEST_PAUSE_S", 60.0)  # with pauses it would take minutes
        async with asyncio.timeout(10):
            second = await client.send("learn", photo, {})
        assert first == second
        assert first.body.members()["code"] == "unavailable"
        assert "facestream up" in first.body.members()["detail"]


@pytest.mark.parametrize(
    ("status", "error"), [(400, InvalidRequest), (401, ConfigurationError), (403, ConfigurationError)]
)
async def test_what_is_wrong_for_every_photo_ends_the_command(photo: str, status: int, error: type[Exception]) -> None:
    async with Scripted(saying(status, refused(status, detail="this is wrong").members())).client() as client:
        with pytest.raises(error, match="this is wrong"):
            await client.send("learn", photo, {})


async def test_another_server_at_the_address_is_refused(photo: str) -> None:
    def page() -> web.Response:
        return web.Response(text="<html>It works!", content_type="text/html")

    def moved() -> web.Response:
        return web.Response(status=301, headers={"Location": "https://example.com/"})

    for reply, words in ((page, "no facestream service"), (moved, "points to https://example.com/")):
        async with Scripted(reply).client() as client:
            with pytest.raises(ConfigurationError, match=words):
                await client.check()
            outcome = await client.send("learn", photo, {})
            assert outcome.body.members()["code"] == "unexpected_answer"


@pytest.mark.parametrize("too_large", [False, True])
async def test_a_body_is_taken_as_it_arrives_and_up_to_a_limit(
    photo: str, monkeypatch: pytest.MonkeyPatch, too_large: bool
) -> None:
    monkeypatch.setattr(client_module, "LARGEST_ANSWER", 1_000)

    def padded() -> web.Response:
        response = web.json_response(NOBODY.members() | {"padding": " " * (2_000 if too_large else 100)})
        if not too_large:
            response.enable_compression(web.ContentCoding.gzip)
        return response

    async with Scripted(padded).client() as client:
        result = await client.send("recognize", photo, {})
    assert result.body == problem(UnexpectedAnswer(f"{client.url} answered HTTP 200 without JSON"))


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://x", "http://", "/tmp"])
async def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="http://127"):
        ServiceClient(url)


def test_photos_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    for name, words in (("none.jpg", "No such file"), ("", "folder"), ("empty.jpg", "empty")):
        with pytest.raises(UnreadablePhoto, match=words):
            read_photo(str(tmp_path / name))


def test_options_are_checked_before_a_photo_is_sent() -> None:
    assert check_options({"top": "5", "limit": None, "face": "3,4.5"}) == {"top": "5", "face": "3,4.5"}
    for wrong, flag in (({"top": "11"}, "--top"), ({"min_score": "x"}, "--min-score"), ({"face": "left"}, "--face")):
        with pytest.raises(ConfigurationError, match=flag):
            check_options(wrong)
    assert argument_type("--person", normalise_name)("e\u0301") == "é"
    with pytest.raises(ConfigurationError, match="--person"):
        argument_type("--person", normalise_name)("a\nb")


def test_json_lines_hold_any_path(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    path = b"caf\xe9 \xe6\x97\xa5\n.jpg".decode("utf-8", "surrogateescape")
    photo, problem = recognized(recognized_person("日本")), refused(422, "no_face", "no face\x1b[2J")
    with Report("recognize", [path, "b"], as_json=True) as report:
        report.add(PhotoResult(path, 200, photo))
        report.add(PhotoResult("b", 422, problem))
    out, err = capfdbinary.readouterr()
    assert [json.loads(line) for line in out.decode().splitlines()] == [
        {"photo": path} | photo.members(),
        {"photo": "b", "error": problem.members()},
    ]
    assert "日本".encode() in out
    assert err.decode() == "facestream: b: no face\ufffd[2J\n"


def test_advice_is_in_the_words_of_the_command_line() -> None:
    faces = [{"box": [10, 10, 30, 50], "score": 1.0}, {"box": [100, 0, 120, 20], "score": 0.9}]
    assert advice(refused(422, "not_one_face", faces=faces)) == ": here --face 20,30 or --face 110,10"
    assert "--force" in advice(refused(422, "face_too_small"))
    assert advice(refused(422, "unreadable_image")) == ""


def person(name: str | None, box: list[int], similarity: float | None = 0.87) -> RecognizedPerson:
    return recognized_person(name, box=box, similarity=similarity, probability=0.984)


def test_labels() -> None:
    assert label_of(person("Ann", BOX)) == "Ann 98%"
    assert label_of(person(None, BOX)) == "? 0.87"
    assert label_of(person(None, BOX, None)) == "?"
    assert len(label_of(person("x" * 200, BOX))) < 50


def test_a_drawing_lies_upright_as_the_boxes_do(tmp_path: Path) -> None:
    photo, drawing = tmp_path / "turned.jpg", tmp_path / "new" / "drawing.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (400, 200), "white").save(photo, exif=exif)
    draw(str(photo), [person("Ann", [50, 300, 150, 390])], drawing)
    with Image.open(drawing) as image:
        assert image.size == (200, 400)
        assert image.getpixel((50, 350)) == image.getpixel((149, 389)) != (255, 255, 255)
        assert image.getpixel((100, 350)) == (255, 255, 255)
        assert image.crop((50, 300, 150, 390)).getpixel((50, 50)) == (255, 255, 255)
        assert image.crop((50, 260, 150, 299)).getcolors() != [(100 * 39, (255, 255, 255))]  # the name stands above


NAMES = ["José Łukasz", "Джо Байден", "拜登", "עברית", "👩‍👩‍👧", "x" * 200, "\u2028\u202e\u0301\U000e0001\uffff", None]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif", ".bmp", ".tiff", ".avif", ".heic"])
def test_any_name_can_be_drawn_in_any_format(tmp_path: Path, suffix: str) -> None:
    photo, drawing = tmp_path / "photo.png", tmp_path / f"drawing{suffix}"
    Image.new("RGBA", (300, 200)).save(photo)
    boxes = [[0, 0, 300, 200], [0, 0, 1, 1], [290, 190, 300, 200], [5, 5, 5, 5]]
    draw(str(photo), [person(name, boxes[i % 4]) for i, name in enumerate(NAMES)], drawing)
    with Image.open(drawing) as image:
        assert image.size == (300, 200)
        assert image.format == Image.registered_extensions()[suffix]


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(NotDrawn, match="header"):
        draw(str(tmp_path / "broken.jpg"), [], tmp_path / "out.png")
    Image.new("L", (9, 9)).save(tmp_path / "good.png")
    with pytest.raises(NotDrawn, match=r"out\.png"):
        draw(str(tmp_path / "good.png"), [], tmp_path / "broken.jpg" / "out.png")


def test_drawings_get_distinct_paths_and_replace_no_photo(tmp_path: Path) -> None:
    folder = tmp_path / "named"
    photos = ["a/1.jpg", "b/1.jpg", "c/noise", "c/x.PNG"]
    assert [it.name for it in drawing_paths(str(folder), photos)] == ["1.jpg", "1-2.jpg", "noise.png", "x.PNG"]
    assert drawing_paths(f"{folder}/", ["a/1.jpg"]) == [folder / "1.jpg"]
    assert drawing_paths(f"{folder}.webp", ["a/1.jpg"]) == [tmp_path / "named.webp"]
    (tmp_path / "1.jpg").touch()
    for out, sent, words in (
        ("out.txt", ["a/1.jpg"], "suffix"),
        ("1.jpg", [str(tmp_path / "1.jpg")], "would replace"),
        ("", [str(tmp_path / "1.jpg")], "would replace"),
        ("1.jpg", photos, "need a folder"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            drawing_paths(str(tmp_path / out), sent)


async def test_an_invalid_api_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="API key"):
        ServiceClient("http://127.0.0.1:1", "fs\nkey")
