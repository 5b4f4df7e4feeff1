"""A service whose log or vectors are damaged ends at once."""

from pathlib import Path

import pytest

from tests.e2e.test_erase import facestream


@pytest.mark.parametrize("name", ["log.db", "vectors.db"])
def test_a_service_does_not_wait_for_a_damaged_file(tmp_path: Path, name: str) -> None:
    data = tmp_path / "data"
    assert facestream(data, "init").returncode == 0
    (data / name).write_bytes(b"not a database\n" * 1_000)
    for command in (("up", "--listen", "127.0.0.1:0"), ("init",)):
        done = facestream(data, *command)
        assert done.returncode == 1
        assert done.stderr.startswith(f"facestream: {data / name} is damaged")
