"""Finds the service for a command: the one at --url, the one that serves the data folder, or none.

If there is none, the command starts the service in its own process: it holds the folder's lock and serves through a
Unix socket in a folder that only its user can enter, so that no API key is needed.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from facestream.client.http import ServiceClient
from facestream.config import Settings
from facestream.runtime.data_folder import data_folder_lock, serving_url
from facestream.terminal import log_warnings_only
from schemas.errors import ConfigurationError, FacestreamError

OTHER_COMMAND_S = 600.0  # how long another command may hold the folder's lock
POLL_S = 0.1


@asynccontextmanager
async def connect(settings: Settings, url: str | None, key: str | None) -> AsyncIterator[ServiceClient]:
    """Yields a client of a service that answers. Raises Unavailable, ConfigurationError, WeightsInvalid."""
    async with AsyncExitStack() as stack:
        found = url or await _url_or_lock(settings.data, stack)
        client = await stack.enter_async_context(
            ServiceClient(found, key)
            if found
            else ServiceClient(await stack.enter_async_context(_embedded_service(settings)))
        )
        await client.check()
        yield client


async def _url_or_lock(data: Path, stack: AsyncExitStack) -> str | None:
    """Returns the URL of the folder's service when that has started. If there is none, waits for other commands, takes
    the lock and returns None.
    """
    deadline = time.monotonic() + OTHER_COMMAND_S
    while not (url := serving_url(data)):
        if url is None:
            try:
                stack.enter_context(data_folder_lock(data))
                return None
            except ConfigurationError:
                if serving_url(data) is None or time.monotonic() > deadline:
                    raise  # the folder cannot be used at all; no other command has taken the lock
        await asyncio.sleep(POLL_S)
    return url


@asynccontextmanager
async def _embedded_service(settings: Settings) -> AsyncIterator[str]:
    """Runs the service in this process, and drains it at the end. The caller holds the folder's lock."""
    if sys.stderr.isatty():
        print("no service runs here: loading the models (`facestream up` keeps them loaded)", file=sys.stderr)
    log_warnings_only()
    from facestream.runtime.serve import serve  # torch takes a second to import, which is needed only without a service

    stop, started = asyncio.Event(), asyncio.get_running_loop().create_future()
    with tempfile.TemporaryDirectory(prefix="facestream-") as folder:  # of mode 0700
        service = asyncio.create_task(
            serve(settings, stop, on_started=started.set_result, owners_socket=Path(folder, "http"))
        )
        try:
            await asyncio.wait([service, started], return_when=asyncio.FIRST_COMPLETED)
            if not service.done():
                yield started.result()
        finally:
            stop.set()
            await asyncio.wait([service])
            if (failure := service.exception()) is not None:
                raise _expected_failure(failure)


def _expected_failure(failure: BaseException) -> BaseException:
    """The expected failure in an exception group: the one that the user can act on."""
    while isinstance(failure, BaseExceptionGroup):
        failure = next((it for it in failure.exceptions if isinstance(it, FacestreamError)), failure.exceptions[0])
    return failure
