"""The rules of docs/events.md that no schema can say: an event that breaks one fits the schema, and is answered with
the code of the rule.
"""

import asyncio
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest
from PIL import Image

from backends.files.objects import FileObjects
from backends.log import NewRecord, partition_of
from backends.sqlite.log import SqliteLog
from bench.serving import Serving
from schemas import generate
from schemas.errors import REFUSALS_OF_EVENTS
from stream.topics import IMAGES_RECEIVED, PARTITIONS
from tests.documents import EVENTS, table
from tests.e2e.conftest import PATIENCE_S, Client, jpeg
from tests.hostile import drawn

DIRECTORY = "rules"
LARGEST = 1_000_000  # bytes, and pixels
SCHEMA = json.loads(generate.SCHEMA_FILE.read_text())
VALIDATOR = jsonschema.Draft202012Validator({"$ref": "#/$defs/ImageReceived", "$defs": SCHEMA["$defs"]})
FIRST = str(uuid.uuid4())  # an image that was erased
OF_FIRST = {"topic": IMAGES_RECEIVED, "partition": partition_of(FIRST, PARTITIONS), "offset": 0}

# What breaks each rule, in the order of the document: members of the event, in which a source is named by its picture.
BREAKS: list[tuple[str, dict[str, Any]]] = [
    ("invalid_event", {"person": "\u0344" * 150}),  # each is two characters in NFC
    ("invalid_event", {"person": "\ud83d"}),
    ("invalid_event", {"unknown": json.loads("[" * 250 + "]" * 250)}),
    ("forbidden_source", {"source": {"bucket": "objects", "key": "incoming/other/portrait.jpg"}}),
    ("forbidden_source", {"source": {"bucket": "elsewhere", "key": "incoming/rules/portrait.jpg"}}),
    ("object_missing", {"source": "nothing"}),
    ("object_missing", {"source": {"bucket": "objects", "key": "incoming/rules/portrait", "etag": "another"}}),
    ("upload_too_large", {"source": "large"}),
    ("not_an_image", {"source": "text"}),
    ("too_many_pixels", {"source": "wide"}),
    ("unreadable_image", {"source": "cut"}),
    ("no_face", {"source": "landscape"}),
    ("not_one_face", {"source": "couple"}),
    ("not_one_face", {"source": "portrait", "options": {"face": "1,1"}}),
    ("face_too_small", {"source": "distant"}),
    ("erased", {"source": "portrait", "person": "Erased", "origin": OF_FIRST}),
]


def pictures(photos: Path, small_photos: Path, two_people: bytes) -> Iterator[tuple[str, bytes]]:
    yield "portrait", (small_photos / "obama.jpg").read_bytes()
    yield "large", bytes(LARGEST + 1)
    yield "text", b"this is not a picture"
    yield "wide", jpeg(Image.new("RGB", (LARGEST // 100, 101)))
    yield "cut", drawn("JPEG")[:200]
    yield "landscape", drawn("PNG")
    yield "couple", two_people
    with Image.open(photos / "obama.jpg") as picture:
        yield "distant", jpeg(picture.resize((picture.width // 9, picture.height // 9)))


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory, weights_folder: Path, dtype: str) -> Iterator[Serving]:
    data = tmp_path_factory.mktemp("rules") / "data"
    limits = {"max_upload": str(LARGEST), "max_pixels": str(LARGEST), "decoders": "1"}
    with Serving(data, weights_folder, dtype=dtype, **limits) as running:
        yield running


@pytest.fixture
async def client(limited: Serving) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(session, limited.url)


async def send(serving: Serving, client: Client, event: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Appends an event, and returns its answer."""
    log = SqliteLog(serving.data / "log.db")
    await log.append([NewRecord(IMAGES_RECEIVED, event["image_id"], json.dumps(event).encode())])
    await log.close()
    deadline = time.monotonic() + PATIENCE_S
    while (answer := await client.get(f"/results/{event['image_id']}"))[0] in (202, 404):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    return answer[0], answer[1]


def event_of(changes: dict[str, Any]) -> dict[str, Any]:
    event: dict[str, Any] = {"image_id": str(uuid.uuid4()), "purpose": "learn", "directory": DIRECTORY, "person": "Ann"}
    event |= {"source": "portrait"} | changes
    if isinstance(event["source"], str):
        event["source"] = {"bucket": "objects", "key": f"incoming/{DIRECTORY}/{event['source']}"}
    return event


async def test_each_rule_has_its_answer(
    limited: Serving, client: Client, photos: Path, small_photos: Path, two_people: bytes
) -> None:
    objects = FileObjects(limited.data / "objects")
    await objects.put(f"incoming/{DIRECTORY}/portrait", (small_photos / "obama.jpg").read_bytes())
    assert (await send(limited, client, event_of({"image_id": FIRST, "person": "Erased"})))[0] == 201
    async with client.session.delete(f"{client.url}/directories/{DIRECTORY}/persons/Erased") as response:
        assert response.status == 200
    for name, data in pictures(photos, small_photos, two_people):
        await objects.put(f"incoming/{DIRECTORY}/{name}", data)
    await objects.close()
    assert (await send(limited, client, event_of({})))[0] == 201
    statuses = {it.code: it.status for it in REFUSALS_OF_EVENTS}
    for code, changes in BREAKS:
        event = event_of(changes)
        assert VALIDATOR.is_valid(event), changes
        status, body = await send(limited, client, event)
        assert (status, body.get("code")) == (statuses[code], code), changes


def test_the_document_has_the_rules_that_are_tested() -> None:
    rows = [re.fullmatch(r"(\d+) `(\w+)`", cells[1]) for cells in table(EVENTS, "| rule | answer |")]
    documented = [(int(it[1]), it[2]) for it in rows if it]
    assert len(documented) == len(rows)
    assert set(documented) == {(it.status, it.code) for it in REFUSALS_OF_EVENTS}
    assert list(dict.fromkeys(code for _, code in documented)) == list(dict.fromkeys(code for code, _ in BREAKS))
