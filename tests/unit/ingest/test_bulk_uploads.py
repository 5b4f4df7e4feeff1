"""The parameter `lane`: the topic of an upload, and the reasons to refuse it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stream.topics import IMAGES_RECEIVED, IMAGES_RECEIVED_BULK
from tests.unit.ingest.served import Served, picture, served


@pytest.fixture
async def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    """A service whose images are never processed."""
    monkeypatch.setattr("facestream.runtime.roles.ingest.LOOK_EVERY_S", 0.01)
    async with served(tmp_path / "data", max_age=0.2) as service:
        yield service


async def upload(service: Served, prefer: str, path: str = "/detect", **fields: str) -> tuple[int, dict[str, Any]]:
    form = aiohttp.FormData(fields)
    form.add_field("file", picture(), filename="a.png")
    async with service.session.post(path, data=form, headers={"Prefer": prefer}) as response:
        return response.status, await response.json(content_type=None)


async def announced(service: Served) -> tuple[int, int]:
    return (
        sum((await service.stores.log.end_offsets(IMAGES_RECEIVED)).values()),
        sum((await service.stores.log.end_offsets(IMAGES_RECEIVED_BULK)).values()),
    )


async def test_each_lane_has_its_topic(service: Served) -> None:
    for query, expected in (("", (1, 0)), ("?lane=interactive", (2, 0)), ("?lane=bulk", (2, 1))):
        assert (await upload(service, "respond-async", f"/detect{query}"))[0] == 202
        assert await announced(service) == expected


async def test_an_unknown_lane_is_refused_and_nothing_is_stored(service: Served) -> None:
    status, body = await upload(service, "respond-async", "/detect?lane=fast")
    assert (status, body["code"], body["field"]) == (400, "invalid_request", "lane")
    assert "interactive, bulk" in body["detail"]
    status, body = await upload(service, "respond-async", lane="bulk")
    assert (status, body["code"], body["field"]) == (400, "invalid_request", "lane")
    assert "/detect?lane=bulk" in body["detail"]
    assert await announced(service) == (0, 0)


async def test_bulk_uploads_are_accepted_while_an_old_image_waits(service: Served) -> None:
    await upload(service, "respond-async")
    async with asyncio.timeout(10):
        while (await upload(service, "wait=0.01"))[0] != 429:
            pass
    assert (await upload(service, "wait=0.01", "/detect?lane=bulk"))[0] == 202
    assert (await upload(service, "wait=0.01"))[0] == 429


async def test_an_old_image_of_the_bulk_lane_causes_no_refusals(service: Served) -> None:
    await upload(service, "respond-async", "/detect?lane=bulk")
    await asyncio.sleep(0.5)  # more than the age at which an interactive one would turn others away
    assert (await upload(service, "wait=0.01"))[0] == 202
