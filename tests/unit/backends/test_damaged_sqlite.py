"""A damaged file of the embedded log or of the embedded vectors is an error at once, which names the file and says what
to do.
"""

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from backends.log import NewRecord
from backends.sqlite.log import SqliteLog
from backends.sqlite.vectors import SqliteVectors
from backends.vectors import StoredAnswer
from schemas.errors import StoreDamaged
from stream.topics import IMAGES_RECEIVED, TOPICS

PAGE = 4096
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "of another kind": lambda good: b"not a database\n" * 1_000,
    "cut within its header": lambda good: good[:50],
    "cut after its first page": lambda good: good[:PAGE],
    "cut in the middle": lambda good: good[: len(good) // 2],
    "without the beginning of its header": lambda good: bytes(16) + good[16:],
    "without its header": lambda good: bytes(100) + good[100:],
    "without its first page": lambda good: bytes(PAGE) + good[PAGE:],
}


async def use_log(path: Path) -> None:
    log = SqliteLog(path)
    try:
        await log.create_topics(TOPICS)
        await log.append([NewRecord(IMAGES_RECEIVED, "a", bytes(50_000))])
    finally:
        await log.close()


async def use_vectors(path: Path) -> None:
    vectors = SqliteVectors(path)
    try:
        await vectors.put_answers([StoredAnswer("a", "x" * 50_000, 0.0)])
    finally:
        await vectors.close()


Use = Callable[[Path], Awaitable[None]]
USES = pytest.mark.parametrize("use", [use_log, use_vectors], ids=["log", "vectors"])


@USES
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_file_is_named(tmp_path: Path, use: Use, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "file.db"
    await use(path)
    good = path.read_bytes()
    path.write_bytes(damage(good))
    with pytest.raises(StoreDamaged, match=rf"{path} is damaged.*backup.*move it away"):
        await use(path)
    path.write_bytes(good)
    await use(path)


@USES
async def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path, use: Use) -> None:
    path = tmp_path / "file.db"
    path.mkdir()
    with pytest.raises(StoreDamaged, match=f"{path} is damaged, or is no file of facestream"):
        await use(path)
    shutil.rmtree(path)
    await use(path)
