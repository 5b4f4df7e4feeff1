"""`facestream up`: all roles in one process."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable
from typing import Any

from facestream.config import Settings
from facestream.data_folder import locked
from facestream.settings_flags import add_flags, settings_from
from schemas.errors import FacestreamError

DESCRIPTION = """\
Serve everything in one process: the HTTP service, a processor and a sink, on an embedded log and embedded stores in the data
folder. SIGTERM or Ctrl-C drains: what was accepted is answered, or safely on the log.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("up", help="serve everything in one process", description=DESCRIPTION)
    add_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments)
    code = 0
    with locked(settings.data) as announce:
        try:
            asyncio.run(_serve(settings, announce))
        except* FacestreamError as failures:
            for failure in _flat(failures):
                print(f"facestream: {failure.message}", file=sys.stderr)
                code = max(code, 2 if failure.code == "configuration_error" else 1)
    return code


async def _serve(settings: Settings, announce: Callable[[str], None]) -> None:
    from facestream.system import serve  # torch takes a second to import: not for the other commands

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, stop, started=announce)


def _flat(failures: BaseExceptionGroup[FacestreamError]) -> list[FacestreamError]:
    flat: list[FacestreamError] = []
    for failure in failures.exceptions:
        flat += _flat(failure) if isinstance(failure, BaseExceptionGroup) else [failure]
    return flat
