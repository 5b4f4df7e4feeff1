"""The connections of clients. aiohttp answers some requests before any handler sees them: those that it cannot parse,
and those with an unknown header Expect. Here they get a problem, like all other errors.
"""

import asyncio
from collections.abc import Callable
from functools import partial

from aiohttp import web
from aiohttp.http import HttpProcessingError

from ingest.problems import error_response, refusal, unexpected_error
from schemas.answers import LOWEST_FAILURE
from schemas.errors import InvalidRequest


class Connection(web.RequestHandler):
    """One connection."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The response to a request that cannot be parsed, or that failed before `answer_errors` saw it. Raises
        ConnectionError if nobody can be answered.
        """
        if isinstance(exc, ConnectionError):
            raise exc
        if isinstance(exc, HttpProcessingError):
            reason = exc.message.partition("\n")[0].rstrip(":")
            response = error_response(InvalidRequest(f"this is not a valid HTTP request: {reason}"))
        else:
            super().handle_error(request, status, exc, message)  # logs it
            response = error_response(unexpected_error())
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Sends the response. An exception is one that was raised before `answer_errors` could see it."""
        if isinstance(resp, web.HTTPException) and resp.status >= LOWEST_FAILURE:
            resp = error_response(refusal(resp, request))
        return await super().finish_response(request, resp, start_time)


class Runner(web.AppRunner):
    """Runs an application on such connections. Bodies are not decompressed, see ingest/uploads.py."""

    __slots__ = ()

    @property
    def server(self) -> Callable[[], Connection] | None:  # type: ignore[override]  # sites use it as a function only
        """Makes a connection."""
        server = super().server
        if server is None:
            return None
        return partial(
            Connection,
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # None turns it off
            auto_decompress=False,
        )
