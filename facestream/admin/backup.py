"""The folder of a backup, and how it is written.

    backup.json             BackupHead: that the backup is complete, and which of the folders beside it has its files
    facestream-files-…      a folder with:
        log.db              the log at the moment of the backup
        vectors.db          the vector store at the same moment
        objects/            the objects of that moment, and some that were stored later

backup.json is written last, and replaced in one step. A backup that was interrupted has none, or still the one of the
backup before. Why this order: docs/decisions/backup-order.md.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from backends.files.kept import is_backup_running, keep_deleted
from backends.files.objects import sync_folder
from backends.files.paths import files_below
from backends.log import Record
from backends.sqlite.log_schema import VERSIONS as LOG_VERSIONS
from backends.sqlite.snapshots import read_records, size_of, snapshot, write_copy, write_lock
from backends.sqlite.vectors import VERSIONS as VECTORS_VERSIONS
from facestream.admin.embedded_files import EmbeddedFiles
from facestream.progress import Progress, progress_bar
from schemas.errors import ConfigurationError, StorageFull
from stream.erase.erasures import IDENTITY_KEY
from stream.topics import ERASURES

HEAD = "backup.json"
PREFIX = "facestream-files-"
FORMAT: Final = 1


class ErasureRecord(BaseModel):
    """A record of `erasures`."""

    model_config = ConfigDict(frozen=True)

    offset: int
    key: str
    value: str


class BackupHead(BaseModel):
    """`folder` has the files: `objects` of them are objects, and all together have `size` bytes. `erasures` are those
    that came between the moment of the backup and its end, and the id of the log. `facestream` is the version that
    wrote it.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = FORMAT
    facestream: str
    began_at: datetime
    folder: str
    objects: int
    size: int
    erasures: list[ErasureRecord]

    def records(self) -> list[Record]:
        return [Record(ERASURES, 0, it.offset, 0, it.key, it.value.encode()) for it in self.erasures]


def backup_files(folder: Path) -> EmbeddedFiles:
    return EmbeddedFiles(folder / "log.db", folder / "vectors.db", folder / "objects")


def read_backup(folder: Path) -> BackupHead:
    """Raises ConfigurationError for a folder that is no complete backup."""
    try:
        text = (folder / HEAD).read_bytes()
    except FileNotFoundError:
        raise ConfigurationError(
            f"{folder} is no backup: it has no {HEAD}, which `facestream backup` writes once everything is there"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be read: {error.strerror}") from None
    try:
        return BackupHead.model_validate_json(text)
    except ValidationError as error:
        [first, *_] = error.errors(include_url=False)
        if first["loc"] == ("format",) and isinstance(first["input"], int) and first["input"] > FORMAT:
            raise ConfigurationError(
                f"{folder} was written by a newer version of facestream: update facestream to restore it"
            ) from None
        raise ConfigurationError(f"{folder / HEAD} is damaged: {first['loc']}: {first['msg']}") from None


def write_backup(source: EmbeddedFiles, to: Path) -> BackupHead:
    """Writes a backup of stores that may be in use. One that is there already is replaced when the new one is complete.
    Raises ConfigurationError, Unavailable, StorageFull.
    """
    for path in (source.log, source.vectors, source.objects):
        if not path.exists():
            raise ConfigurationError(f"{path} does not exist: name the data folder with --data")
    require_owner(source)
    _require_destination(to, source)
    if is_backup_running(source.objects):
        raise ConfigurationError("another backup is running: wait until it has ended")
    try:
        to.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(to):
            former = to / read_backup(to).folder if (to / HEAD).exists() else None
            for left_over in to.glob(f"{PREFIX}*"):
                if left_over != former:
                    shutil.rmtree(left_over)
            folder = Path(mkdtemp(prefix=PREFIX, dir=to))
            try:
                head = _write_files(source, folder)
                _complete(to, folder, head)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            if former is not None:
                shutil.rmtree(former)
    except OSError as error:
        raise disk_error(f"the backup to {to} failed", error) from None
    return head


def require_owner(files: EmbeddedFiles) -> None:
    """Raises ConfigurationError for another user than that of the service, who could not use the files of this one."""
    owner = files.objects.stat().st_uid
    if owner != os.geteuid():
        raise ConfigurationError(f"{files.objects} belongs to the user with number {owner}: run this as that user")


def disk_error(what: str, error: OSError) -> StorageFull | ConfigurationError:
    """The error for files that could not be read or written."""
    kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else ConfigurationError
    return kind(f"{what}: {error.filename or 'the disk'}: {error.strerror}")


def copy_objects(root: Path, to: Path, advance: Progress) -> None:
    """Copies the files of an object store that may be in use, with their times, unless they are there already."""
    for path in files_below(root):
        target = to / path.relative_to(root)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copy2(path, target)
            except FileNotFoundError:  # deleted meanwhile: it is kept elsewhere
                target.unlink(missing_ok=True)
            advance(1)


def count_files(folder: Path) -> tuple[int, int]:
    """The number of objects in the files of a backup, and the bytes of all files."""
    files = backup_files(folder)
    objects = [path.stat().st_size for path in files_below(files.objects)]
    return len(objects), sum(objects) + sum(it.stat().st_size for it in (files.log, files.vectors) if it.exists())


def _require_destination(to: Path, source: EmbeddedFiles) -> None:
    if to.resolve().is_relative_to(source.objects.resolve()):
        raise ConfigurationError(f"{to} is among the objects: a backup belongs elsewhere, best on another disk")
    try:
        others = [it for it in to.iterdir() if it.name != HEAD and not it.name.startswith(PREFIX)]
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigurationError(f"{to} cannot be used: {error.strerror}: name a new folder") from None
    if others:
        raise ConfigurationError(
            f"{to} has other files ({others[0].name}): name a new folder, or an earlier backup, which is replaced"
        )


def _write_files(source: EmbeddedFiles, folder: Path) -> BackupHead:
    to = backup_files(folder)
    with ExitStack() as stack, ExitStack() as snapshots:
        with write_lock(source.log):
            began_at = datetime.now(UTC)
            kept = stack.enter_context(keep_deleted(source.objects))
            log = snapshots.enter_context(snapshot(source.log, LOG_VERSIONS))
            vectors = snapshots.enter_context(snapshot(source.vectors, VECTORS_VERSIONS))
        with progress_bar("log and vectors", size_of(log) + size_of(vectors), unit="bytes") as advance:
            write_copy(log, to.log, advance)
            write_copy(vectors, to.vectors, advance)
        snapshots.close()
        to.objects.mkdir()
        with progress_bar("objects", sum(1 for _ in files_below(source.objects))) as advance:
            copy_objects(source.objects, to.objects, advance)
            copy_objects(kept, to.objects, advance)
    last = max((it.offset for it in read_records(to.log, ERASURES)), default=-1)
    later = [it for it in read_records(source.log, ERASURES) if it.offset > last or it.key == IDENTITY_KEY]
    objects, size = count_files(folder)
    return BackupHead(
        facestream=version("facestream"),
        began_at=began_at,
        folder=folder.name,
        objects=objects,
        size=size,
        erasures=[ErasureRecord(offset=it.offset, key=it.key, value=(it.value or b"").decode()) for it in later],
    )


def _complete(to: Path, folder: Path, head: BackupHead) -> None:
    """Makes these files the backup, in place of the former ones."""
    (folder / HEAD).write_text(head.model_dump_json(indent=1))
    os.sync()  # one call for all files: syncing a million of them one by one takes hours
    (folder / HEAD).replace(to / HEAD)
    sync_folder(to)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else writes or restores this backup. Raises ConfigurationError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(f"{folder} is being written or restored: wait until that has ended") from None
        yield
    finally:
        os.close(descriptor)
