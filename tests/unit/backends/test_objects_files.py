"""Tests specific to the embedded object store: a full disk, crashes, paths of files.

The promises of every store are tested in tests/contracts/test_objects.py.
"""

import errno
import os
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backends.files.kept import keep_deleted
from backends.files.objects import FileObjects
from backends.files.paths import key_of, path_of
from schemas.errors import ConfigurationError, StorageFull, Unavailable, UploadTooLarge

ROOT = Path(__file__).parents[3]


@pytest.fixture
async def objects(tmp_path: Path) -> AsyncIterator[FileObjects]:
    objects = FileObjects(tmp_path / "objects")
    yield objects
    await objects.close()


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "key", ["a", "a/b", "..", "/", "//", "a\0b", "%", "+", "@", "a@", ".", ".a/..b", "x" * 300, "💙" * 300, "%2F/"]
)
def test_a_path_names_one_key(key: str) -> None:
    path = path_of(key)
    assert key_of(path) == key
    assert not path.is_absolute()
    assert ".." not in path.parts
    assert all(len(name) <= 255 for name in path.parts)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """/dev/full would do for a write, but not for a rename."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    yield folder
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_refuses_and_recovers(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.path.ismount(small_disk):  # noqa: ASYNC240 – a test may look
        # Mounting is not allowed here: the system's answer comes from a stand-in.
        def full(file: int, data: bytes) -> int:
            if len(data) > 1 << 20:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(file, data)

        write = os.write
        monkeypatch.setattr(os, "write", full)
    objects = FileObjects(small_disk)
    await objects.put("a", b"the old one")
    with pytest.raises(StorageFull):
        await objects.put("a", bytes(2 << 20))
    assert files(small_disk) == ["a@"]
    assert (await objects.get("a")).data == b"the old one"
    await objects.put("b", bytes(500_000))
    await objects.close()


WRITING = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
fcntl.flock(file, fcntl.LOCK_EX)
os.write(file, b"half a face")
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def writing(file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the midst of writing a file."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITING, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process


async def test_temporary_files_of_dead_processes_are_deleted_and_those_of_living_ones_are_not(
    objects: FileObjects, tmp_path: Path
) -> None:
    temporary = tmp_path / "objects" / ".tmp"
    temporary.mkdir(parents=True)
    with writing(temporary / "dead") as dead, writing(temporary / "living"):
        dead.kill()
        dead.wait()
        await objects.ping()
        assert files(temporary) == ["living"]
    assert [each async for each in objects.list()] == []


async def test_no_more_is_read_of_an_object_than_its_limit(objects: FileObjects) -> None:
    await objects.put("incoming/a", bytes(5 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(UploadTooLarge):
            await objects.fetch("objects", "incoming/a", etag="any", largest=1_000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


async def test_create_makes_the_folder(objects: FileObjects, tmp_path: Path) -> None:
    await objects.create()
    assert (tmp_path / "objects").is_dir()


async def test_listing_walks_only_the_folders_it_has_to(objects: FileObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("crops/acme/1", "crops/acme/2", "crops/bolt/1", "originals/acme/1"):
        await objects.put(key, b"")
    walked: list[str] = []
    scandir = os.scandir

    def watched(folder: Path) -> object:
        walked.append(folder.name)
        return scandir(folder)

    monkeypatch.setattr("backends.files.objects.os.scandir", watched)
    assert sorted([each.key async for each in objects.list("crops/ac")]) == ["crops/acme/1", "crops/acme/2"]
    assert walked == ["crops", "acme"]


async def test_deleting_removes_empty_folders(objects: FileObjects, tmp_path: Path) -> None:
    await objects.put("a/b/c", b"")
    await objects.put("a/d", b"")
    await objects.delete(["a/b/c"])
    assert not (tmp_path / "objects/a/b").exists()
    assert files(tmp_path / "objects") == ["a/d@"]
    await objects.put("a/b/c", b"again")
    assert (await objects.get("a/b/c")).data == b"again"


async def test_a_file_without_our_header_raises_unavailable(objects: FileObjects, tmp_path: Path) -> None:
    await objects.put("a", b"")
    (tmp_path / "objects" / "b@").write_bytes(b"no header")
    with pytest.raises(Unavailable, match="b@"):
        await objects.get("b")


async def test_what_is_deleted_during_a_backup_is_kept_for_it(objects: FileObjects, tmp_path: Path) -> None:
    root = tmp_path / "objects"
    keys = ["a", "a/b", "x" * 299, "/"]
    for key in keys:
        await objects.put(key, key.encode())
    before = files(root)
    with keep_deleted(root) as kept:
        await objects.delete([*keys, "missing"])
        assert [each async for each in objects.list()] == []
        assert files(kept) == before
        await objects.put("a", b"later")
        await objects.delete(["a"])
        assert (kept / "a@").read_bytes().endswith(b"\na")
    assert files(root) == []
    await objects.put("a", b"")
    await objects.delete(["a"])
    assert files(root) == []


KEEPING = """
import sys
from pathlib import Path
from backends.files.kept import keep_deleted
with keep_deleted(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


@contextmanager
def running_backup(root: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", KEEPING, str(root)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as backup:
        assert backup.stdout is not None
        assert backup.stdout.readline() == b"ready\n"
        yield backup


async def test_what_a_killed_backup_has_left_is_deleted(objects: FileObjects, tmp_path: Path) -> None:
    root = tmp_path / "objects"
    await objects.put("a", b"")
    with running_backup(root) as backup:
        await objects.delete(["a"])
        assert files(root) == [".kept/a@"]
        with pytest.raises(ConfigurationError, match="another backup"), keep_deleted(root):
            pass
        backup.kill()
    await objects.delete([])  # as the service deletes now and then
    assert files(root) == []
    with keep_deleted(root):
        await objects.put("b", b"")
        await objects.delete(["b"])
        assert files(root) == [".kept/b@"]
