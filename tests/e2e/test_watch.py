"""`facestream watch` as a process: pictures in the folder are learned and recognized once, and Ctrl-C ends it
cleanly.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.serving import Serving
from tests.e2e.test_command_line import COMMAND, environment


@contextmanager
def watching(data: Path, folder: Path, state: Path) -> Iterator[subprocess.Popen[str]]:
    """Yields a process that watches the folder; Ctrl-C ends it."""
    process = subprocess.Popen(
        [*COMMAND, "watch", str(folder)],
        env=environment(data, XDG_STATE_HOME=str(state)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "")
        assert "Traceback" not in said
    finally:
        process.kill()
        process.wait()


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line: dict[str, Any] = json.loads(process.stdout.readline())
    return line


def put(photo: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(photo, place)


@pytest.mark.timeout(120)
def test_pictures_in_a_watched_folder_are_learned_and_recognized(
    serving: Serving, tmp_path: Path, small_photos: Path
) -> None:
    folder, state = tmp_path / "folder", tmp_path / "state"
    portrait, seen = (
        folder / "wätch" / "learn" / "Ann Lee" / "2026" / "1.jpg",
        folder / "wätch" / "recognize" / "seen.jpg",
    )
    put(small_photos / "obama.jpg", portrait)
    with watching(serving.data, folder, state) as process:
        learned = answer(process)
        assert (learned["photo"], learned["person"], learned["directory"]) == (str(portrait), "Ann Lee", "wätch")
        put(small_photos / "obama.jpg", folder / "wätch" / "elsewhere" / "1.jpg")
        put(small_photos / "obama.jpg", folder / "wätch" / "recognize" / ".hidden.jpg")
        (seen.parent / "empty.jpg").touch()
        put(small_photos / "obama2.jpg", seen)
        recognized = answer(process)
        assert (recognized["photo"], recognized["persons"][0]["id"]) == (str(seen), "Ann Lee")
        put(small_photos / "biden.jpg", seen)
        assert answer(process)["persons"][0]["id"] is None
        (seen.parent / "text.jpg").write_text("no picture")
        refused = answer(process)
        assert (refused["photo"], refused["error"]["code"]) == (str(seen.parent / "text.jpg"), "not_an_image")
    with watching(serving.data, folder, state) as process:  # goes on with what is new
        os.utime(portrait)
        assert answer(process)["image_id"] == learned["image_id"]
        put(small_photos / "obama3.jpg", seen.parent / "later.jpg")
        assert answer(process)["photo"] == str(seen.parent / "later.jpg")
