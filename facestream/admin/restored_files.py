"""Puts the files of a backup in place of those of an installation.

They are first prepared beside the old ones. Then a mark is set, and each old file is replaced; while the mark is there,
no command opens the data folder. A restore that is killed before the mark is set leaves the old files. After that, the
next restore goes on with replacing them.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from backends.files.kept import keep_deleted
from backends.files.objects import sync_folder
from backends.files.paths import files_below
from backends.sqlite.snapshots import make_single_file
from facestream.admin.backup import BackupHead, backup_files, copy_objects, count_files, disk_error
from facestream.admin.embedded_files import EmbeddedFiles, embedded_files
from facestream.config import Settings
from facestream.progress import progress_bar
from facestream.runtime.data_folder import UNFINISHED_RESTORE
from schemas.errors import ConfigurationError

STAGED = ".restored"
MOVING = ".restoring"


def staged_files(target: EmbeddedFiles) -> EmbeddedFiles:
    """Where the new files are prepared: on the disks of the old ones, in places that the object store does not list.
    The folder of the objects keeps its name, which is the name of the bucket.
    """
    return EmbeddedFiles(
        log=target.log.with_name(target.log.name + STAGED),
        vectors=target.vectors.with_name(target.vectors.name + STAGED),
        objects=target.objects / STAGED / target.objects.name,
    )


def stage(source: Path, head: BackupHead, target: EmbeddedFiles) -> None:
    """Copies the files of a backup beside those of the target. Raises ConfigurationError if some are missing or have
    another size than they had, StorageFull.
    """
    folder, staged = source / head.folder, staged_files(target)
    copies = backup_files(folder)
    try:
        if count_files(folder) != (head.objects, head.size):
            raise ConfigurationError(f"{source} is not complete: files are missing, or have another size than they had")
        _remove_staged(target)
        for path in (staged.log, staged.vectors):
            path.parent.mkdir(parents=True, exist_ok=True)
        staged.objects.mkdir(parents=True)
        shutil.copyfile(copies.log, staged.log)
        shutil.copyfile(copies.vectors, staged.vectors)
        with progress_bar("objects", head.objects) as advance:
            copy_objects(copies.objects, staged.objects, advance)
        if sum(1 for _ in files_below(staged.objects)) != head.objects:
            raise ConfigurationError(f"{source} was changed while it was restored: try again")
    except OSError as error:
        raise disk_error(f"restoring {source} failed", error) from None


def discard_staged(settings: Settings) -> None:
    """Deletes what a restore has left that was killed before it replaced anything: erased people may be in it. The data
    folder must be locked.
    """
    with suppress(ConfigurationError):  # a restore is only of embedded stores
        target = embedded_files(settings)
        if not (settings.data / UNFINISHED_RESTORE).exists():
            _remove_staged(target)


def replace(data: Path, target: EmbeddedFiles) -> None:
    """Replaces the files of the target by the staged ones."""
    staged = staged_files(target)
    make_single_file(staged.log)
    make_single_file(staged.vectors)
    os.sync()
    with keep_deleted(target.objects):  # no backup begins meanwhile
        (data / UNFINISHED_RESTORE).touch()
        sync_folder(data)
        _replace_marked(data, target)


def go_on_replacing(data: Path, target: EmbeddedFiles) -> None:
    """Does what is left to do since the mark was set."""
    with keep_deleted(target.objects):
        _replace_marked(data, target)


def _replace_marked(data: Path, target: EmbeddedFiles) -> None:
    staged = staged_files(target)
    _replace_database(staged.log, target.log)
    _replace_database(staged.vectors, target.vectors)
    _replace_objects(staged.objects, target.objects)
    os.sync()
    (data / UNFINISHED_RESTORE).unlink()
    _remove_staged(target)


def _replace_database(staged: Path, target: Path) -> None:
    if staged.exists():
        for ending in ("-wal", "-shm"):  # of the old file: SQLite would apply them to the new one
            target.with_name(target.name + ending).unlink(missing_ok=True)
        staged.replace(target)


def _replace_objects(staged: Path, target: Path) -> None:
    moving = target / MOVING
    if staged.exists():
        for child in _children(target):
            _remove(child)
        staged.rename(moving)  # from here on, what is in the target is new
    if moving.exists():
        for child in _children(moving):
            child.rename(target / child.name)
        shutil.rmtree(moving)


def _remove_staged(target: EmbeddedFiles) -> None:
    staged = staged_files(target)
    for path in (staged.log, staged.vectors):
        for ending in ("", "-wal", "-shm", "-journal"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        shutil.rmtree(staged.objects.parent)


def _children(folder: Path) -> list[Path]:
    """Without the store's own files."""
    return [it for it in folder.iterdir() if not it.name.startswith(".")]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
