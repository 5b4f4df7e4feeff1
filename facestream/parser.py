"""The parser of the command line: each command is one module of `commands` and has its own --help."""

import argparse
import difflib
import os
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from facestream.commands import (
    backup,
    dead_letters,
    erase,
    export,
    import_,
    ingest,
    init,
    keys,
    learn,
    models,
    process,
    recognize,
    recover,
    redetect,
    reembed,
    restore,
    sink,
    trace,
    up,
    watch,
    weights,
)
from facestream.config import warn_of_unknown_variables
from facestream.logs import flush_log, log_to_stderr

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
    backup,
    restore,
    init,
    ingest,
    process,
    sink,
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
EXIT_CODES = """\
Exit code: 0 done, 1 failed or only partly done, 2 the command line or a setting is wrong, 130 ended by Ctrl-C. Ctrl-C
is the normal end of up, ingest, process, sink and watch: exit code 0.
"""


class Parser(argparse.ArgumentParser):
    """A parser that suggests the nearest command or choice for a wrong one."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(it) for it in action.choices]
            near = difflib.get_close_matches(str(value), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(known)}"
            raise argparse.ArgumentError(action, f"there is no '{value}': {hint}")


def run_command(argv: Sequence[str] | None) -> int:
    """Runs a command and returns its exit code. Raises FacestreamError; SystemExit for a wrong command line and for
    --help.
    """
    arguments = _parser().parse_args(argv)
    log_to_stderr()
    try:
        warn_of_unknown_variables(os.environ)
        code: int = arguments.run(arguments)
        return code
    finally:
        flush_log()


def _parser() -> Parser:
    parser = Parser(
        "facestream",
        description=DESCRIPTION,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"facestream {version('facestream')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser
