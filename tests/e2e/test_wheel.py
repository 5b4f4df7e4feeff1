"""The wheel, installed in a separate environment, serves from an empty folder."""

import os
import signal
import site
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wheels import build_wheel, packages

START_S, STOP_S = 120.0, 60.0


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel. It sees the libraries of the environment that runs the tests, but not the
    project itself: a folder that a .pth file names is searched, and .pth files in that folder are not.
    """
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build_wheel(folder)
    environment = folder / "environment"
    venv.create(environment)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(environment),
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    [packages_folder] = environment.glob("lib/python*/site-packages")
    libraries = [path for path in (*site.getsitepackages(), *sys.path) if path.endswith("-packages")]
    (packages_folder / "libraries.pth").write_text("\n".join(dict.fromkeys(libraries)))
    return environment


@pytest.fixture
def variables() -> dict[str, str]:
    """The environment variables, without those that would lead to the sources or to other settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("FACESTREAM_", "PYTHON"))}


@pytest.fixture
def url(
    environment: Path, variables: dict[str, str], weights_folder: Path, tmp_path: Path
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    command = [str(environment / "bin" / "facestream"), "up", "--listen", address]
    command += ["--weights", str(weights_folder.absolute())]
    process = subprocess.Popen(command, cwd=tmp_path, env=variables, stderr=subprocess.PIPE)
    yield f"http://{address}", process
    process.kill()
    process.communicate()


def test_all_packages_come_from_the_wheel(environment: Path, variables: dict[str, str], tmp_path: Path) -> None:
    script = "import importlib, sys; print(*(importlib.import_module(name).__file__ for name in sys.argv[1:]))"
    command = [str(environment / "bin" / "python"), "-c", script, *packages()]
    ran = subprocess.run(command, cwd=tmp_path, env=variables, check=True, capture_output=True, text=True)
    files = [Path(file) for file in ran.stdout.split()]
    assert len(files) == len(packages())
    assert all(file.is_relative_to(environment) for file in files)


def test_it_serves_from_an_empty_folder_and_stops(url: tuple[str, subprocess.Popen[bytes]], tmp_path: Path) -> None:
    address, process = url
    deadline = time.monotonic() + START_S
    while not is_ready(address):
        assert process.poll() is None, process.communicate()[1].decode()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
    process.send_signal(signal.SIGTERM)
    assert process.wait(STOP_S) == 0


def is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
