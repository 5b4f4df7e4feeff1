"""Every port's adapters, as fixtures that the contract suites are run with.

A fixture gives a function that opens one more client of the same store, as another process would; all are closed at the end.
Names come from `unique`, because a distributed engine outlives a test.
"""

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from backends.log import EventLog
from backends.log_sqlite import SqliteLog
from backends.objects import ObjectStore
from backends.objects_files import FileObjects
from backends.vectors import VectorStore
from backends.vectors_sqlite import SqliteVectors


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Makes a name that no other test uses."""
    suffix = uuid.uuid4().hex[:12]
    return lambda name: f"{name}.{suffix}"


@pytest.fixture(params=["sqlite"])
async def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[[], EventLog]]:
    adapters: dict[str, Callable[[], EventLog]] = {"sqlite": lambda: SqliteLog(tmp_path / "log.db")}
    async with AsyncExitStack() as opened:

        def opening() -> EventLog:
            log = adapters[request.param]()
            opened.push_async_callback(log.close)
            return log

        yield opening


@pytest.fixture(params=["files"])
async def open_objects(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[[], ObjectStore]]:
    adapters: dict[str, Callable[[], ObjectStore]] = {"files": lambda: FileObjects(tmp_path / "objects")}
    async with AsyncExitStack() as opened:

        def opening() -> ObjectStore:
            objects = adapters[request.param]()
            opened.push_async_callback(objects.close)
            return objects

        yield opening


@pytest.fixture(params=["sqlite"])
async def open_vectors(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[[], VectorStore]]:
    adapters: dict[str, Callable[[], VectorStore]] = {"sqlite": lambda: SqliteVectors(tmp_path / "vectors.db")}
    async with AsyncExitStack() as opened:

        def opening() -> VectorStore:
            vectors = adapters[request.param]()
            opened.push_async_callback(vectors.close)
            return vectors

        yield opening
