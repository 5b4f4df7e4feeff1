"""Runs roles until SIGTERM or Ctrl-C: for `facestream up` and for the commands of a single role."""

import asyncio
import signal
from collections.abc import Callable, Sequence

from facestream.config import Settings
from facestream.runtime.serve import Role, serve
from facestream.terminal import print_failure
from schemas.errors import FacestreamError


def run_roles(settings: Settings, roles: Sequence[Role], announce: Callable[[str], None]) -> int:
    """Runs roles and drains them on SIGTERM or Ctrl-C. `announce` is called with the URL. Returns the exit code: 2 for
    wrong settings, 1 for other failures.
    """
    code = 0
    try:
        asyncio.run(_serve(settings, roles, announce))
    except* FacestreamError as failures:
        code = 2 if "configuration_error" in print_failure(failures) else 1
    return code


async def _serve(settings: Settings, roles: Sequence[Role], announce: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, stop, roles=roles, on_started=announce)
