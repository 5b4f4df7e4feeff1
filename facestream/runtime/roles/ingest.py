"""The ingest role: the HTTP service, and the reader of answers for its waiting requests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import structlog
from aiohttp import web

from backends.reserve import DiskReserve
from backends.vectors import VectorReader
from facestream.config import Settings
from facestream.runtime.listening import host_and_port, is_loopback, listening_socket, url_of
from facestream.runtime.stores import Stores
from facestream.runtime.system_state import SystemState
from ingest.acceptor import UploadAcceptor
from ingest.app import create_app
from ingest.backpressure import Backpressure
from ingest.connections import Runner
from ingest.flow import Flow
from ingest.keys import Access, KeyChecker
from ingest.replies import Replies
from ingest.service import Limits, Service
from ingest.uploads import UploadMemory
from schemas.errors import ConfigurationError
from stream.erase.guarded_store import GuardedStore
from stream.health_routes import Checks
from stream.lag_monitor import LagMonitor
from stream.topics import INTERACTIVE
from stream.unused_partitions import UnusedPartitions

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0
DRAIN_S = 40.0  # how long open requests may take when the service stops


class NoKeyNeeded(KeyChecker):
    """Requires no key: only the owner of the data folder can open the socket for which this is used."""

    async def check(self, text: str | None) -> Access:
        return Access()


class HttpService:
    """The service. `listen` starts it, `run` must keep running, and `drain` ends it. `checks` and `degraded` are for
    /readyz.
    """

    def __init__(self, runner: web.AppRunner, service: Service, lag: LagMonitor) -> None:
        self.checks, self.degraded = service.checks, service.flow.degraded
        self._runner, self._service, self._lag = runner, service, lag

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._service.replies.run())
            tasks.create_task(self._service.flow.run())
            tasks.create_task(self._lag.run())
            tasks.create_task(self._service.reserve.run())

    async def listen(self, listen: str, owners_socket: Path | None) -> str:
        """Returns the URL, unix:PATH for a socket."""
        if owners_socket is not None:
            await web.UnixSite(self._runner, owners_socket).start()
            return f"unix:{owners_socket}"
        sock = listening_socket(listen)
        await web.SockSite(self._runner, sock).start()
        return url_of(sock)

    async def drain(self) -> None:
        """Accepts no more requests and answers the open ones."""
        log.info("stopping", in_flight=self._service.replies.in_flight)
        await self._runner.cleanup()


@asynccontextmanager
async def http_service(
    settings: Settings,
    stores: Stores,
    state: SystemState,
    checks: Checks,
    unused: UnusedPartitions,
    reserve: DiskReserve,
    owners_socket: Path | None,
) -> AsyncIterator[HttpService]:
    """Yields the service when its reader of answers is positioned. It does not listen yet."""
    async with AsyncExitStack() as stack:
        replies = Replies(stores.log)
        await replies.start()
        stack.push_async_callback(replies.close)
        lag = LagMonitor(stores.log, INTERACTIVE, LOOK_EVERY_S)
        limits = Limits(settings.max_upload, settings.upload_memory, settings.max_in_flight)
        store = GuardedStore(stores.objects, stores.vectors, state.erasures)
        acceptor = UploadAcceptor(
            stores.log, stores.objects, stores.vectors, store, state.erasures, reserve, replies.reply_to
        )
        service = Service(
            log=stores.log,
            objects=stores.objects,
            vectors=stores.vectors,
            keys=KeyChecker(stores.vectors) if owners_socket is None else NoKeyNeeded(stores.vectors),
            acceptor=acceptor,
            replies=replies,
            backpressure=Backpressure(lag.age_s, settings.max_age),
            flow=Flow(stores.log, replies.reply_to, unused),
            uploads=UploadMemory(limits.upload_memory, limits.max_upload),
            limits=limits,
            generations=state.generations,
            erasures=state.erasures,
            checks={**checks, "uploads": acceptor.check},
            reserve=reserve,
        )
        runner = Runner(create_app(service), handler_cancellation=True, shutdown_timeout=DRAIN_S)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        yield HttpService(runner, service, lag)


async def require_keys(settings: Settings, vectors: VectorReader) -> None:
    """Raises ConfigurationError when other machines could use the service without any key."""
    host, _ = host_and_port(settings.listen)
    if is_loopback(host) or await vectors.api_keys():
        return
    if not settings.open:
        raise ConfigurationError(
            f"{settings.listen} can be reached from other machines and no API key exists: make one with "
            "`facestream keys create --scope admin`, or allow everybody with FACESTREAM_OPEN=1"
        )
    log.warning("open to everybody who can reach this address: no API key exists", listen=settings.listen)
