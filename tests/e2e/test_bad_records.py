"""Records that cannot be processed become dead letters, and the service continues; `facestream dead-letters`."""

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

from backends.log import NewRecord
from backends.sqlite.log import SqliteLog
from bench.serving import Serving
from stream.topics import IMAGES_RECEIVED, IMAGES_RECEIVED_BULK
from tests.conftest import ROOT
from tests.e2e.conftest import PATIENCE_S, Client
from tests.records import image_received


def dead_letters(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FACESTREAM_")}
    environment |= {"FACESTREAM_DATA": str(data)}
    command = [sys.executable, "-m", "facestream.cli", "dead-letters", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


async def listed(data: Path, *arguments: str) -> list[dict[str, object]]:
    done = await asyncio.to_thread(dead_letters, data, "list", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_invalid_records_of_other_producers_become_dead_letters_and_the_service_continues(
    serving: Serving, client: Client, small_photos: Path
) -> None:
    gone = image_received(uuid.uuid4(), directory="dead")
    image_id = gone.image_id
    later = json.loads(gone.encode()) | {"version": 2}
    half_pair = {"source": {"bucket": "photos", "key": "a.jpg"}, "filename": "\ud800"}
    attributes = {"specversion": "1.0", "type": "facestream.image.detect", "source": "/cms", "id": "1"}
    hostile = {
        "json": b"{",
        "tombstone": None,
        "version": json.dumps(later).encode(),
        "member": b'{"version": 1}',
        "text": json.dumps(attributes | {"data": half_pair}).encode(),
    }
    log = SqliteLog(serving.data / "log.db")
    for topic in IMAGES_RECEIVED, IMAGES_RECEIVED_BULK:
        await log.append([NewRecord(topic, f"{topic} {name}", value, image_id) for name, value in hostile.items()])
    await log.append([NewRecord(IMAGES_RECEIVED, image_id, gone.encode())])  # behind them, in the same partition
    await log.close()

    deadline = time.monotonic() + PATIENCE_S
    while (answer := await client.get(f"/results/{image_id}"))[0] in (202, 404):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    assert (answer[0], answer[1]["code"]) == (422, "object_missing")
    assert (await client.post("/detect", small_photos / "obama.jpg"))[0] == 200

    keys = {f"{topic} {name}" for topic in (IMAGES_RECEIVED, IMAGES_RECEIVED_BULK) for name in hostile}
    letters: list[dict[str, object]] = []
    while {it["image_id"] for it in letters} != keys:
        assert time.monotonic() < deadline
        letters = await listed(serving.data, "--code", "unreadable_record")
    reasons = {str(it["image_id"]).split()[1]: str(it["reason"]) for it in letters}
    assert "version" in reasons["version"]
    assert "image_id" in reasons["member"]
    assert len({(it["topic"], it["offset"]) for it in letters}) == len(keys)

    retried = dead_letters(serving.data, "retry", "--all")
    assert (retried.returncode, retried.stdout) == (1, "")
    assert f"0 retried, 0 dropped, {len(keys)} left" in retried.stderr
    dropped = dead_letters(serving.data, "drop", "--all", "--yes")
    assert (dropped.returncode, len(dropped.stdout.splitlines())) == (0, len(keys))
    assert await listed(serving.data) == []
