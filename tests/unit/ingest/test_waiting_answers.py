"""The answer that a waiting request gets if another replica erases a person while the answer is on its way."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from facestream.runtime.system_state import follow_state
from schemas.answers import Body
from schemas.erasures import person_erasure_key
from schemas.records import ImageReceived
from stream.answers import answer_record
from stream.topics import IMAGES_RECEIVED
from tests.answers import candidate, learned, recognized, recognized_person
from tests.records import erasure_record
from tests.unit.ingest.served import Served, picture, served

ANSWERED_AT, ERASED_AT = 3, 4  # offsets in the directory's partition


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Served]:
    """A service that learns of erasures only when it reads them from the log."""
    async with served(tmp_path / "data") as service:
        yield service


async def ask(service: Served, purpose: str, status: int, body: Body, **fields: str) -> tuple[int, dict[str, Any]]:
    """Uploads a picture, erases Ann, and appends this answer. Returns the response to the upload."""
    form = aiohttp.FormData({"directory": "acme"} | fields)
    form.add_field("file", picture(), filename="a.png")
    reader = await service.stores.log.reader(IMAGES_RECEIVED, at="end")
    asking = asyncio.create_task(service.session.post(f"/{purpose}", data=form))
    while not (records := await reader.poll(1, 1.0)):
        pass
    await reader.close()
    async with follow_state(service.stores.log) as state:
        log_id = state.erasures.log_id
    erased = erasure_record(person_erasure_key("acme", "ann"), offset=ERASED_AT, log=log_id)
    await service.stores.log.append([erased])
    received = ImageReceived.decode(records[0].value)
    body = body.model_copy(update={"image_id": received.image_id})
    await service.stores.log.append([answer_record(received, status, body, ANSWERED_AT)])
    async with await asking as response:
        return response.status, await response.json()


async def test_a_waiting_recognize_request_does_not_get_the_name_of_an_erased_person(service: Served) -> None:
    status, body = await ask(service, "recognize", 200, recognized(recognized_person("ann", candidate("ann"))))
    assert (status, body["persons"][0]["id"], body["persons"][0]["reason"]) == (200, None, "erased")
    assert "ann" not in json.dumps(body)


async def test_a_waiting_learn_request_gets_201_and_its_stored_answer_is_erased(service: Served) -> None:
    told = learned("ann")
    status, body = await ask(service, "learn", 201, told, person="ann")
    assert (status, body["persons"]) == (201, told.members()["persons"])
    status, text = await service.get(f"/results/{body['image_id']}")
    assert (status, json.loads(text)["code"]) == (409, "erased")
