"""The progress of long work: lines on a pipe, a bar on a terminal."""

import os
import pty
import subprocess
import sys

import pytest

from facestream import progress
from facestream.progress import progress_bar


@pytest.mark.parametrize(
    ("between_s", "always", "said"),
    [
        (0.0, True, ["3 of 8", "8 of 8"]),
        (0.0, False, ["3 of 8", "8 of 8"]),
        (60.0, True, ["8 of 8"]),
        (60.0, False, []),
    ],
    ids=["long", "long, not always", "short", "short, not always"],
)
def test_lines_are_printed_now_and_then_and_at_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, between_s: float, always: bool, said: list[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", between_s)
    with progress_bar("crops", 8, always=always) as advance:
        advance(3)
        advance(5)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.partition(",")[0] for line in err.splitlines()] == [f"crops: {it}" for it in said]


def test_a_download_on_a_pipe_prints_its_size_first(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("faces 1.0", 100_000_000, unit="bytes") as advance:
        for _ in range(4):
            advance(25_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("faces 1.0: 0.0 of 100.0 MB")
    assert lines[1].startswith("faces 1.0: 100.0 of 100.0 MB")


PROGRAM = """
import time
from facestream.progress import progress_bar
with progress_bar("faces 1.0", 100_000_000, unit="bytes") as advance:
    for _ in range(8):
        advance(10_000_000)
        time.sleep(0.2)
"""


def test_a_download_on_a_terminal_shows_done_total_rate_and_time_left() -> None:
    master, slave = pty.openpty()
    environment = os.environ | {"COLUMNS": "120", "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stdout=slave, stderr=slave)
    os.close(slave)
    seen = b""
    try:
        while chunk := os.read(master, 65_536):
            seen += chunk
    except OSError:  # the other end is closed
        pass
    os.close(master)
    assert process.wait() == 0
    text = seen.decode()
    assert "faces 1.0" in text
    for word in ("80.0/100.0 MB", "MB/s", "0:00:0"):
        assert word in text, text
