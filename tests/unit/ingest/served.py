"""The HTTP service on embedded stores without workers, for tests of what it does before an image is processed."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from PIL import Image

from backends.open import open_reserve
from facestream.config import Settings
from facestream.runtime.roles.ingest import http_service
from facestream.runtime.stores import Stores, create_stores, open_stores
from facestream.runtime.system_state import follow_state
from stream.health_routes import Checks
from stream.unused_partitions import UnusedPartitions


@dataclass(frozen=True, slots=True)
class Served:
    stores: Stores
    session: aiohttp.ClientSession

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        async with self.session.get(path, headers=headers) as response:
            return response.status, await response.text()

    async def detect(self, **headers: str) -> tuple[int, dict[str, Any], Any]:
        """Sends a picture: status, body and headers of the answer."""
        form = aiohttp.FormData()
        form.add_field("file", picture(), filename="a.png")
        async with self.session.post("/detect", data=form, headers=headers) as response:
            return response.status, await response.json(content_type=None), response.headers


@asynccontextmanager
async def served(data: Path, *, checks: Checks | None = None, **settings: Any) -> AsyncIterator[Served]:
    """settings: fields of Settings."""
    chosen = Settings(data=data, listen="127.0.0.1:0", **settings)
    async with open_stores(chosen) as stores:
        await create_stores(stores)
        async with (
            follow_state(stores.log) as state,
            http_service(
                chosen, stores, state, checks or {}, UnusedPartitions(stores.log), open_reserve(chosen.log_url), None
            ) as service,
        ):
            url = await service.listen(chosen.listen, None)
            running = asyncio.create_task(service.run())
            try:
                async with aiohttp.ClientSession(url) as session:
                    yield Served(stores, session)
            finally:
                running.cancel()
                await asyncio.wait([running])


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()
