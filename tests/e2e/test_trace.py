"""`facestream trace` shows the records of one image in all topics."""

import json
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

from bench.serving import Serving
from tests.conftest import ROOT
from tests.e2e.conftest import Client

STEP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00  +[+-][\d,]+ ms  (\S+) (\d+)/(\d+) +(\S.*)$")


def trace(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FACESTREAM_")}
    environment |= {"FACESTREAM_DATA": str(data)}
    command = [sys.executable, "-m", "facestream.cli", "trace", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def steps(data: Path, image_id: str) -> list[tuple[str, str]]:
    """The topics that have a record of an image, and the text of each."""
    done = trace(data, image_id)
    assert (done.returncode, done.stderr) == (0, "")
    found = [STEP.match(line) for line in done.stdout.splitlines()]
    return [(it[1], it[4]) for it in found if it is not None]


async def test_trace_shows_the_records_of_learned_recognized_and_refused_images(
    serving: Serving, client: Client, small_photos: Path
) -> None:
    async def sent(path: str, name: str, **fields: str) -> str:
        _, body, _ = await client.post(path, small_photos / name, **fields)
        image_id: str = body["image_id"]
        return image_id

    learned = await sent("/learn", "obama.jpg", person="obama", directory="trace é")
    assert steps(serving.data, learned) == [
        ("images.received", f"accepted to learn, directory 'trace é', image/jpeg, originals/{learned}"),
        ("faces.embedded", "faces: 1"),
        ("faces.learned", "in the gallery"),
        ("results", "answered 201 OK"),
    ]
    listed = [json.loads(line) for line in trace(serving.data, learned, "--json").stdout.splitlines()]
    assert [(it["topic"], it["text"]) for it in listed] == steps(serving.data, learned)
    assert listed[0]["after_ms"] == 0
    recognized = await sent("/recognize", "obama2.jpg", directory="trace é")
    assert steps(serving.data, recognized) == [
        ("images.received", f"accepted to recognize, directory 'trace é', image/jpeg, probes/{recognized}"),
        ("faces.embedded", "faces: 1"),
        ("results", "answered 200 OK"),
    ]
    refused = (await client.post("/detect", b"\xff\xd8\xff\xe0 no picture"))[1]["image_id"]
    assert steps(serving.data, refused) == [
        ("images.received", f"accepted to detect, image/jpeg, probes/{refused}"),
        ("results", "answered 422 unreadable_image"),
    ]


def test_an_unknown_image_is_said(serving: Serving) -> None:
    image_id = str(uuid.uuid4())
    done = trace(serving.data, image_id)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"no topic knows {image_id}" in done.stderr


def test_trace_refuses_an_invalid_image_id(tmp_path: Path) -> None:
    done = trace(tmp_path / "data", "obama.jpg")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'obama.jpg' is no image_id" in done.stderr
    assert not (tmp_path / "data").exists()
