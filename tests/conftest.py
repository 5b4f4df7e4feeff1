"""What the tests need from outside: the real weights, and photos of real people that come in a package."""

import os
from pathlib import Path

import pytest

from facestream import environment
from scripts.photos import get as get_photos

environment.prepare()

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


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """With FACESTREAM_NO_SKIPS=1, where everything that the tests need has to be there, a skipped test is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if isinstance(reporter, pytest.TerminalReporter) else []
    if os.environ.get("FACESTREAM_NO_SKIPS") == "1" and skipped and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
