"""Runs every shell command of the README, in order, and compares the JSON in it with the answers of the service."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.serving import Serving
from scripts.photos import PHOTOS
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(sh|json)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, weights_folder: Path, photos: Path) -> list[tuple[str, str]]:
    """Each command with its output."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "photos").symlink_to(photos)
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    (folder / "data").mkdir()
    (folder / "data" / "weights").symlink_to(weights_folder.absolute())
    printed = []
    with Serving(folder / "data", weights_folder, dtype="bfloat16") as serving:  # as the README's answers were made
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FACESTREAM_")}
        environment["XDG_STATE_HOME"] = str(folder / "state")
        key: list[str] = []
        for command in COMMANDS:
            done = command.replace("http://127.0.0.1:8080", serving.url)
            if key:  # once a key exists every request needs one
                done = done.replace("curl ", f"curl -H 'x-api-key: {key[0]}' ")
            ran = subprocess.run(
                ["bash", "-ec", done], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
            )
            assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
            printed.append((command, ran.stdout))
            if "keys create" in command:
                key.append(ran.stdout.strip())
    assert shutil.which("curl")
    return printed


def answer_to(answers: list[tuple[str, str]], part: str, nth: int = 0) -> dict[str, Any]:
    body: dict[str, Any] = json.loads([output for command, output in answers if part in command][nth])
    return body


def shape(value: Any) -> Any:
    """The names of the members of a JSON value, with the types of their values."""
    if isinstance(value, dict):
        return {name: shape(member) for name, member in value.items()}
    if isinstance(value, list):
        return [shape(member) for member in value[:1]]
    return type(value).__name__


def test_the_first_commands_answer_what_the_readme_shows(answers: list[tuple[str, str]]) -> None:
    shown = [json.loads(text) for kind, text in BLOCKS if kind == "json"]
    learned, recognized = answer_to(answers, "/learn"), answer_to(answers, "/recognize")
    assert [shape(body) for body in shown] == [shape(learned), shape(recognized)]
    for body, example in ((learned, shown[0]), (recognized, shown[1])):
        person, expected = body["persons"][0], example["persons"][0]
        assert person["id"] == expected["id"]
        assert person["box"] == pytest.approx(expected["box"], abs=3)
        assert person["score"] == pytest.approx(expected["score"], abs=0.001)
    for number in ("similarity", "threshold"):
        assert recognized["persons"][0][number] == pytest.approx(shown[1]["persons"][0][number], abs=0.003)
    stranger = answer_to(answers, "/recognize", 1)["persons"][0]
    assert (stranger["id"], stranger["reason"]) == (None, "below-threshold")


def test_the_other_commands_do_what_the_readme_says(answers: list[tuple[str, str]]) -> None:
    lines = [
        json.loads(line)
        for command, output in answers
        if "facestream recognize" in command
        for line in output.splitlines()
    ]
    assert [line["persons"][0]["id"] for line in lines] == ["obama", "biden"]
    assert answer_to(answers, "/directories/demo/persons")["persons"] == [
        {"id": "biden", "faces": 1},
        {"id": "obama", "faces": 2},
    ]
    assert "landmarks" in answer_to(answers, "/detect")["persons"][0]
    assert answer_to(answers, "respond-async")["status"] == "working"
    assert answer_to(answers, "Idempotency-Key")["persons"][0]["id"] == "obama"
    named = next(output for command, output in answers if command.startswith("grep")).split()
    assert (
        {"photos/obama.jpg", "photos/obama2.jpg"}
        <= set(named)
        <= {f"photos/{name}" for name in PHOTOS if name != "biden.jpg"}
    )
    erased = [answer_to(answers, "-X DELETE", nth)["erased"] for nth in range(2)]
    assert erased == [{"faces": 1, "images": 1}, {"faces": 0, "images": 0}]
    verified = next(output for command, output in answers if "erase verify" in command)
    assert {f"{store}: nothing left" for store in ("vectors", "answers", "objects")} <= set(verified.splitlines())
    models = [output for command, output in answers if "facestream models" in command]
    assert "dlib-resnet29-mirror" in models[0]
    listed = next(output for command, output in answers if "keys list" in command)
    assert "learn\tdemo" in listed


def test_the_settings_of_the_readme_are_those_of_the_program() -> None:
    from facestream.config import Settings

    named = set(re.findall(r"FACESTREAM_([A-Z_]+)", README))
    passwords = {f"{store}_PASSWORD" for store in ("LOG", "OBJECTS", "VECTORS")}  # backends/urls.py
    assert named <= {name.upper() for name in Settings.model_fields} | {"NAME", "URL", "KEY"} | passwords


def test_the_errors_of_the_readme_are_all_that_a_client_can_get() -> None:
    from schemas import errors

    table = README[README.index("| status | code |") :].split("\n\n")[0]
    named = set(re.findall(r"`([a-z_]+)`", table))
    codes = {it.code for it in vars(errors).values() if isinstance(it, type) and issubclass(it, errors.FacestreamError)}
    inside = {
        "internal_error",
        "unreadable_record",
        "offset_gone",
        "fenced",
        "topic_mismatch",
        "weights_invalid",
        "configuration_error",
    }
    assert named == codes - inside
