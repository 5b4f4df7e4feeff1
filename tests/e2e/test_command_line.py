"""`facestream learn` and `recognize` as processes, with a running service and without one."""

import fcntl
import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from PIL import Image

from bench.serving import Serving
from facestream.cli import main
from tests.conftest import ROOT

COMMAND = [sys.executable, "-m", "facestream.cli"]


def environment(data: Path, **settings: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FACESTREAM_")}
    return inherited | {"FACESTREAM_DATA": str(data), "PYTHONPATH": str(ROOT)} | settings


def facestream(data: Path, *arguments: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, env=environment(data, **settings), capture_output=True, text=True, timeout=120)


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def on_terminal(data: Path, *arguments: str | Path) -> tuple[int, str]:
    """The exit code, and the output on a terminal of 120 columns, without colours."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], env=environment(data, COLUMNS="120", TERM="xterm"), stdout=slave, stderr=slave
    )
    os.close(slave)
    seen = b""
    try:
        while chunk := os.read(master, 65_536):
            seen += chunk
    except OSError:  # the other end is closed
        pass
    os.close(master)
    return process.wait(), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())


def test_learn_and_recognize_with_a_service(serving: Serving, photos: Path, tmp_path: Path) -> None:
    """The command finds the address of the service in the lock of the data folder."""
    learned = facestream(serving.data, "learn", photos / "obama.jpg", "--person", "Obama é", "--directory", "cli")
    assert (learned.returncode, learned.stderr) == (0, "")
    assert [it["persons"][0]["id"] for it in lines(learned)] == ["Obama é"]

    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    sent = [
        photos / "obama2.jpg",
        tmp_path / "none.jpg",
        photos / "biden.jpg",
        tmp_path,
        tmp_path / "empty.jpg",
        tmp_path / "text.jpg",
    ]
    seen = facestream(
        serving.data,
        "recognize",
        *sent,
        photos / "obama.jpg",
        "--directory",
        "cli",
        "--draw",
        tmp_path / "drawn",
        "--top",
        "1",
    )
    assert seen.returncode == 1
    answers = lines(seen)
    assert [it["photo"] for it in answers] == [*map(str, sent), str(photos / "obama.jpg")]
    assert [it["persons"][0]["id"] if "persons" in it else it["error"]["code"] for it in answers] == [
        "Obama é",
        "unreadable_photo",
        None,
        "unreadable_photo",
        "unreadable_photo",
        "not_an_image",
        "Obama é",
    ]
    assert [line.split(": ")[1] for line in seen.stderr.splitlines()] == [str(sent[i]) for i in (1, 3, 4, 5)]
    assert sorted(it.name for it in (tmp_path / "drawn").iterdir()) == ["biden.jpg", "obama.jpg", "obama2.jpg"]
    x1, y1, _, y2 = answers[0]["persons"][0]["box"]
    with Image.open(photos / "obama2.jpg") as before, Image.open(tmp_path / "drawn" / "obama2.jpg") as after:
        assert before.size == after.size
        red, green, _ = after.convert("RGB").getpixel((x1 + 1, (y1 + y2) // 2))  # type: ignore[misc]  # RGB: three numbers
        assert green > red + 50  # a name's box is green


def test_a_table_on_a_terminal_and_progress_of_many(
    serving: Serving, photos: Path, two_people: bytes, tmp_path: Path
) -> None:
    both = tmp_path / "both.jpg"
    both.write_bytes(two_people)
    code, seen = on_terminal(serving.data, "learn", both, "--person", "Joe", "--directory", "cli-table")
    assert code == 1
    assert re.search(r"both\.jpg: 2 faces .*here --face \d+,\d+ or --face \d+,\d+", seen)
    point = re.findall(r"--face (\d+,\d+)", seen)[-1]
    code, seen = on_terminal(
        serving.data, "learn", both, "--person", "Joe", "--directory", "cli-table", "--face", point
    )
    assert (code, seen.split()[:5]) == (0, ["photo", "face", "id", "box", "reason"])
    assert "learned" in seen
    code, seen = on_terminal(serving.data, "recognize", *[both] * 6, "--directory", "cli-table")
    assert code == 0
    assert seen.count("probability") == 1
    assert len(re.findall(r"both\.jpg +\d +Joe +100% +[01]\.\d{4} +\d+,\d+,\d+,\d+", seen)) == 6
    assert len(re.findall(r"both\.jpg +\d +\? +\d+% +0\.\d{4} +\d+,\d+,\d+,\d+ +below-threshold", seen)) == 6
    assert re.search(r"recognize .*5/6", seen)
    code, seen = on_terminal(serving.data, "recognize", both, "--directory", "cli-table", "--json")
    assert code == 0
    assert json.loads(seen)["photo"] == str(both)


@pytest.fixture
def own_logging() -> Iterator[None]:
    """`main` binds the logs to the current stderr; other tests must not inherit that."""
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("own_logging")
def test_a_wrong_command_line_ends_with_2(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = str(photos / "obama.jpg")
    monkeypatch.setenv("FACESTREAM_URL", "http://127.0.0.1:9")
    for arguments, words in (
        (["--top", "11"], "--top"),
        (["--directory", "a\nb"], "--directory"),
        (["--draw", str(tmp_path / "a.txt")], "suffix"),
        (["--draw", photo], "would replace"),
        (["--url", "localhost"], "no URL"),
    ):
        assert main(["recognize", photo, "--directory", "a", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert words in err
    assert main(["learn", photo, photo, "--person", "p", "--directory", "a", "--face", "1,2"]) == 2
    with pytest.raises(SystemExit, match="2"):
        main(["recognize", photo])
    assert main(["recognize", photo, "--directory", "a"]) == 1  # nothing listens at that address
    assert "facestream up" in capsys.readouterr().err


def test_the_client_does_not_load_torch(serving: Serving, photos: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from facestream.cli import main; code = main(); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    arguments = [
        "recognize",
        str(photos / "obama.jpg"),
        "--directory",
        "cli-none",
        "--draw",
        str(tmp_path / "drawn.png"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment(tmp_path / "data", FACESTREAM_URL=serving.url),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert lines(done)[0]["persons"][0]["reason"] == "empty-directory"
    assert not (tmp_path / "data").exists()


def test_a_closed_pipe_ends_it_quietly(serving: Serving, photos: Path) -> None:
    command = [*COMMAND, "recognize", *[str(photos / "none.jpg")] * 2, "--directory", "cli"]
    process = subprocess.Popen(command, env=environment(serving.data), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1


def test_without_a_service_commands_run_one_after_the_other(tmp_path: Path, weights_folder: Path, photos: Path) -> None:
    """The second waits until the first has ended. The owner of the data folder needs no key, although one exists."""
    data = tmp_path / "data"
    assert facestream(data, "keys", "create", "--scope", "recognize", "--directory", "elsewhere").returncode == 0
    settings = environment(data, FACESTREAM_WEIGHTS=str(weights_folder), FACESTREAM_LISTEN="0.0.0.0:80")

    def start(*arguments: str | Path) -> subprocess.Popen[str]:
        command = [*COMMAND, *map(str, arguments), "--directory", "acme"]
        return subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    learning = start("learn", photos / "obama.jpg", "--person", "obama")
    while not is_held(data / "facestream.lock"):
        assert learning.poll() is None
        time.sleep(0.05)
    recognizing = start("recognize", photos / "obama2.jpg")
    for process in (learning, recognizing):
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
        assert json.loads(out)["persons"][0]["id"] == "obama"
    assert not is_held(data / "facestream.lock")


def is_held(lock: Path) -> bool:
    try:
        with open(lock, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def test_without_weights_the_message_says_what_to_do(tmp_path: Path, photos: Path) -> None:
    done = facestream(tmp_path / "data", "recognize", photos / "obama.jpg", "--directory", "a")
    assert done.returncode == 1
    assert "facestream weights get" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["learn", "recognize"])
def test_help_shows_an_example(tmp_path: Path, command: str) -> None:
    done = facestream(tmp_path, command, "--help")
    assert done.returncode == 0
    assert f"facestream {command} " in done.stdout.partition("options:")[0].partition("\n\n")[2]
