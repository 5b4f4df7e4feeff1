"""Replaces an embedded installation by a backup: the new files are prepared beside the old ones, erasures are carried
out on them, and only then do they replace the old ones.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from backends.files.kept import is_backup_running
from backends.sqlite.snapshots import living_members, read_records
from facestream.admin.backup import HEAD, backup_files, locked, read_backup, require_owner
from facestream.admin.embedded_files import EmbeddedFiles, embedded_files
from facestream.admin.restored_erasures import OtherErasures, RestoredErasures, erase_commands
from facestream.admin.restored_files import go_on_replacing, replace, stage, staged_files
from facestream.config import Settings
from facestream.interrupt import run_interruptibly
from facestream.runtime.data_folder import UNFINISHED_RESTORE
from facestream.runtime.member import living_processes
from facestream.runtime.stores import create_stores, open_stores
from facestream.runtime.system_state import follow_state
from schemas.errors import ConfigurationError, StoreDamaged, Unavailable
from stream.topics import ERASURES, FACES_EMBEDDED

LEASE_S, LOOK_EVERY_S = 6.0, 0.5  # a role that was killed stays a member for 4 seconds


@dataclass(frozen=True, slots=True)
class Restored:
    """made_at: when the backup was made. erased: how many of its faces have been erased. had_log: whether the data
    folder had a log, which knows all erasures after the backup.
    """

    made_at: datetime
    erased: int
    had_log: bool


def restore_backup(settings: Settings, source: Path, elsewhere: Sequence[Path]) -> Restored:
    """Restores a backup. The data folder must be locked. elsewhere: backups, data folders and log files that know
    erasures. Raises ConfigurationError, StorageFull, Unavailable.
    """
    target = embedded_files(settings)
    read_backup(source)  # refuses what is none
    if source.resolve() in (settings.data.resolve(), *settings.data.resolve().parents):
        raise ConfigurationError(f"the data folder {settings.data} is in the backup {source}: name another with --data")
    if target.objects.exists():
        require_owner(target)
        if is_backup_running(target.objects):
            raise ConfigurationError(f"a backup of {target.log} is running: wait until it has ended")
    with locked(source):
        return _restore(settings, source, target, elsewhere)


def _restore(settings: Settings, source: Path, target: EmbeddedFiles, elsewhere: Sequence[Path]) -> Restored:
    head = read_backup(source)
    is_unfinished = (settings.data / UNFINISHED_RESTORE).exists()
    had_log = target.log.exists() and not is_unfinished
    if is_unfinished:
        go_on_replacing(settings.data, target)
    others = [OtherErasures(head.records()), *(it for path in elsewhere for it in _erasures_of(path))]
    if target.log.exists():
        with _reading(target.log):
            _require_unused(settings.data, target.log)
        others.append(_erasures_of_log(target.log))
    elif target.exist() and not elsewhere:
        raise ConfigurationError(
            f"{target.log} is missing, which knows who was erased after the backup: name the latest backup with"
            f" --erasures, which may be {source} itself; people who were erased after that one come back"
        )
    stage(source, head, target)
    staged = staged_files(target)
    erased = run_interruptibly(_erase(staged.settings(settings), staged.log, others))
    replace(settings.data, target)
    return Restored(head.began_at, erased, had_log)


async def _erase(staged: Settings, log_file: Path, others: list[OtherErasures]) -> int:
    async with open_stores(staged) as stores:
        await create_stores(stores, staged.keep_probes)  # as after an update: the backup may be of an older version
        async with follow_state(stores.log) as state:
            return await RestoredErasures(stores, state, log_file).carry_out(others)


def _erasures_of(path: Path) -> list[OtherErasures]:
    with _reading(path):
        if path.is_file():
            return [_erasures_of_log(path)]
        if (path / HEAD).exists():
            head = read_backup(path)
            return [_erasures_of_log(backup_files(path / head.folder).log), OtherErasures(head.records())]
        if (path / "log.db").exists():
            return [_erasures_of_log(path / "log.db")]
    raise ConfigurationError(f"--erasures: {path} is no backup, no data folder and no log.db")


def _erasures_of_log(path: Path) -> OtherErasures:
    with _reading(path):
        commands = erase_commands(read_records(path, FACES_EMBEDDED, group="sink"))
        return OtherErasures(list(read_records(path, ERASURES)), commands)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except StoreDamaged:
        raise ConfigurationError(
            f"{path} is damaged, so the erasures in it cannot be read: move the file away, and name the latest backup"
            " with --erasures"
        ) from None
    except Unavailable as error:
        raise ConfigurationError(f"the erasures in {path} cannot be read: {error.message}") from None
    except (OSError, sqlite3.OperationalError) as error:  # a file without the tables of a log
        raise ConfigurationError(
            f"the erasures in {path} cannot be read, it is no log of facestream: {error}"
        ) from None


def _require_unused(data: Path, log: Path) -> None:
    deadline = time.monotonic() + LEASE_S
    while members := [*living_members(log), *living_processes(data)]:
        if time.monotonic() > deadline:
            raise ConfigurationError(f"{', '.join(members)} is using {log}: stop it first")
        time.sleep(LOOK_EVERY_S)
