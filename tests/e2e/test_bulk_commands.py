"""`facestream learn` and `recognize` with a folder, as processes: interrupted and continued, with and without a
service.
"""

import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from backends.open import open_log
from bench.serving import Serving
from bench.speed.bulk import number_jpeg
from facestream.client.bulk.uploads import UPLOADS
from stream.topics import IMAGES_RECEIVED, IMAGES_RECEIVED_BULK
from tests.e2e.conftest import Client
from tests.e2e.test_command_line import COMMAND, environment, facestream, lines, on_terminal

PICTURES = 12


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has its own journals."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def people(tmp_path: Path, small_photos: Path) -> Path:
    """A folder with a folder for each of two people: different picture files of each, and two files that fail."""
    folder = tmp_path / "people"
    for person in ("obama", "biden"):
        (folder / person).mkdir(parents=True)
        for i in range(PICTURES // 2):
            (folder / person / f"{i:02}.jpg").write_bytes(number_jpeg((small_photos / f"{person}.jpg").read_bytes(), i))
    (folder / "biden" / "empty.jpg").touch()
    (folder / "biden" / "text.jpg").write_text("no picture")
    return folder


def start(data: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.Popen(command, env=environment(data), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def cut_off(process: subprocess.Popen[str], service: Serving, with_signal: signal.Signals) -> tuple[int, str]:
    """Ends the process after it has printed some answers. Returns its exit code and output.

    Meanwhile the service is stopped (SIGSTOP), so that the process cannot get all its answers before the signal.
    """
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline()
    service.process.send_signal(signal.SIGSTOP)
    try:
        process.send_signal(with_signal)
        _, said = process.communicate(timeout=60)
    finally:
        service.process.send_signal(signal.SIGCONT)
    return process.returncode, said


async def count(data: Path, topic: str) -> int:
    log = open_log(f"sqlite:///{data / 'log.db'}")
    try:
        return sum((await log.end_offsets(topic)).values())
    finally:
        await log.close()


def failures(folder: Path) -> list[tuple[str, str]]:
    return [
        (str(folder / "biden" / "empty.jpg"), "unreadable_photo"),
        (str(folder / "biden" / "text.jpg"), "not_an_image"),
    ]


async def test_a_killed_run_goes_on_and_learns_each_picture_once(
    serving: Serving, client: Client, people: Path, tmp_path: Path
) -> None:
    before = await count(serving.data, IMAGES_RECEIVED_BULK), await count(serving.data, IMAGES_RECEIVED)
    command = "learn", people, "--directory", "bulk-learn", "--report", tmp_path / "failed.jsonl"
    code, _ = cut_off(start(serving.data, *command), serving, signal.SIGKILL)
    assert code == -signal.SIGKILL
    done = facestream(serving.data, *command)
    assert done.returncode == 1
    answers = {it["photo"]: it for it in lines(done)}
    assert len(answers) == len(lines(done)) == PICTURES + 2
    good = [it for it in answers.values() if "persons" in it]
    assert Counter(it["persons"][0]["id"] for it in good) == {"obama": PICTURES // 2, "biden": PICTURES // 2}
    assert f"{PICTURES} learned, 2 failed" in done.stderr
    assert "were done before" in done.stderr
    report = [json.loads(line) for line in (tmp_path / "failed.jsonl").read_text().splitlines()]
    assert sorted((it["photo"], it["error"]["code"]) for it in report) == failures(people)
    _, listed, _ = await client.get("/directories/bulk-learn/persons")
    assert listed["persons"] == [{"id": "biden", "faces": PICTURES // 2}, {"id": "obama", "faces": PICTURES // 2}]
    # Uploads that were under way at the kill may have been sent twice, with one effect. Nothing else was.
    bulk = await count(serving.data, IMAGES_RECEIVED_BULK) - before[0]
    assert PICTURES <= bulk <= PICTURES + UPLOADS
    assert await count(serving.data, IMAGES_RECEIVED) == before[1]

    again = facestream(serving.data, *command)
    assert {it["photo"]: it for it in lines(again)}.keys() == answers.keys()
    assert await count(serving.data, IMAGES_RECEIVED_BULK) - before[0] == bulk


async def test_without_a_service_a_killed_run_continues_at_the_next_start(
    tmp_path: Path, weights_folder: Path, people: Path
) -> None:
    data = tmp_path / "data"
    command = "learn", people, "--directory", "acme", "--weights", weights_folder
    with start(data, *command) as killed:
        assert killed.stdout is not None
        for _ in range(3):
            assert killed.stdout.readline()
        killed.kill()
    done = facestream(data, *command)
    assert done.returncode == 1
    assert f"{PICTURES} learned, 2 failed" in done.stderr
    assert len({it["photo"] for it in lines(done)}) == len(lines(done)) == PICTURES + 2
    assert PICTURES <= await count(data, IMAGES_RECEIVED_BULK) <= PICTURES + UPLOADS


def test_ctrl_c_says_how_to_go_on(serving: Serving, people: Path) -> None:
    """One picture is a pipe that nothing is written to, so that the run cannot end before Ctrl-C."""
    command = "recognize", people, "--directory", "bulk-none"
    code, said = cut_off(start(serving.data, *command), serving, signal.SIGINT)
    assert code == 130
    assert "left" in said
    assert "Traceback" not in said
    done = facestream(serving.data, *command)
    assert len(lines(done)) == PICTURES + 2
    assert f"{PICTURES} pictures, {PICTURES} faces, 0 with a name, 2 failed" in done.stderr


def test_another_run_recognizes_anew(serving: Serving, small_photos: Path, people: Path) -> None:
    """Answers depend on who was learned: only an interrupted run continues with earlier answers."""
    (people / "biden" / "empty.jpg").unlink()
    (people / "biden" / "text.jpg").unlink()
    command = "recognize", people, "--directory", "bulk-anew"
    first = facestream(serving.data, *command)
    assert first.returncode == 0
    assert {it["persons"][0]["id"] for it in lines(first)} == {None}
    facestream(serving.data, "learn", small_photos / "obama2.jpg", "--person", "obama", "--directory", "bulk-anew")
    second = facestream(serving.data, *command)
    assert Counter(it["persons"][0]["id"] for it in lines(second)) == {"obama": PICTURES // 2, None: PICTURES // 2}


async def test_failed_pictures_of_a_table_are_tried_again_with_another_face_option(
    serving: Serving, client: Client, people: Path, two_people: bytes, tmp_path: Path
) -> None:
    """Failed pictures are tried again with another --face."""
    (people / "both.jpg").write_bytes(two_people)
    (people / "table.csv").write_text("person,file\nobama,obama/01.jpg\nJosé,both.jpg\nJosé,none.jpg\n")
    command = "learn", people / "table.csv", "--directory", "bulk-table"
    done = facestream(serving.data, *command)
    assert done.returncode == 1
    assert sorted(it["error"]["code"] for it in lines(done) if "error" in it) == ["not_one_face", "unreadable_photo"]
    done = facestream(serving.data, *command, "--face", "largest")
    assert "2 learned, 1 failed" in done.stderr
    _, listed, _ = await client.get("/directories/bulk-table/persons")
    assert [it["id"] for it in listed["persons"]] == ["José", "obama"]


def test_on_a_terminal_there_is_a_bar_and_a_line_a_picture(serving: Serving, small_photos: Path, people: Path) -> None:
    facestream(serving.data, "learn", small_photos / "obama2.jpg", "--person", "O'Bama", "--directory", "bulk-bar")
    code, seen = on_terminal(serving.data, "recognize", people, "--directory", "bulk-bar")
    assert code == 1
    assert "people/obama/01.jpg: O'Bama 1" in seen.replace("\r\n", "")
    assert "people/biden/01.jpg: ?" in seen.replace("\r\n", "")
    assert f"/{PICTURES + 2}" in seen
    code, seen = on_terminal(serving.data, "learn", people, "--directory", "bulk-bar")
    assert code == 1
    assert f"{PICTURES} learned, 2 failed" in seen


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["learn", "{people}", "--face", "1,2"], "--face 1,2"),
        (["learn", "{people}/obama"], "in no person's folder"),
        (["learn", "{people}/obama/01.jpg"], "--person"),
        (["learn", "{people}/obama/01.jpg", "--person", "o", "--again"], "--again"),
        (["recognize", "{people}/obama/01.jpg", "--report", "r"], "--report"),
        (["recognize", "{people}", "--draw", "d"], "--draw"),
        (["recognize", "{people}", "--report", "{people}/obama/01.jpg/r"], "--report"),
    ],
)
def test_a_wrong_command_line(tmp_path: Path, people: Path, arguments: list[str], words: str) -> None:
    given = [it.replace("{people}", str(people)) for it in arguments]
    done = facestream(tmp_path / "data", *given, "--directory", "acme", FACESTREAM_URL="http://127.0.0.1:9")
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_only_the_user_can_read_the_journal(serving: Serving, state: Path, people: Path) -> None:
    facestream(serving.data, "learn", people, "--directory", "bulk-state")
    journal = next((state / "facestream" / "bulk").iterdir())
    assert os.stat(journal).st_mode & 0o777 == 0o600
    assert os.stat(journal.parent).st_mode & 0o777 == 0o700
