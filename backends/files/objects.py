"""The embedded object store: a file for each object, written to a temporary file and renamed into place.

A file is a line of JSON with the metadata, then the data. paths.py says which file a key has.
"""

import asyncio
import errno
import fcntl
import hashlib
import itertools
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog

from backends.files.kept import is_backup_running, keep
from backends.files.paths import files_below, folder_of, key_of, path_of
from backends.object_checks import LONGEST_KEY, check_fetched, check_key, check_metadata, check_text
from backends.objects import ObjectInfo, ObjectStore, StoredObject
from schemas.errors import ObjectMissing, StorageFull, Unavailable

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# Enough for the header of a file: metadata has 2 kB, and JSON may need six bytes for each.
HEADER_BYTES = 16 << 10
# More than there are cores, because an fsync waits for the disk and not for the processor.
THREADS = 8
LIST_BATCH = 1000
# An attempt fails only if a delete removes the empty folder at the same moment.
PUT_ATTEMPTS = 50
# Folders that are known to be durable. When there are more than this, all are forgotten, and each is synced once more.
KNOWN_FOLDERS = 100_000


class FileObjects(ObjectStore):
    """See ObjectStore. Any number of processes may use the folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._temporary = root / ".tmp"
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="objects")
        self._prepared = False
        self._preparing = threading.Lock()
        self._durable: set[Path] = set()
        self._numbers = itertools.count()
        self._closed = False

    def __repr__(self) -> str:
        return f"FileObjects({str(self._root)!r})"

    async def create(self) -> None:
        await self._run(self._prepare)

    async def put(
        self, key: str, data: bytes, metadata: Mapping[str, str] | None = None, *, if_absent: bool = False
    ) -> bool:
        check_metadata(metadata or {})
        header = json.dumps(dict(metadata or {})).encode() + b"\n"
        return await self._run(self._put, self._path(key), header, data, if_absent)

    async def get(self, key: str) -> StoredObject:
        found = await self._run(_read, self._path(key), sys.maxsize)
        if found is None:
            raise ObjectMissing(f"there is no object '{key}'")
        return found

    async def metadata(self, key: str, *, version: str | None = None) -> Mapping[str, str] | None:
        return await self._run(_read_metadata, self._path(key))

    async def fetch(self, bucket: str, name: str, *, etag: str | None, largest: int) -> bytes:
        key = self.key_of(bucket, name)
        found = None if key is None else await self._run(_read, self._path(key), largest + 1)
        if found is None:
            raise ObjectMissing(f"there is no object '{name}' in '{bucket}'")
        sum_ = "" if etag is None else hashlib.md5(found.data, usedforsecurity=False).hexdigest()  # as S3 has it
        check_fetched(name, len(found.data), sum_, expected_etag=etag, largest=largest)
        return found.data

    def key_of(self, bucket: str, name: str) -> str | None:
        return name if bucket == self._root.name and len(name) <= LONGEST_KEY else None

    async def delete(self, keys: Sequence[str]) -> None:
        await self._run(self._delete, [self._path(key) for key in keys])

    async def delete_older(self, keys: Sequence[str]) -> None:
        """Does nothing: there are no versions."""

    async def list(self, prefix: str = "", *, versions: bool = False) -> AsyncIterator[ObjectInfo]:
        check_text(prefix, "the prefix")
        objects = await self._run(self._walk, prefix)
        while batch := await self._run(_batch, objects):
            for each in batch:
                yield each

    async def ping(self) -> None:
        await self._run(os.stat, self._root)

    async def close(self) -> None:
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(None, self._executor.shutdown)

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._root / path_of(key)

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._closed:
            raise Unavailable(f"{self._root} is closed")

        def guarded() -> T:
            try:
                self._prepare()
                return work(*args, **kwargs)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise StorageFull(
                        f"no room left in {self._root}: free some space on its disk, then work continues"
                    ) from error
                raise Unavailable(f"{self._root}: {error.strerror}") from error

        return await asyncio.get_running_loop().run_in_executor(self._executor, guarded)

    # In the threads.

    def _prepare(self) -> None:
        """Makes the folder and removes what ended processes have left, once."""
        if self._prepared:
            return
        with self._preparing:
            self._make_folder(self._temporary)
            for left_over in self._temporary.iterdir():
                with suppress(FileNotFoundError, BlockingIOError):
                    file = os.open(left_over, os.O_RDONLY)
                    try:
                        # The process that writes a file holds its lock. The lock ends with the process.
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        left_over.unlink()
                    finally:
                        os.close(file)
            is_backup_running(self._root)
            self._prepared = True

    def _put(self, path: Path, header: bytes, data: bytes, if_absent: bool) -> bool:
        attempts = PUT_ATTEMPTS
        while True:
            temporary = self._temporary / f"{os.getpid()}-{threading.get_ident()}-{next(self._numbers)}"
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                _write(file, header, data)
                os.fsync(file)
                self._make_folder(path.parent)
                put = _move(temporary, path, if_absent)
                # Also if another put was first: it may not have synced the folder yet.
                sync_folder(path.parent)
                return put
            except FileNotFoundError:
                # A delete has removed the folder, or one above, while it was empty. Or another process that was just
                # starting has removed our temporary file between open and lock, as if its process had ended.
                self._durable.difference_update(path.parents)
                attempts -= 1
                if not attempts:
                    raise
            finally:
                with suppress(FileNotFoundError):
                    temporary.unlink()
                os.close(file)

    def _make_folder(self, folder: Path) -> None:
        """Makes a folder durable: syncs the one above too, even when another process has just made this one."""
        if folder in self._durable:
            return
        if folder == self._root:
            folder.mkdir(parents=True, exist_ok=True)
        else:
            self._make_folder(folder.parent)
            with suppress(FileExistsError):  # Path.mkdir(exist_ok=True) fails if a delete removes it at that moment
                folder.mkdir()
        sync_folder(folder.parent)
        if len(self._durable) >= KNOWN_FOLDERS:
            self._durable.clear()
        self._durable.add(folder)

    def _delete(self, paths: Sequence[Path]) -> None:
        touched = set()
        backup_running = is_backup_running(self._root)
        for path in paths:
            if backup_running:
                keep(self._root, path)
            with suppress(FileNotFoundError):
                path.unlink()
                touched.add(path.parent)
        left = {self._remove_empty(folder) for folder in touched}
        for folder in left:
            with suppress(FileNotFoundError):  # removed by another delete, which syncs the one above
                sync_folder(folder)

    def _remove_empty(self, folder: Path) -> Path:
        """Removes a folder and those above it as long as they are empty. Returns the first that is not."""
        while folder != self._root:
            try:
                folder.rmdir()
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                    raise
                if error.errno == errno.ENOTEMPTY:
                    return folder
            self._durable.discard(folder)
            folder = folder.parent
        return folder

    def _walk(self, prefix: str) -> Iterator[ObjectInfo]:
        if len(prefix) > LONGEST_KEY:
            return
        folder, beginning = folder_of(prefix)
        for path in files_below(self._root / folder, beginning):
            key = key_of(path.relative_to(self._root))
            if key.startswith(prefix):
                with suppress(FileNotFoundError):  # deleted since
                    yield _info(path, key)


def _batch(objects: Iterator[ObjectInfo]) -> Sequence[ObjectInfo]:
    return tuple(itertools.islice(objects, LIST_BATCH))


def _info(path: Path, key: str) -> ObjectInfo:
    file = os.open(path, os.O_RDONLY)
    try:
        status = os.fstat(file)
        header = _header_length(os.pread(file, HEADER_BYTES, 0))
        return ObjectInfo(key, status.st_size - header, status.st_mtime)
    finally:
        os.close(file)


def _read(path: Path, most: int) -> StoredObject | None:
    """The object, at most its first `most` bytes."""
    try:
        file = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        beginning = os.pread(file, HEADER_BYTES, 0)
        length = _header_length(beginning)
        if length == 0:
            raise Unavailable(f"{path} is not a file of this store: move it out of the folder")
        metadata = json.loads(beginning[:length])
        # The data is read separately: slicing it out of the file's bytes would copy it once more.
        size = min(os.fstat(file).st_size - length, most)
        data = os.pread(file, size, length)
        if len(data) != size:
            raise Unavailable(f"{path}: {size:,} bytes expected, {len(data):,} read")
        return StoredObject(data, metadata)
    finally:
        os.close(file)


def _read_metadata(path: Path) -> Mapping[str, str] | None:
    """The metadata. A damaged file has none, so that it can be listed and erased like others."""
    try:
        found = _read(path, 0)
    except (Unavailable, ValueError) as error:
        log.error("the file of an object is damaged", path=str(path), reason=str(error))
        return {}
    return None if found is None else found.metadata


def _header_length(beginning: bytes) -> int:
    """0 if there is no header."""
    return beginning.find(b"\n") + 1


def _write(file: int, *parts: bytes) -> None:
    for part in parts:
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(file, rest) :]


def _move(temporary: Path, path: Path, if_absent: bool) -> bool:
    if not if_absent:
        os.rename(temporary, path)
        return True
    try:
        os.link(temporary, path)  # unlike a rename, it replaces nothing
    except FileExistsError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Makes the entries of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
