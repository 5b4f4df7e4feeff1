"""Fixtures with the adapters of every port, for the contract suites.

Each gives a function that opens one more client of the same store, as another process would. All are closed at the end.
Names come from `unique`, because data in a distributed engine is still there after a test.
"""

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from backends.log import EventLog
from backends.objects import ObjectStore
from backends.open import open_log as open_log_at
from backends.open import open_objects as open_objects_at
from backends.open import open_vectors as open_vectors_at
from backends.vectors import VectorStore
from tests.servers.buckets import S3_SERVERS, temporary_bucket
from tests.servers.topics import temporary_topics


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Makes a name that no other test uses."""
    suffix = uuid.uuid4().hex[:12]
    return lambda name: f"{name}.{suffix}"


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.servers)])
async def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[[], EventLog]]:
    async with AsyncExitStack() as opened:
        url = f"sqlite:///{tmp_path / 'log.db'}"
        if request.param == "kafka":
            url = await opened.enter_async_context(temporary_topics(request.getfixturevalue("services")))

        def opening() -> EventLog:
            log = open_log_at(url)
            opened.push_async_callback(log.close)
            return log

        yield opening


@pytest.fixture(params=["files", *S3_SERVERS])
async def open_objects(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[[], ObjectStore]]:
    async with AsyncExitStack() as opened:
        url = f"file:///{tmp_path / 'objects'}"
        if request.param != "files":
            url = await opened.enter_async_context(temporary_bucket(request.getfixturevalue(request.param)))

        def opening() -> ObjectStore:
            objects = open_objects_at(url)
            opened.push_async_callback(objects.close)
            return objects

        yield opening


@pytest.fixture(params=["sqlite", pytest.param("cassandra", marks=pytest.mark.servers)])
async def open_vectors(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Callable[[], VectorStore]]:
    async with AsyncExitStack() as opened:
        url = f"sqlite:///{tmp_path / 'vectors.db'}"
        if request.param == "cassandra":
            url = request.getfixturevalue("keyspace")

        def opening() -> VectorStore:
            vectors = open_vectors_at(url)
            opened.push_async_callback(vectors.close)
            return vectors

        yield opening
