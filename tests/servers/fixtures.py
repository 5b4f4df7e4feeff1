"""The real servers, for all tests and all workers of a session. A test that stops or pauses one of them has the marker
`stops_servers`, and gets exclusive use of them.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from scripts.services import Services
from scripts.services_packages import MissingTools
from tests.servers.keyspaces import temporary_keyspace
from tests.servers.seaweedfs import running_seaweedfs

STARTED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Services:
    """A real Kafka, Cassandra and MinIO, see scripts/services.py, that can be stopped, killed, paused and started.
    Running servers are used; otherwise they are started, and stopped after all tests.

    Where this machine cannot start them the test is skipped; with FACESTREAM_REQUIRE_SERVICES=1 it fails.
    """
    servers = Services()
    if not servers.running():
        request.config.stash[STARTED] = True
    try:
        servers.up()
    except MissingTools as error:
        if os.environ.get("FACESTREAM_REQUIRE_SERVICES") == "1":
            raise
        pytest.skip(str(error))
    return servers


@pytest.fixture(scope="session")
def services(servers: Services) -> dict[str, str]:
    """The settings that choose the real servers: FACESTREAM_LOG and so on."""
    return servers.settings()


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The settings that choose a SeaweedFS, which each worker starts for itself: it needs 4 s and 200 MB."""
    with running_seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as settings:
        yield settings


@pytest.fixture(scope="session")
def keyspace(services: dict[str, str]) -> Iterator[str]:
    """The URL of a keyspace on the real Cassandra."""
    with temporary_keyspace(services) as url:
        yield url


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[Any]:
    """Lets the tests of several workers use the servers at the same time, but a test that stops them runs alone."""
    if item.get_closest_marker("servers") is None:
        return (yield)
    with _turn(alone=item.get_closest_marker("stops_servers") is not None):
        return (yield)


@contextmanager
def _turn(*, alone: bool) -> Iterator[None]:
    """Waits for the tests of other processes. No test starts while one waits for exclusive use."""
    folder = Services().folder
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "next").open("a") as following, (folder / "using").open("a") as using:
        fcntl.flock(following, fcntl.LOCK_EX)
        fcntl.flock(using, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(following, fcntl.LOCK_UN)
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes over from a worker of xdist whether it started the servers."""
    if getattr(node, "workeroutput", {}).get("started_servers"):
        node.config.stash[STARTED] = True


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Ends the servers that were started for the tests. A worker leaves that to the process that it works for."""
    started = session.config.stash.get(STARTED, False)
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["started_servers"] = started
    elif started:
        Services().down()
