"""Files that are deleted while a backup is running, kept for it.

A backup copies the files one after the other, and needs all that were there when it began. So whoever deletes one
meanwhile first links it into a folder, from which the backup takes it. The backup holds the folder's lock. If it is
killed, the lock becomes free, and whoever deletes next removes the folder.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from schemas.errors import ConfigurationError

FOLDER = ".kept"
ATTEMPTS, BETWEEN_S = 50, 0.01  # a process that removes the folder of a killed backup holds the lock for a moment


@contextmanager
def keep_deleted(root: Path) -> Iterator[Path]:
    """Has deleted files kept below the folder that it yields, under the same relative paths, until the block ends.
    Raises ConfigurationError while another backup is running.
    """
    folder = root / FOLDER
    descriptor = _lock(folder)
    try:
        yield folder
    finally:
        try:
            shutil.rmtree(folder, ignore_errors=True)  # a file may be added meanwhile: the next deletion removes it
        finally:
            os.close(descriptor)


def is_backup_running(root: Path) -> bool:
    """Whether deleted files have to be kept. Removes what a backup that was killed has left."""
    folder = root / FOLDER
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
                shutil.rmtree(folder, ignore_errors=True)
        return False
    finally:
        os.close(descriptor)


def keep(root: Path, path: Path) -> None:
    """Keeps a file that is about to be deleted, unless the backup has ended."""
    relative = path.relative_to(root)
    with suppress(FileNotFoundError, FileExistsError):
        for level in list(relative.parents)[-2::-1]:
            with suppress(FileExistsError):
                (root / FOLDER / level).mkdir()
        os.link(path, root / FOLDER / relative)


def _lock(folder: Path) -> int:
    for _ in range(ATTEMPTS):
        folder.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
                    return descriptor
            except (BlockingIOError, FileNotFoundError):
                pass
            os.close(descriptor)
        time.sleep(BETWEEN_S)
    raise ConfigurationError(f"another backup of {folder.parent} is running: wait until it has ended")
