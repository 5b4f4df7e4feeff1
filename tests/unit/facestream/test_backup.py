"""The folder of a backup, and what an interrupted backup or restore leaves."""

import asyncio
import io
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import pytest
import structlog

from backends.files.kept import keep_deleted
from backends.sqlite.snapshots import snapshot
from backends.vectors import StoredAnswer
from facestream.admin import backup, restore
from facestream.cli import main
from facestream.runtime.data_folder import UNFINISHED_RESTORE
from facestream.runtime.member import member_name
from stream.erase.erasures import identity_record
from tests.keyboard import Keyboard
from tests.unit.facestream.installation import Installation, pictures

CAPTURED = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(tmp_path / "data")
    asyncio.run(installation.learn("ann"))
    yield installation
    structlog.reset_defaults()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return tmp_path / "backups" / "saved"


def run(here: Installation, *command: str | Path) -> int:
    return main([*map(str, command), "--data", str(here.data)])


def content(folder: Path) -> dict[str, bytes]:
    return {str(it.relative_to(folder)): it.read_bytes() for it in folder.rglob("*") if it.is_file()}


def test_a_backup_can_be_read_by_its_owner_only(here: Installation, saved: Path) -> None:
    assert run(here, "backup", saved) == 0
    assert saved.stat().st_mode & 0o77 == 0


def test_the_snapshots_are_of_one_moment(here: Installation, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer carries an offset of the log. If the vector store had an answer that the log does not have, the offset
    would be given to another record.
    """
    locked: list[bool] = []

    def looking(path: Path, versions: Sequence[str]) -> AbstractContextManager[sqlite3.Connection]:
        with closing(sqlite3.connect(here.data / "log.db", timeout=0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                locked.append((here.data / "objects" / ".kept").exists())
        return snapshot(path, versions)

    monkeypatch.setattr(backup, "snapshot", looking)
    assert run(here, "backup", saved) == 0
    assert locked == [True, True]


def test_the_times_of_objects_are_kept(here: Installation, saved: Path) -> None:
    """Housekeeping goes by them."""
    [original] = (here.data / "objects" / "originals").iterdir()
    os.utime(original, (1_000_000, 1_000_000))
    assert run(here, "backup", saved) == 0
    assert run(here, "restore", "--yes", saved) == 0
    assert original.stat().st_mtime == 1_000_000


def test_an_earlier_backup_is_replaced_once_the_new_one_is_complete(
    here: Installation, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(here, "backup", saved) == 0
    before = content(saved)
    asyncio.run(here.learn("ben"))

    def disk_full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(backup, "copy_objects", disk_full)
        assert run(here, "backup", saved) == 1
    assert content(saved) == before
    assert run(here, "backup", saved) == 0
    assert len(list(saved.iterdir())) == 2
    assert run(here, "restore", "--yes", saved) == 0
    assert asyncio.run(here.people()) == {"ann", "ben"}


def test_a_folder_with_other_files_is_refused(here: Installation, tmp_path: Path, capsys: CAPTURED) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    (tmp_path / "file").touch()
    for folder, said in (
        (tmp_path / "mine", r"thesis.txt"),
        (tmp_path / "file", "name a new folder"),
        (here.data / "objects" / "backup", "among the objects"),
    ):
        before = content(folder)
        assert run(here, "backup", folder) == 2
        assert said in capsys.readouterr().err
        assert content(folder) == before
    (tmp_path / "empty").mkdir()
    assert run(here, "backup", tmp_path / "empty") == 0


def test_what_is_not_embedded_or_not_there_is_refused(
    here: Installation, saved: Path, tmp_path: Path, capsys: CAPTURED
) -> None:
    for setting, url in (("--log", "kafka://host"), ("--objects", "s3://host/b"), ("--vectors", "cassandra://host/k")):
        for command in ("backup", "restore"):
            assert main([command, str(saved), setting, url, "--data", str(here.data)]) == 2
            assert "docs/operations.md" in capsys.readouterr().err
    assert main(["backup", str(saved), "--data", str(tmp_path / "nothing")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert not saved.exists()


def test_two_backups_do_not_run_at_once(here: Installation, saved: Path, capsys: CAPTURED) -> None:
    with keep_deleted(here.data / "objects"):
        assert run(here, "backup", saved) == 2
        assert "another backup is running" in capsys.readouterr().err
    assert run(here, "backup", saved) == 0


def without_head(saved: Path) -> None:
    (saved / "backup.json").unlink()


def of_newer_version(saved: Path) -> None:
    head = json.loads((saved / "backup.json").read_text())
    (saved / "backup.json").write_text(json.dumps(head | {"format": 2}))


def cut_off(saved: Path) -> None:
    (saved / "backup.json").write_text((saved / "backup.json").read_text()[:40])


def without_an_object(saved: Path) -> None:
    next(saved.rglob("*@")).unlink()


def with_a_short_database(saved: Path) -> None:
    [path] = saved.glob("*/vectors.db")
    os.truncate(path, path.stat().st_size - 4096)


def without_a_database(saved: Path) -> None:
    [path] = saved.glob("*/log.db")
    path.unlink()


DAMAGE: dict[Callable[[Path], None], str] = {
    shutil.rmtree: "is no backup",
    without_head: "is no backup",
    of_newer_version: "newer version",
    cut_off: "is damaged",
    without_an_object: "is not complete",
    with_a_short_database: "is not complete",
    without_a_database: "is not complete",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda it: it.__name__)
def test_a_backup_that_is_not_whole_is_refused(
    here: Installation, saved: Path, capsys: CAPTURED, damage: Callable[[Path], None]
) -> None:
    assert run(here, "backup", saved) == 0
    damage(saved)
    asyncio.run(here.learn("ben"))
    assert run(here, "restore", "--yes", saved) == 2
    assert DAMAGE[damage] in capsys.readouterr().err
    assert asyncio.run(here.people()) == {"ann", "ben"}
    assert run(here, "restore", "--yes", here.data) == 2


@pytest.mark.parametrize(("answer", "code", "people"), [("y\n", 0, {"ann"}), ("\n", 1, {"ann", "ben"})])
def test_an_installation_is_replaced_only_after_the_user_has_confirmed(
    here: Installation, saved: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, people: set[str]
) -> None:
    assert run(here, "backup", saved) == 0
    asyncio.run(here.learn("ben"))
    monkeypatch.setattr(sys, "stdin", Keyboard(answer))
    assert run(here, "restore", saved) == code
    assert asyncio.run(here.people()) == people


def test_without_a_terminal_replacing_an_installation_requires_the_flag_yes(
    here: Installation, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: CAPTURED
) -> None:
    assert run(here, "backup", saved) == 0
    asyncio.run(here.learn("ben"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert run(here, "restore", saved) == 2
    assert "--yes" in capsys.readouterr().err
    assert asyncio.run(here.people()) == {"ann", "ben"}
    assert run(Installation(tmp_path / "new"), "restore", saved) == 0  # nothing is replaced


def test_a_backup_is_written_and_restored_by_one_command_at_a_time(
    here: Installation, saved: Path, capsys: CAPTURED
) -> None:
    assert run(here, "backup", saved) == 0
    before = content(saved)
    with backup.locked(saved):
        for command in (("backup",), ("restore", "--yes")):
            assert run(here, *command, saved) == 2
            assert "is being written or restored" in capsys.readouterr().err
    with keep_deleted(here.data / "objects"):
        for command in (("backup",), ("restore", "--yes")):
            assert run(here, *command, saved) == 2
            assert "backup" in capsys.readouterr().err
    assert content(saved) == before


def test_an_installation_of_another_user_is_refused(
    here: Installation, saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: CAPTURED
) -> None:
    """Their service could not use the files that this user makes."""
    assert run(here, "backup", saved) == 0
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    for command in (("backup",), ("restore", "--yes")):
        assert run(here, *command, saved) == 2
        assert f"belongs to the user with number {os.getuid()}" in capsys.readouterr().err


def test_an_installation_in_which_only_the_http_service_is_left_is_not_replaced(
    here: Installation, saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: CAPTURED
) -> None:
    """It is in no consumer group."""
    monkeypatch.setattr(restore, "LEASE_S", 0.0)
    assert run(here, "backup", saved) == 0
    with member_name(here.data, "ingest"):
        assert run(here, "restore", "--yes", saved) == 2
    assert "ingest-0 is using" in capsys.readouterr().err
    assert run(here, "restore", "--yes", saved) == 0


class Killed(BaseException):
    """The process ends here."""


CHANGES = ("rename", "replace", "unlink", "rmdir")


class KilledAtChange:
    """Ends a restore before the change to a file with this number, counted from when the old files are replaced."""

    def __init__(self, patch: pytest.MonkeyPatch, data: Path, number: int) -> None:
        self._mark, self._left = data / UNFINISHED_RESTORE, number
        for name in CHANGES:
            patch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            if self._mark.exists():
                if not self._left:
                    raise Killed
                self._left -= 1
            return change(*arguments, **named)

        return counted


async def copy_in_use(here: Installation, to: Path) -> None:
    """Copies the data folder as a service that was killed leaves it."""
    async with here.opened() as (stores, _):
        await stores.log.append([identity_record()])
        await stores.vectors.put_answers([StoredAnswer("an answer", "{}", 0.0)])
        shutil.copytree(here.data, to)


def test_a_restore_that_is_killed_while_it_replaces_files_is_completed_by_the_next_one(
    here: Installation, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: CAPTURED
) -> None:
    assert run(here, "backup", saved) == 0
    asyncio.run(here.erase("ann"))
    asyncio.run(here.learn("ben"))
    asyncio.run(copy_in_use(here, tmp_path / "before"))
    assert (tmp_path / "before" / "log.db-wal").stat().st_size > 0
    monkeypatch.setattr(os, "sync", lambda: None)
    for number in range(1_000):
        shutil.rmtree(here.data)
        shutil.copytree(tmp_path / "before", here.data)
        with monkeypatch.context() as patch:
            KilledAtChange(patch, here.data, number)
            try:
                assert run(here, "restore", "--yes", saved) == 0
                break
            except Killed:
                pass
        if number == 0:
            for command in (["init"], ["up"], ["keys", "list"], ["backup", tmp_path / "other"]):
                capsys.readouterr()
                assert run(here, *command) == 2
                assert "run `facestream restore` again" in capsys.readouterr().err
        assert run(here, "restore", "--yes", saved) == 0
        assert asyncio.run(is_as_backed_up(here))
    assert number > 5
    assert asyncio.run(is_as_backed_up(here))


async def is_as_backed_up(here: Installation) -> bool:
    """Whether the backup is restored, without ann, and without the WAL of the former files."""
    async with here.opened() as (stores, _):
        former = await stores.vectors.answer("an answer")
    for name in ("log.db", "vectors.db"):
        with closing(sqlite3.connect(here.data / name)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return former is None and not await here.people() and not await here.objects()


def test_a_restore_that_is_killed_before_that_leaves_the_old_installation(
    here: Installation, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: Any) -> None:
        raise Killed

    assert run(here, "backup", saved) == 0
    asyncio.run(here.learn("ben"))
    with monkeypatch.context() as patch:
        patch.setattr(restore, "replace", killed)
        with pytest.raises(Killed):
            run(here, "restore", "--yes", saved)
    assert asyncio.run(here.people()) == {"ann", "ben"}
    assert asyncio.run(here.objects()) == pictures("ann", "ben")
    assert run(here, "restore", "--yes", saved) == 0
    assert asyncio.run(here.people()) == {"ann"}
    assert [it.name for it in here.data.rglob("*restor*")] == []
