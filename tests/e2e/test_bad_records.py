"""Records that cannot be processed become dead letters, and the service continues; `facestream dead-letters`."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from backends.files.objects import FileObjects
from backends.files.paths import path_of
from backends.log import NewRecord
from backends.sqlite.log import SqliteLog
from bench.serving import Serving
from schemas.object_metadata import ObjectMetadata
from stream.dead_letters import open_letters, read_contents
from stream.topics import IMAGES_RECEIVED, IMAGES_RECEIVED_BULK
from tests.conftest import ROOT
from tests.e2e.conftest import PATIENCE_S, Client
from tests.records import image_received


def dead_letters(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FACESTREAM_")}
    environment |= {"FACESTREAM_DATA": str(data)}
    command = [sys.executable, "-m", "facestream.cli", "dead-letters", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


async def listed(data: Path, *arguments: str) -> list[dict[str, Any]]:
    done = await asyncio.to_thread(dead_letters, data, "list", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_invalid_records_of_other_producers_become_dead_letters_and_the_service_continues(
    serving: Serving, client: Client, small_photos: Path
) -> None:
    gone = image_received(uuid.uuid4(), directory="dead")
    image_id = gone.image_id
    later = json.loads(gone.encode()) | {"image_id": str(uuid.uuid4()), "version": 2}
    wrong = later | {"image_id": str(uuid.uuid4()), "version": 1, "options": {"strangers": "abc"}}
    half_pair = {"source": {"bucket": "photos", "key": "a.jpg"}, "filename": "\ud800"}
    attributes = {"specversion": "1.0", "type": "facestream.image.detect", "source": "/cms", "id": "1"}
    hostile = {
        "json": b"{",
        "tombstone": None,
        "member": b'{"version": 1}',
        "text": json.dumps(attributes | {"data": half_pair}).encode(),
        "version": json.dumps(later).encode(),
        "option": json.dumps(wrong).encode(),
    }
    log = SqliteLog(serving.data / "log.db")
    for topic in IMAGES_RECEIVED, IMAGES_RECEIVED_BULK:
        await log.append([NewRecord(topic, f"{topic} {name}", value, image_id) for name, value in hostile.items()])
    await log.append([NewRecord(IMAGES_RECEIVED, image_id, gone.encode())])  # behind them, in the same partition
    await log.close()

    deadline = time.monotonic() + PATIENCE_S
    answers = []
    for answered in (image_id, later["image_id"], wrong["image_id"]):
        while (answer := await client.get(f"/results/{answered}"))[0] in (202, 404):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        answers.append((answer[0], answer[1]["code"], answer[1].get("field")))
    assert answers == [
        (422, "object_missing", None),
        (400, "invalid_event", "version"),
        (400, "invalid_event", "options.strangers"),
    ]
    assert (await client.post("/detect", small_photos / "obama.jpg"))[0] == 200

    names = {f"{topic} {name}": name for topic in (IMAGES_RECEIVED, IMAGES_RECEIVED_BULK) for name in hostile}
    names |= {later["image_id"]: "version", wrong["image_id"]: "option"}  # these say which image they are about
    letters: list[dict[str, Any]] = []
    while len(letters) < 2 * len(hostile):
        assert time.monotonic() < deadline
        letters = await listed(serving.data)
    codes = {names[it["image_id"]]: it["code"] for it in letters}
    unreadable = dict.fromkeys(("json", "tombstone", "member", "text"), "unreadable_record")
    assert codes == unreadable | dict.fromkeys(("version", "option"), "invalid_event")
    reasons = {names[it["image_id"]]: it["reason"] for it in letters}
    assert "version" in reasons["version"]
    assert "image_id" in reasons["member"]
    assert len({(it["topic"], it["offset"]) for it in letters}) == 2 * len(hostile)

    shown = dead_letters(serving.data, "show", str(next(it["id"] for it in letters if "json" in str(it["image_id"]))))
    assert shown.stdout.endswith("\nrecord     {\n")
    retried = dead_letters(serving.data, "retry", "--all")
    assert (retried.returncode, retried.stdout) == (1, "")
    assert f"0 retried, 0 dropped, {len(letters)} left" in retried.stderr
    dropped = dead_letters(serving.data, "drop", "--all", "--yes")
    assert (dropped.returncode, len(dropped.stdout.splitlines())) == (0, len(letters))
    assert await listed(serving.data) == []


async def test_a_retried_image_is_pending_until_it_is_answered(
    serving: Serving, client: Client, small_photos: Path
) -> None:
    """The stage fails on a file of the store that is damaged. Then the file is mended."""
    picture = (small_photos / "obama.jpg").read_bytes()
    received = image_received(uuid.uuid4(), "detect", directory=None, sha256=hashlib.sha256(picture).hexdigest())
    value, path = received.encode() + b" ", f"/results/{received.image_id}"
    folder = serving.data / "objects"
    file = folder / path_of(received.object_key)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"damaged\n" + picture)
    log, objects = SqliteLog(serving.data / "log.db"), FileObjects(folder)
    await log.append([NewRecord(IMAGES_RECEIVED_BULK, "a key", value, headers=[("a", None)])])
    async with asyncio.timeout(PATIENCE_S):
        while (await client.get(path))[1].get("code") != "processing_failed":  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)
    (letter,) = await open_letters(log)
    assert await read_contents(log, [letter]) == [("a key", value, (("a", None),))]
    assert (letter.failure.topic, letter.failure.stage) == (IMAGES_RECEIVED_BULK, "processors")

    await objects.put(received.object_key, picture, ObjectMetadata(received_at=int(time.time() * 1000)).encode())
    retried = await asyncio.to_thread(dead_letters, serving.data, "retry", letter.id)
    assert retried.stdout == f"retried\t{letter.id}\t{received.image_id}\n"
    statuses = [(await client.get(path))[0]]
    async with asyncio.timeout(PATIENCE_S):
        while statuses[-1] != 200:
            statuses.append((await client.get(path))[0])
    assert set(statuses) <= {202, 200}
    assert await open_letters(log) == []
    await objects.close()
    await log.close()
