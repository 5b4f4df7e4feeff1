"""Marks each test with what it needs: see `make unit`.

servers: Kafka, MinIO, SeaweedFS, Cassandra. models: the converted weights, or photos of people. e2e: the service, or
one of its commands, in separate processes. The first two depend on the fixtures that a test uses, the third on its
folder. Tests without a marker connect to no other machine; a fixture enforces that.
"""

import ipaddress
import os
import socket
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

NEEDS = {
    "servers": ({"servers", "services", "keyspace", "seaweedfs"}, "Kafka, MinIO, SeaweedFS or Cassandra"),
    "models": ({"weights_folder", "photos"}, "the models or photos"),
    "e2e": (set[str](), "processes of the service"),
}
TESTS = Path(__file__).parent
FOLDERS = ("e2e", "servers", "contracts", "models", "unit")  # those that take longest come first
LEFT_OUT = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = Counter()
    for name, (_, what) in NEEDS.items():
        config.addinivalue_line("markers", f"{name}: needs {what}")
    config.addinivalue_line("markers", "stops_servers: stops or holds a server, so that no other test may use it then")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests, and orders them so that two workers end at about the same time."""
    for item in items:
        for name, (fixtures, _) in NEEDS.items():
            if not fixtures.isdisjoint(getattr(item, "fixturenames", ())):
                item.add_marker(name)
        if _folder(item) == "e2e":
            item.add_marker("e2e")
    # Files with tests that stop the servers come first, and of each folder those that need servers come last: while the
    # servers are stopped, the other worker has tests that need none.
    stopping, needing = (
        {item.path for item in items if item.get_closest_marker(name)} for name in ("stops_servers", "servers")
    )
    items.sort(key=lambda item: (item.path not in stopping, FOLDERS.index(_folder(item)), item.path in needing))


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        if need := _need(item):
            item.config.stash[LEFT_OUT][need] += 1


@pytest.fixture(autouse=True)
def network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test without a marker that connects to another machine fails."""
    if _need(request.node):
        return
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] != "localhost":
            assert ipaddress.ip_address(address[0]).is_loopback, f"{address} is not on this machine"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes the tests that were left out from a worker of xdist: each worker collects all tests."""
    node.config.stash[LEFT_OUT] |= Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if left_out := config.stash[LEFT_OUT]:
        needs = ", ".join(f"{count} that need {NEEDS[name][1]}" for name, count in left_out.most_common())
        terminalreporter.write_line(f"left out: {left_out.total()} tests ({needs}); all of them: make test")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """With FACESTREAM_NO_SKIPS=1, where everything that the tests need has to be there, a skipped test is a failure."""
    config = session.config
    if hasattr(config, "workeroutput"):
        left_out = config.stash[LEFT_OUT]
        config.workeroutput["left_out"] = dict(left_out)
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if isinstance(reporter, pytest.TerminalReporter) else []
    if os.environ.get("FACESTREAM_NO_SKIPS") == "1" and skipped and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(TESTS).parts[0]


def _need(item: pytest.Item) -> str:
    """The main reason, as a marker, why a test is left out of `make unit`; "" if it is not."""
    return next((name for name in NEEDS if item.get_closest_marker(name)), "")
