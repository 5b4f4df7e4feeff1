"""The version of a SQLite file: an older file gets what it lacks, a newer one is refused."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import structlog

from backends.log import NewRecord, TopicSpec
from backends.sqlite.connect import connect
from backends.sqlite.log import SqliteLog
from backends.sqlite.log_schema import VERSIONS as LOG_VERSIONS
from backends.sqlite.vectors import VERSIONS as VECTORS_VERSIONS
from backends.sqlite.vectors import SqliteVectors
from facestream.cli import main
from schemas.errors import ConfigurationError

FIRST = "CREATE TABLE faces (name TEXT);  -- a; comment\nCREATE TABLE others (name TEXT);\n"
SECOND = """
ALTER TABLE faces ADD COLUMN age INTEGER;
CREATE TRIGGER added AFTER INSERT ON faces BEGIN
    INSERT INTO others (name) VALUES (new.name);
END;
"""
BROKEN = "ALTER TABLE faces ADD COLUMN side INTEGER;\nALTER TABLE missing ADD COLUMN side INTEGER;\n"
VERSIONS = {"log.db": len(LOG_VERSIONS), "vectors.db": len(VECTORS_VERSIONS)}


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def set_version(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")


def test_a_file_gets_each_version_once(tmp_path: Path) -> None:
    path = tmp_path / "file.db"
    connect(path, [FIRST]).close()
    assert version_of(path) == 1
    for _ in range(2):  # a column can be added only once
        connect(path, [FIRST, SECOND]).close()
        assert version_of(path) == 2
    with closing(connect(path, [FIRST, SECOND])) as connection:
        connection.execute("INSERT INTO faces (name, age) VALUES ('ann', 3)")
        assert connection.execute("SELECT name FROM others").fetchall() == [("ann",)]


def test_a_version_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file.db"
    connect(path, [FIRST]).close()
    with pytest.raises(sqlite3.OperationalError):
        connect(path, [FIRST, BROKEN])
    assert version_of(path) == 1
    connect(path, [FIRST, SECOND, BROKEN.splitlines()[0]]).close()


def test_a_newer_file_is_refused_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "file.db"
    connect(path, [FIRST, SECOND]).close()
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="newer version"):
        connect(path, [FIRST])
    assert path.read_bytes() == before


def test_files_without_a_version_get_one_and_keep_their_data(tmp_path: Path) -> None:
    async def write_and_read() -> int:
        log, vectors = SqliteLog(tmp_path / "log.db"), SqliteVectors(tmp_path / "vectors.db")
        await log.create_topics([TopicSpec("topic", 1)])
        await log.append([NewRecord("topic", "key", b"value")])
        await vectors.ping()
        end = (await log.end_offsets("topic"))[0]
        await log.close()
        await vectors.close()
        return end

    assert asyncio.run(write_and_read()) == 1
    for name in VERSIONS:  # as 0.1.0 has left them
        assert version_of(tmp_path / name) == VERSIONS[name]
        set_version(tmp_path / name, 0)
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        connection.execute("ALTER TABLE records DROP COLUMN headers")
    assert asyncio.run(write_and_read()) == 2
    assert {name: version_of(tmp_path / name) for name in VERSIONS} == VERSIONS


@pytest.fixture
def default_logs() -> Iterator[None]:
    yield
    structlog.reset_defaults()  # `main` sends the logs to the stderr of the moment


@pytest.mark.usefixtures("default_logs")
@pytest.mark.parametrize("name", ["log.db", "vectors.db"])
def test_commands_refuse_a_data_folder_of_a_newer_version(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--key", "--data", str(tmp_path)]) == 0
    set_version(tmp_path / name, 99)
    for command in (["sink"], ["up", "--listen", "127.0.0.1:0"]):
        capsys.readouterr()
        assert main([*command, "--data", str(tmp_path)]) == 2, command
        assert f"{name} was written by a newer version of facestream" in capsys.readouterr().err
