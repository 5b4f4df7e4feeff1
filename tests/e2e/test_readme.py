"""Runs README.md, docs/http.md and docs/operations.md: every `sh` block, in order, against one service. Every `json`
block must have the shape of the output of the command before it.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bench.serving import Serving
from scripts.photos import PHOTOS
from tests.documents import GUIDE, Block, blocks

BLOCKS = [block for document in GUIDE for block in blocks(document)]
LONGEST_S = 900.0  # a replay gives way to everything else, and takes long on a busy machine
pytestmark = pytest.mark.timeout(1800)


@dataclass(frozen=True, slots=True)
class Ran:
    """A command of a block, and what it printed on its standard output."""

    block: Block
    command: str
    printed: str

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.printed)
        return body


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, weights_folder: Path, photos: Path) -> list[Ran]:
    """Every command of the documents, in order."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "photos").symlink_to(photos)
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    (folder / "data").mkdir()
    (folder / "data" / "weights").symlink_to(weights_folder.absolute())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FACESTREAM_")}
    environment["XDG_STATE_HOME"] = str(folder / "state")
    done: list[Ran] = []
    key = ""
    # The numbers that the documents show were made in float32: bfloat16 gives others on other processors, and takes
    # seconds an image on those that emulate it.
    with Serving(folder / "data", weights_folder, dtype="float32") as serving:
        for block in (it for it in BLOCKS if it.kind == "sh"):
            for command in block.text.splitlines():
                here = command.replace("http://127.0.0.1:8080", serving.url)
                if key:  # once a key exists every request needs one
                    here = here.replace("curl ", f"curl -H 'x-api-key: {key}' ")
                process = subprocess.run(
                    ["bash", "-ec", here],
                    cwd=folder,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=LONGEST_S,
                )
                assert process.returncode == 0, f"{block}: {command}\n{process.stdout}\n{process.stderr}"
                done.append(Ran(block, command, process.stdout))
                if "keys create" in command:
                    key = process.stdout.strip()
    return done


def printed_by(ran: list[Ran], part: str) -> list[str]:
    """The outputs of the commands that contain this text, in order."""
    return [it.printed for it in ran if part in it.command]


def bodies(ran: list[Ran], part: str) -> list[dict[str, Any]]:
    """The bodies of the answers to requests that contain this text, in order."""
    return [it.body for it in ran if it.command.startswith("curl ") and part in it.command]


def shape(value: Any) -> Any:
    """The names of the members of a JSON value, with the types of their values."""
    if isinstance(value, dict):
        return {name: shape(member) for name, member in value.items()}
    if isinstance(value, list):
        return [shape(member) for member in value[:1]]
    return type(value).__name__


def test_every_json_block_has_the_shape_of_the_output(ran: list[Ran]) -> None:
    examples = 0
    for before, block in pairwise(BLOCKS):
        if block.kind == "json":
            assert before.kind == "sh", f"{block} does not follow a command"
            answered = [it for it in ran if it.block == before][-1].body
            assert shape(json.loads(block.text)) == shape(answered), block
            examples += 1
    assert examples == sum(block.kind == "json" for block in BLOCKS) > 0


def test_the_first_commands_answer_what_the_readme_shows(ran: list[Ran]) -> None:
    shown = [json.loads(block.text) for block in BLOCKS if block.document == "README.md" and block.kind == "json"]
    learned, recognized = bodies(ran, "/learn")[0], bodies(ran, "/recognize")[0]
    for body, example in zip((learned, recognized), shown, strict=True):
        person, expected = body["persons"][0], example["persons"][0]
        assert person["id"] == expected["id"]
        assert person["box"] == pytest.approx(expected["box"], abs=3)
        assert person["score"] == pytest.approx(expected["score"], abs=0.001)
    for number in ("similarity", "threshold"):
        assert recognized["persons"][0][number] == pytest.approx(shown[1]["persons"][0][number], abs=0.003)
    stranger = bodies(ran, "/recognize")[1]["persons"][0]
    assert (stranger["id"], stranger["reason"]) == (None, "below-threshold")


def test_the_commands_for_photos_and_folders_do_what_is_said(ran: list[Ran]) -> None:
    lines = [json.loads(line) for printed in printed_by(ran, "facestream recognize") for line in printed.splitlines()]
    assert [line["persons"][0]["id"] for line in lines] == ["obama", "biden"]
    [named] = printed_by(ran, 'grep \'"persons"')
    of_obama = {f"photos/{name}" for name in PHOTOS if name != "biden.jpg"}
    assert {"photos/obama.jpg", "photos/obama2.jpg"} <= set(named.split()) <= of_obama


def test_requests_are_answered_as_is_said(ran: list[Ran]) -> None:
    [persons] = [it.body for it in ran if it.command.endswith("/directories/demo/persons")]
    assert persons["persons"] == [{"id": "biden", "faces": 1}, {"id": "obama", "faces": 2}]
    assert "landmarks" in bodies(ran, "/detect")[0]["persons"][0]
    assert [it["status"] for it in bodies(ran, "respond-async")] == ["working", "working"]
    assert bodies(ran, "Idempotency-Key")[0]["persons"][0]["id"] == "obama"
    assert [it["erased"] for it in bodies(ran, "-X DELETE")] == [
        {"faces": 1, "images": 1},
        {"faces": 0, "images": 0},
    ]
    [refused] = [it.body for it in ran if "-F" in it.command and it.printed.startswith('{"type"')]
    assert refused["code"] == "missing_field"


def test_the_commands_for_operators_do_what_is_said(ran: list[Ran]) -> None:
    [verified] = printed_by(ran, "erase verify")
    assert {f"{store}: nothing left" for store in ("vectors", "answers", "objects")} <= set(verified.splitlines())
    assert "dlib-resnet29-mirror" in printed_by(ran, "facestream models")[0]
    [keys] = printed_by(ran, "keys list")
    assert re.search(r"\blearn\s+demo\b", keys)
    [traced] = printed_by(ran, "facestream trace")
    assert all(topic in traced for topic in ("images.received", "faces.embedded", "results"))
