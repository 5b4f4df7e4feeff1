"""A log or an output that cannot be written neither ends nor blocks a service or a command."""

import asyncio
import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from bench.cluster import unique
from bench.serving import Serving, free_port

PATIENCE_S = 60.0
SMALLEST_PIPE = 4096
LINES = 20_000
LOGGED_REQUESTS = 50
PROGRAM = f"""
import structlog
from facestream.logs import flush_log, log_to_stderr
log_to_stderr()
for number in range({LINES}):
    structlog.get_logger().info("counted", number=number)
print("goes on", flush=True)
input()
flush_log()
structlog.get_logger().info("last")
flush_log()
"""


def closed_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def full_pipe() -> int:
    """Its reading end stays open as long as this process lives, and nobody reads."""
    _, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
    os.write(writing, bytes(SMALLEST_PIPE))
    return writing


@pytest.fixture(params=[closed_pipe, full_disk, full_pipe], ids=lambda it: it.__name__)
def unwritable(request: pytest.FixtureRequest) -> Iterator[int]:
    make: Callable[[], int] = request.param
    descriptor = make()
    yield descriptor
    os.close(descriptor)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "facestream.cli", *arguments]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder that `facestream init` has made."""
    subprocess.run(command("init", "--data", str(tmp_path / "data")), check=True, stderr=subprocess.DEVNULL)
    return tmp_path / "data"


async def test_a_service_whose_log_cannot_be_written_works_and_stops(data: Path, unwritable: int) -> None:
    address = f"127.0.0.1:{free_port()}"
    url = f"http://{address}"
    serve = command("ingest", "--data", str(data), "--listen", address)
    with subprocess.Popen(serve, stderr=unwritable) as service:  # noqa: ASYNC220 - it starts at once
        async with aiohttp.ClientSession() as session, asyncio.timeout(PATIENCE_S):
            while True:
                with suppress(aiohttp.ClientConnectionError):
                    async with session.get(f"{url}/readyz") as response:
                        if response.status == 200:
                            break
                assert service.poll() is None
                await asyncio.sleep(0.05)
            for _ in range(LOGGED_REQUESTS):
                form = aiohttp.FormData({"directory": "d"})
                form.add_field("file", io.BytesIO(b"\xff\xd8\xff"), filename="photo.jpg")
                headers = {"Prefer": "respond-async"}
                async with session.post(f"{url}/recognize", data=form, headers=headers) as response:
                    assert response.status == 202
        service.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(service.wait, PATIENCE_S) == 0


def test_lines_that_nobody_reads_are_dropped_and_counted() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        assert program.stdin is not None
        assert program.stdout.readline() == b"goes on\n"
        program.stdin.write(b"\n")
        program.stdin.flush()
        lines = [json.loads(line) for line in program.stderr]
    numbers = [line["number"] for line in lines if line["event"] == "counted"]
    dropped = sum(line["lines"] for line in lines if line["event"] == "lines of this log could not be written")
    assert dropped > 0
    assert len(numbers) + dropped == LINES
    assert numbers == sorted(numbers)
    assert lines[-1]["event"] == "last"


@pytest.mark.parametrize("full", [True, False], ids=["a full disk", "a closed pipe"])
def test_a_command_whose_output_cannot_be_written_ends_without_a_traceback(tmp_path: Path, *, full: bool) -> None:
    output = full_disk() if full else closed_pipe()
    done = subprocess.run(
        command("keys", "create", "--scope", "admin", "--data", str(tmp_path)), stdout=output, stderr=subprocess.PIPE
    )
    os.close(output)
    assert done.returncode == 1
    expected = b"facestream: no space is left for the output: free some, and try again\n" if full else b""
    assert done.stderr == expected


def test_a_watch_whose_reader_goes_away_ends_without_a_message(serving: Serving, photos: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures" / unique("d") / "recognize"
    pictures.mkdir(parents=True)
    shutil.copy(photos / "obama.jpg", pictures)
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path), "FACESTREAM_URL": serving.url}
    output = closed_pipe()
    watch = subprocess.run(
        command("watch", str(tmp_path / "pictures")),
        stdout=output,
        stderr=subprocess.PIPE,
        env=environment,
        timeout=PATIENCE_S,
    )
    os.close(output)
    assert watch.returncode == 1
    assert watch.stderr.decode() == f"facestream: watching {tmp_path / 'pictures'}, until Ctrl-C\n"
