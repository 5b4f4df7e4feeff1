"""What all routes use: the stores, the limits, and the access of the caller."""

from dataclasses import dataclass

from aiohttp import web

from backends.log import EventLog
from backends.objects import ObjectDeleter
from backends.reserve import DiskReserve
from backends.vectors import VectorDeleter
from ingest.acceptor import UploadAcceptor
from ingest.backpressure import Backpressure
from ingest.flow import Flow
from ingest.keys import Access, KeyChecker
from ingest.problems import Handler
from ingest.replies import Replies
from ingest.uploads import UploadMemory
from schemas.errors import InvalidRequest
from schemas.names import normalise_name
from stream.erase.erasures import Erasures
from stream.generations import Generations
from stream.health_routes import Checks


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_upload` and `upload_memory` in bytes."""

    max_upload: int
    upload_memory: int
    max_in_flight: int


@dataclass(frozen=True, slots=True)
class Service:
    """The resources of the application. Listings show the active generation of `generations`; readiness depends on
    `checks`. `reserve`: see DiskReserve.
    """

    log: EventLog
    objects: ObjectDeleter
    vectors: VectorDeleter
    keys: KeyChecker
    acceptor: UploadAcceptor
    replies: Replies
    backpressure: Backpressure
    flow: Flow
    uploads: UploadMemory
    limits: Limits
    generations: Generations
    erasures: Erasures
    checks: Checks
    reserve: DiskReserve


SERVICE = web.AppKey("service", Service)
ACCESS = web.RequestKey("access", Access)
OPEN_PATHS = ("/healthz", "/readyz", "/openapi.json", "/docs", "/docs/{file}")  # no key is needed


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Puts the caller's access into the request. Raises Unauthorized."""
    resource = request.match_info.route.resource
    if resource is None or resource.canonical not in OPEN_PATHS:
        text = request.headers.get("x-api-key")
        authorization = request.headers.get("Authorization", "")
        if text is None and authorization[:7].lower() == "bearer ":
            text = authorization[7:].strip()
        request[ACCESS] = await request.app[SERVICE].keys.check(text)
        if request.path == "/metrics":
            access_of(request, "admin")
    return await handler(request)


def access_of(request: web.Request, scope: str) -> Access:
    """The caller's access. Raises Forbidden if the key does not have that scope."""
    access = request[ACCESS]
    access.require_scope(scope)
    return access


def normalised_name(text: str, field: str) -> str:
    """The normalised name of a person or a directory, as it is stored. Raises InvalidRequest."""
    try:
        return normalise_name(text)
    except ValueError as error:
        raise InvalidRequest(f"{field}: {error}", field=field) from None
