"""Numbers in requests: those that are out of bounds or not finite are refused by name, and nothing is accepted."""

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from ingest.problems import json_response
from schemas.http_bodies import DirectoriesBody
from stream.topics import FACES_EMBEDDED, IMAGES_RECEIVED
from tests.unit.ingest.served import Served, picture, served

WRONG = ["nan", "NaN", "inf", "-inf", "Infinity", "1e400", "-1", "true", "1" + "0" * 400 + "e", ""]
HUGE = "9" * 4_000


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path / "data") as service:
        yield service


async def is_untouched(service: Served) -> bool:
    """Whether nothing was accepted."""
    log = service.stores.log
    return not any([sum((await log.end_offsets(topic)).values()) for topic in (IMAGES_RECEIVED, FACES_EMBEDDED)])


@pytest.mark.parametrize("in_query", [False, True], ids=["form", "query"])
@pytest.mark.parametrize("field", ["top", "limit", "min_score", "min_face", "strangers"])
async def test_a_wrong_number_in_a_field_is_refused_by_name(service: Served, field: str, in_query: bool) -> None:
    for number in [*WRONG, HUGE]:
        given = {field: number}
        form = aiohttp.FormData({"directory": "acme"} | ({} if in_query else given))
        form.add_field("file", picture(), filename="a.png")
        async with service.session.post("/recognize", data=form, params=given if in_query else {}) as response:
            body = await response.json()
        assert (response.status, body["code"], body["field"]) == (400, "invalid_request", field), number
        assert body["detail"].startswith(f"{field}: ")
    assert await is_untouched(service)


@pytest.mark.parametrize("number", WRONG)
async def test_a_wait_that_is_no_time_is_refused_before_anything_is_accepted(service: Served, number: str) -> None:
    prefer = f"wait={number}"
    async with asyncio.timeout(10):
        status, body, _ = await service.detect(Prefer=prefer)
        assert (status, body["code"]) == (400, "invalid_request")
        assert "Prefer: wait" in body["detail"]
        async with service.session.delete("/directories/acme", headers={"Prefer": prefer}) as response:
            assert response.status == 400
    assert await is_untouched(service)


async def test_a_page_has_a_size_within_its_bounds(service: Served) -> None:
    for number in [*WRONG, HUGE, "0", "1001", "1.5"]:
        async with service.session.get("/directories/acme/persons", params={"limit": number}) as response:
            body = await response.json()
        assert (response.status, body["field"]) == (400, "limit"), number


def test_a_response_never_has_a_number_that_is_no_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_response(200, DirectoriesBody.model_validate({"directories": [], "of a later release": math.nan}))
