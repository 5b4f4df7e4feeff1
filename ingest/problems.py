"""JSON responses, and errors as problem+json (RFC 9457): the expected ones and aiohttp's own."""

import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import structlog
from aiohttp import web
from prometheus_client import Counter

from schemas.answers import LOWEST_FAILURE, AnswerPart, Problem, problem
from schemas.errors import FacestreamError, Unauthorized

log = structlog.get_logger(__name__)
ERRORS = Counter("facestream_http_errors_total", "Requests that the service itself has refused, by code", ["code"])
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def json_response(status: int, body: AnswerPart, headers: dict[str, str] | None = None) -> web.Response:
    content_type = "application/json" if status < LOWEST_FAILURE else "application/problem+json"
    text = json.dumps(body.members(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return web.Response(status=status, text=text, content_type=content_type, headers=headers)


def error_response(error: FacestreamError) -> web.Response:
    ERRORS.labels(error.code).inc()
    headers = {}
    if "retry_after" in error.details:
        headers["Retry-After"] = str(error.details["retry_after"])
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return json_response(error.status, problem(error), headers)


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers every exception of a handler with a problem."""
    try:
        return await handler(request)
    except FacestreamError as error:
        if error.status >= 500:
            log.warning("request failed", path=request.path, code=error.code, reason=error.message)
        return error_response(error)
    except web.HTTPException as error:
        if error.status < LOWEST_FAILURE:
            raise
        phrase = HTTPStatus(error.status).phrase
        body = Problem(
            type="about:blank",
            title=phrase,
            status=error.status,
            code=phrase.lower().replace(" ", "_"),
            detail=f"{request.method} {request.path}: {phrase}",
        )
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return json_response(error.status, body, headers)
    except Exception:
        log.exception("request failed", path=request.path)
        return error_response(FacestreamError("an unexpected error occurred: see the log of the service"))
