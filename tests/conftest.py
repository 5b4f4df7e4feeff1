"""External resources of the tests: the real weights, and photos of real people, which come in a package.

The real servers are in servers/fixtures.py. A test that uses one of them gets a marker, see selection.py.
"""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import facestream  # noqa: F401 - prepares the environment before anything imports numpy or torch
from backends.sqlite.log import SqliteLog
from facestream.runtime.system_state import SystemState, follow_state
from scripts.photos import get as get_photos
from scripts.services_lock import locked
from stream.topics import TOPICS

pytest_plugins = ["tests.selection", "tests.servers.fixtures"]
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def weights_folder() -> Path:
    """A folder with the converted weights: $FACESTREAM_WEIGHTS, else data/weights, which is filled if needed."""
    from weights.get import get

    folder = Path(os.environ.get("FACESTREAM_WEIGHTS", ROOT / "data" / "weights"))
    get(folder)
    return folder


@pytest.fixture(scope="session")
def photos() -> Path:
    """A folder with photos of two people, see scripts/photos.py."""
    with locked(ROOT / ".cache" / "photos.lock"):  # two workers may ask for them at once
        return get_photos()


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    """An embedded log with all topics."""
    log = SqliteLog(tmp_path / "log.db")
    await log.create_topics(TOPICS)
    yield log
    await log.close()


@pytest.fixture
async def state(log: SqliteLog) -> AsyncIterator[SystemState]:
    """The state that a role follows on `log`."""
    async with follow_state(log) as state:
        yield state
