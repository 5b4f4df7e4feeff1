"""What the tests need from outside: the real weights, photos of real people that come in a package, and the real
servers.
"""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import facestream  # noqa: F401 - prepares the environment before anything imports numpy or torch
from backends.sqlite.log import SqliteLog
from facestream.runtime.system_state import SystemState, follow_state
from scripts.photos import get as get_photos
from scripts.services import Services
from scripts.services_packages import MissingTools
from stream.topics import TOPICS
from tests.keyspaces import temporary_keyspace

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def weights_folder() -> Path:
    """A folder with the converted weights: $FACESTREAM_WEIGHTS, else data/weights, filled when it is not yet."""
    from weights.get import get

    folder = Path(os.environ.get("FACESTREAM_WEIGHTS", ROOT / "data" / "weights"))
    get(folder)
    return folder


@pytest.fixture(scope="session")
def photos() -> Path:
    """A folder with photos of two people, see scripts/photos.py."""
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
    """What a role follows, as of now, on `log`."""
    async with follow_state(log) as state:
        yield state


@pytest.fixture(scope="session")
def servers() -> Iterator[Services]:
    """A real Kafka, Cassandra and MinIO, see scripts/services.py, that can be stopped, killed, paused and started.
    Those that run already, else they are started, and ended after the tests.

    Where this machine cannot start them the test is skipped; with FACESTREAM_REQUIRE_SERVICES=1 it fails.
    """
    servers = Services()
    ran_before = servers.running()
    try:
        servers.up()
        yield servers
    except MissingTools as error:
        if os.environ.get("FACESTREAM_REQUIRE_SERVICES") == "1":
            raise
        pytest.skip(str(error))
    finally:
        if not ran_before:
            servers.down()


@pytest.fixture(scope="session")
def services(servers: Services) -> dict[str, str]:
    """The settings that choose the real servers: FACESTREAM_LOG and so on."""
    return servers.settings()


@pytest.fixture(scope="session")
def keyspace(services: dict[str, str]) -> Iterator[str]:
    """The URL of a keyspace on the real Cassandra."""
    with temporary_keyspace(services) as url:
        yield url


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """With FACESTREAM_NO_SKIPS=1, where everything that the tests need has to be there, a skipped test is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if isinstance(reporter, pytest.TerminalReporter) else []
    if os.environ.get("FACESTREAM_NO_SKIPS") == "1" and skipped and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
