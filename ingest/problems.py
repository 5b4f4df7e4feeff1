"""Errors as problem+json (RFC 9457), for expected failures and for aiohttp's own."""

import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web
from prometheus_client import Counter

from schemas.errors import FacestreamError, TooMuchInFlight, Unauthorized
from schemas.records import problem

log = structlog.get_logger(__name__)
ERRORS = Counter("facestream_http_errors_total", "Answers that the service itself refuses with, by code", ["code"])
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def json_response(status: int, body: Any, headers: dict[str, str] | None = None) -> web.Response:
    content_type = "application/json" if status < 400 else "application/problem+json"
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return web.Response(status=status, text=text, content_type=content_type, headers=headers)


def error_response(error: FacestreamError) -> web.Response:
    ERRORS.labels(error.code).inc()
    headers = {}
    if isinstance(error, TooMuchInFlight):
        headers["Retry-After"] = str(error.details.get("retry_after", 1))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return json_response(error.status, problem(error), headers)


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns every failure into an answer."""
    try:
        return await handler(request)
    except FacestreamError as error:
        if error.status >= 500:
            log.warning("request failed", path=request.path, code=error.code, reason=error.message)
        return error_response(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        phrase = HTTPStatus(error.status).phrase
        body = {
            "type": "about:blank",
            "title": phrase,
            "status": error.status,
            "code": phrase.lower().replace(" ", "_"),
            "detail": f"{request.method} {request.path}: {phrase}",
        }
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return json_response(error.status, body, headers)
    except Exception:
        log.exception("request failed", path=request.path)
        return error_response(FacestreamError("something failed that should not: the log of the service says more"))
