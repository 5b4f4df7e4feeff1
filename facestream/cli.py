"""The command line: one module per command, each with its own --help."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

import structlog

from facestream.commands import (
    dead_letters,
    erase,
    export,
    import_,
    init,
    keys,
    learn,
    models,
    recognize,
    recover,
    redetect,
    reembed,
    roles,
    trace,
    up,
    watch,
    weights,
)
from schemas.errors import FacestreamError

COMMANDS = (
    up,
    weights,
    keys,
    learn,
    recognize,
    watch,
    models,
    reembed,
    redetect,
    erase,
    export,
    import_,
    init,
    roles,
    trace,
    dead_letters,
    recover,
)
DESCRIPTION = """\
Learn and recognize people in images, as an event stream.

A first try, in two terminals:
  facestream up
  facestream learn obama.jpg --person obama --directory demo
  facestream recognize obama2.jpg --directory demo
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 it failed, 2 the command line or the settings are wrong."""
    parser = argparse.ArgumentParser(
        "facestream", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"facestream {version('facestream')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    arguments = parser.parse_args(argv)
    _log_to_stderr()
    try:
        code: int = arguments.run(arguments)
        return code
    except FacestreamError as error:
        print(f"facestream: {error.message}", file=sys.stderr)
        return 2 if error.code in ("configuration_error", "invalid_request", "missing_field") else 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _log_to_stderr() -> None:
    renderer = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    sys.exit(main())
