"""The lock on the data folder, among processes that hold it and are killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from facestream.runtime import data_folder
from facestream.runtime.data_folder import LOCK, data_folder_lock, serving_url
from schemas.errors import ConfigurationError

ROOT = Path(__file__).parents[3]
URL = "http://127.0.0.1:8080"
HOLD = """
import sys
from pathlib import Path
from facestream.runtime.data_folder import data_folder_lock
with data_folder_lock(Path(sys.argv[1])) as announce:
    announce(sys.argv[2])
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_folder, "LOCK_WAIT_S", 0.1)


def test_the_holder_of_the_lock_announces_its_address(tmp_path: Path) -> None:
    assert serving_url(tmp_path) is None
    with data_folder_lock(tmp_path) as announce:
        assert serving_url(tmp_path) == ""
        announce("http://127.0.0.1:65535/a-longer-address")
        announce(URL)
        assert serving_url(tmp_path) == URL
    assert serving_url(tmp_path) is None


def test_the_folder_is_made(tmp_path: Path) -> None:
    with data_folder_lock(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / LOCK).is_file()


def test_a_second_process_is_refused_with_the_address_of_the_first(tmp_path: Path) -> None:
    with data_folder_lock(tmp_path) as announce:
        announce(URL)
        with pytest.raises(ConfigurationError, match=URL), data_folder_lock(tmp_path):
            pass
        assert serving_url(tmp_path) == URL
    with data_folder_lock(tmp_path):
        pass


def test_a_failure_gives_the_lock_back(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), data_folder_lock(tmp_path):
        _ = 1 / 0
    assert serving_url(tmp_path) is None
    with data_folder_lock(tmp_path):
        assert serving_url(tmp_path) == ""


def test_a_folder_that_cannot_be_used_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be used"), data_folder_lock(tmp_path / "file" / "data"):
        pass


def test_the_lock_of_a_killed_process_is_released(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), URL], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        assert serving_url(tmp_path) == URL
        with pytest.raises(ConfigurationError, match=URL), data_folder_lock(tmp_path):
            pass
        process.kill()
    assert serving_url(tmp_path) is None
    with data_folder_lock(tmp_path):
        assert serving_url(tmp_path) == ""
