"""Disk space that is kept for erasing. Erasing frees space on a full disk, but has to append its command first."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from schemas.errors import StorageFull

# Erasing writes some kB for each image, and deletes its files before it goes on to the next images.
RESERVE_BYTES = 16 << 20
# With less free space than this beside the reserve, nothing new is accepted, so that what was accepted can be finished.
LEAST_FREE_BYTES = 2 << 20
STEP_BYTES = 1 << 20
LOOK_EVERY_S = 1.0


class DiskReserve:
    """A file that takes up space in `folder`, and is deleted while something is erased on a full disk. Where there is
    little free space, it takes half of it. A reserve without a folder does nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._erasing = 0
        self._full = False

    async def run(self) -> None:
        """Makes the file, and makes it again after it was deleted, until it is cancelled."""
        while self._folder is not None:
            if not self._erasing:
                self._full = await asyncio.to_thread(_restore, self._folder)
            await asyncio.sleep(LOOK_EVERY_S)

    def check(self) -> None:
        """Raises StorageFull if there is hardly any space beside the reserve."""
        if self._full:
            raise StorageFull(f"no room left in {self._folder}: erase something, or free some space on its disk")

    @asynccontextmanager
    async def released(self) -> AsyncIterator[None]:
        """A context in which something is erased. If there is little other space, it has that of the reserve."""
        self._erasing += 1
        try:
            if self._folder is not None and await asyncio.to_thread(_release, self._folder):
                self._full = True  # until the next look: the space is not for new images
            yield
        finally:
            self._erasing -= 1


def _file(folder: Path) -> Path:
    return folder / "reserve"


def _free(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def _restore(folder: Path) -> bool:
    """Gives the file the size that it should have. Returns whether there is hardly any space beside it."""
    with suppress(OSError):  # the disk has just become full
        file = os.open(_file(folder), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(file).st_size
            wanted = min(RESERVE_BYTES, (size + _free(folder)) // 2)
            if wanted >= size + STEP_BYTES:
                os.posix_fallocate(file, 0, wanted)
        finally:
            os.close(file)
    with suppress(OSError):
        return _free(folder) < LEAST_FREE_BYTES
    return False


def _release(folder: Path) -> bool:
    """Deletes the file if there is little other space. Returns whether it did."""
    with suppress(OSError):
        if _free(folder) < RESERVE_BYTES:
            _file(folder).unlink()
            return True
    return False
