"""How long a caller waits for an answer (RFC 7240), and the end of the wait when the caller has left."""

import asyncio
import re
from typing import Any

from aiohttp import web

from ingest.problems import Handler
from schemas.errors import InvalidRequest
from schemas.records import Answer

DEFAULT_WAIT_S, LONGEST_WAIT_S = 30.0, 300.0

LEFT = web.RequestKey("left", asyncio.Future[Any])  # is done when the caller has closed the connection


def requested_wait_s(request: web.Request) -> float:
    """Seconds that the caller waits (RFC 7240): the first `Prefer: wait=N`, 0 for `Prefer: respond-async`."""
    wait_s = None
    for preference in ",".join(request.headers.getall("Prefer", [])).replace(";", ",").split(","):
        name, _, value = preference.strip().partition("=")
        if name.lower() == "respond-async":
            return 0.0
        if name.lower() == "wait" and wait_s is None:
            seconds = value.strip('" ')
            if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", seconds):
                raise InvalidRequest("Prefer: wait=N takes a number of seconds, for example wait=5")
            wait_s = min(float(seconds), LONGEST_WAIT_S)
    return DEFAULT_WAIT_S if wait_s is None else wait_s


async def wait_for_answer(request: web.Request, answer: asyncio.Future[Answer], wait_s: float) -> Answer | None:
    """The answer; None after `wait_s` seconds, or as soon as the caller has left."""
    await asyncio.wait({answer, request[LEFT]}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    return answer.result() if answer.done() else None


@web.middleware
async def notice_leaving(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tells the handler that its caller has left. The server cancels the request then, but the handler is not
    cancelled: an image whose storing has begun gets its event.
    """
    left = request[LEFT] = asyncio.get_running_loop().create_future()
    handling = asyncio.ensure_future(handler(request))
    try:
        return await asyncio.shield(handling)
    except asyncio.CancelledError:
        left.set_result(None)
        await asyncio.wait([handling])  # a server that stops waits for this
        raise
