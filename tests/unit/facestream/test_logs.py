"""What libraries log goes through the log of the command, in its format."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from facestream.logs import flush_log, log_to_stderr


@pytest.fixture(autouse=True)
def defaults() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    flush_log()
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize("name", ["aiohttp.server", "asyncio"])
def test_an_error_of_a_library_is_one_line_with_its_traceback(capsys: pytest.CaptureFixture[str], name: str) -> None:
    log_to_stderr()
    log_to_stderr()  # a second time changes nothing
    try:
        raise ArithmeticError("broken")
    except ArithmeticError:
        logging.getLogger(name).exception("Error handling request from %s", "127.0.0.1")
    [line] = lines(capsys)
    assert (line["level"], line["module"]) == ("error", name)
    assert line["says"] == "Error handling request from 127.0.0.1"
    assert "ArithmeticError: broken" in line["exception"]
    assert line["timestamp"]


def test_a_warning_of_a_library_is_one_line_and_what_is_below_is_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr()
    logging.getLogger("aiohttp.server").warning("two\nlines")
    logging.getLogger("aiohttp.server").info("request of everybody")
    [line] = lines(capsys)
    assert (line["level"], line["says"]) == ("warning", "two\nlines")
    assert "exception" not in line
