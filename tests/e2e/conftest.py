"""A running service, and a client for it."""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image

from bench.serving import Serving

PATIENCE_S = 90.0  # for an answer, on a busy machine


class Client:
    """Posts pictures and gets answers: (status, JSON body, headers).

    A patient client waits longer for an answer than the service's default, and sends a picture again after a 429.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, *, patient: bool = True) -> None:
        self.session, self.url, self.patient = session, url, patient

    async def post(
        self,
        path: str,
        picture: bytes | Path,
        *,
        headers: Any = None,
        filename: str = "photo.jpg",
        **fields: str,
    ) -> tuple[int, dict[str, Any], Any]:
        data = picture if isinstance(picture, bytes) else picture.read_bytes()  # noqa: ASYNC240 - a small file of a test
        if not self.patient:
            return await self._post(path, data, headers, filename, fields)
        deadline = time.monotonic() + PATIENCE_S
        headers = {"Prefer": f"wait={PATIENCE_S:.0f}"} | (headers or {})
        while True:
            answer = await self._post(path, data, headers, filename, fields)
            if answer[0] != 429 or time.monotonic() > deadline:
                return answer
            await asyncio.sleep(float(answer[2]["Retry-After"]))

    async def _post(
        self, path: str, data: bytes, headers: Any, filename: str, fields: dict[str, str]
    ) -> tuple[int, dict[str, Any], Any]:
        form = aiohttp.FormData(fields)
        form.add_field("file", io.BytesIO(data), filename=filename)
        async with self.session.post(self.url + path, data=form, headers=headers) as response:
            return response.status, await response.json(content_type=None), response.headers

    async def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any, Any]:
        async with self.session.get(self.url + path, headers=headers) as response:
            body = await response.json(content_type=None) if "json" in response.content_type else await response.read()
            return response.status, body, response.headers


@pytest.fixture(scope="session")
def dtype() -> str:
    """The dtype that `auto` chooses here, determined once for all processes, so that their answers are equal."""
    from weights.load import choose_device, choose_dtype

    return str(choose_dtype(choose_device())).removeprefix("torch.")


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory, weights_folder: Path, dtype: str) -> Iterator[Serving]:
    """One service for all tests that do not end it. Each test uses its own directories."""
    with Serving(tmp_path_factory.mktemp("shared") / "data", weights_folder, dtype=dtype) as running:
        yield running


@pytest.fixture
async def client(serving: Serving) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(session, serving.url)


@pytest.fixture(scope="session")
def small_photos(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos, at most 400 pixels wide and high, for tests that send many."""
    folder = tmp_path_factory.mktemp("small")
    for path in photos.glob("*.jpg"):
        with Image.open(path) as picture:
            picture.thumbnail((400, 400))
            picture.convert("RGB").save(folder / path.name, quality=92)
    return folder


@pytest.fixture(scope="session")
def two_people(photos: Path) -> bytes:
    """Obama at the left, Biden at the right, 1,200 × 600."""
    return side_by_side([photos / "obama.jpg", photos / "biden.jpg"])


def side_by_side(paths: list[Path], height: int = 600) -> bytes:
    """JPEG of several pictures, each scaled to height × height."""
    canvas = Image.new("RGB", (height * len(paths), height))
    for i, path in enumerate(paths):
        with Image.open(path) as picture:
            canvas.paste(picture.convert("RGB").resize((height, height)), (i * height, 0))
    return jpeg(canvas)


def jpeg(picture: Image.Image, quality: int = 92) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()
