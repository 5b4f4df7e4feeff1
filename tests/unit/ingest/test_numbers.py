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

WRONG = ["nan", "NaN", "inf", "-inf", "Infinity", "1e400", "-1", "true", "1" + "0" * 400 + "e", "", "1_0", "٣", "٠.٥"]
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
    for number in [*WRONG, HUGE, " 1", "1 ", "1\n"]:
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


@pytest.mark.parametrize(("number", "status"), [("0", 202), ("0.01", 202), ('"0.01"', 202), ("0.01, wait=60", 202)])
async def test_a_wait_is_a_number_of_seconds(service: Served, number: str, status: int) -> None:
    async with asyncio.timeout(10):
        assert (await service.detect(Prefer=f"wait={number}"))[0] == status


@pytest.mark.parametrize("point", ["1_0,10", "٣,٣", "1,1\n", "1e1,1"])
async def test_a_wrong_point_of_a_face_is_refused_by_name(service: Served, point: str) -> None:
    form = aiohttp.FormData({"person": "ann", "directory": "acme", "face": point})
    form.add_field("file", picture(), filename="a.png")
    async with service.session.post("/learn", data=form) as response:
        body = await response.json()
    assert (response.status, body["code"], body["field"]) == (400, "invalid_request", "face")
    assert await is_untouched(service)


async def test_an_idempotency_key_is_given_once(service: Served) -> None:
    form = aiohttp.FormData()
    form.add_field("file", picture(), filename="a.png")
    keys = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    async with service.session.post("/detect", data=form, headers=keys) as response:
        assert (response.status, (await response.json())["code"]) == (400, "invalid_request")
    assert await is_untouched(service)


async def test_a_page_has_a_size_within_its_bounds(service: Served) -> None:
    for number in [*WRONG, HUGE, "0", "1001", "1.5", " 1", "+1"]:
        async with service.session.get("/directories/acme/persons", params={"limit": number}) as response:
            body = await response.json()
        assert (response.status, body["field"]) == (400, "limit"), number
    assert (await service.get("/directories/acme/persons?limit=1&limit=2"))[0] == 400
    assert (await service.get("/directories/acme/persons?limit=1000"))[0] == 200


def test_a_response_never_has_a_number_that_is_no_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_response(200, DirectoriesBody.model_validate({"directories": [], "of a later release": math.nan}))
