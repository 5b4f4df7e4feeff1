"""Runs roles in one process: starts, watches and drains them in order."""

import asyncio
import gc
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

import structlog
from aiohttp import web

from backends.open import open_reserve
from facestream.config import Settings
from facestream.runtime.listening import host_and_port, listening_socket, url_of
from facestream.runtime.member import member_name
from facestream.runtime.roles.ingest import HttpService, http_service, require_keys
from facestream.runtime.roles.sink import sink_workers
from facestream.runtime.stores import Stores, open_stores, wait_for_stores
from facestream.runtime.system_state import follow_state
from ingest.connections import Runner
from stream.health_routes import Checks, health_app
from stream.lag_monitor import LagMonitor
from stream.topics import GROUPS, INTERACTIVE
from stream.unused_partitions import UnusedPartitions
from stream.worker import Worker

log = structlog.get_logger(__name__)

Role = Literal["ingest", "process", "sink"]
LOOK_EVERY_S = 5.0
ALL: tuple[Role, ...] = ("ingest", "process", "sink")


async def serve(
    settings: Settings,
    stop: asyncio.Event,
    *,
    roles: Sequence[Role] = ALL,
    on_started: Callable[[str], None],
    owners_socket: Path | None = None,
) -> None:
    """Runs the roles until `stop` is set.

    on_started: is called when all roles work, with the URL of the service or, without one, of health and metrics.
    owners_socket: a path in a folder that only its owner can enter; the service listens there, without API keys.

    A process with all roles creates topics, bucket and tables; the others require that they exist. Stopping follows the
    flow of work: the service accepts no more requests and answers the open ones, the workers finish and commit, the
    stores close. A role that fails ends all roles.
    """
    # opened first, so that a wrong address fails before the models are loaded
    if "ingest" in roles and owners_socket is None:
        host_and_port(settings.listen)
    if settings.watch:
        host_and_port(settings.watch, "watch")
    async with AsyncExitStack() as stack:
        stores = await stack.enter_async_context(open_stores(settings))
        reserve = open_reserve(settings.log_url)
        async with reserve.released():  # so that it can start on a full disk
            await wait_for_stores(stores, stop, create_for=settings.keep_probes if tuple(roles) == ALL else None)
        if stop.is_set():
            return
        if "ingest" in roles and owners_socket is None:
            await require_keys(settings, stores.vectors)  # before the models are loaded
        state = await stack.enter_async_context(follow_state(stores.log))
        member = settings.member or stack.enter_context(member_name(settings.data, "-".join(roles)))
        workers: list[Worker] = []
        unused = UnusedPartitions(stores.log)
        background: list[Callable[[], Coroutine[Any, Any, None]]] = [state.run, unused.run]
        service: HttpService | None = None
        if "process" in roles:
            # torch takes a second to import; other roles do not need it
            from facestream.runtime.roles.process import process_workers

            workers += await stack.enter_async_context(process_workers(settings, stores, state, member))
        if "sink" in roles:
            of_sink, housekeeping = sink_workers(settings, stores, state, member)
            workers += of_sink
            background.append(housekeeping.run)
        pairs = [(worker.name, topic) for worker in workers for topic in GROUPS[worker.name]]
        if "ingest" in roles:  # the service measures those itself, and more often
            pairs = [pair for pair in pairs if pair not in INTERACTIVE]
        background.append(LagMonitor(stores.log, pairs, LOOK_EVERY_S).run)
        checks = _checks(stores, workers)
        if "ingest" in roles:
            service = await stack.enter_async_context(
                http_service(settings, stores, state, checks, unused, reserve, owners_socket)
            )
            background.append(service.run)

        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(worker.run()) for worker in workers]
            background_tasks = [tasks.create_task(run()) for run in background]
            for worker, task in zip(workers, running, strict=True):
                await _wait_until_ready(worker, task, stop)
            gc.collect()
            gc.freeze()  # later collections skip the permanent objects loaded so far, and block the loop for less time
            stack.callback(gc.unfreeze)
            if service is None:
                url = await serve_health(settings, health_app(checks, unused.degraded), stack, always=True)
            else:
                await serve_health(settings, health_app(service.checks, service.degraded), stack, always=False)
                url = await service.listen(settings.listen, owners_socket)
            log.info("serving", roles=list(roles), url=url, member=member)
            on_started(url)
            await stop.wait()
            if service is not None:
                await service.drain()
            for worker in workers:
                worker.stop()
            await asyncio.gather(*running)
            for background_task in background_tasks:
                background_task.cancel()


async def _wait_until_ready(worker: Worker, task: asyncio.Task[None], stop: asyncio.Event) -> None:
    """Waits until the worker has joined its group or has ended, or `stop` is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in (worker.ready, stop)]
    await asyncio.wait([*waits, task], return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def _checks(stores: Stores, workers: Sequence[Worker]) -> Checks:
    """The checks of /readyz. The models are loaded before anything listens, so they need none."""
    return {
        "log": stores.log.ping,
        "objects": stores.objects.ping,
        "vectors": stores.vectors.ping,
        **{worker.name: worker.check for worker in workers},
    }


async def serve_health(settings: Settings, app: web.Application, stack: AsyncExitStack, *, always: bool) -> str:
    """Serves health and metrics on their own address; the service also has them on its address. Returns the URL."""
    if not settings.watch and not always:
        return ""
    runner = Runner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    sock = listening_socket(settings.watch or "127.0.0.1:0", "watch")
    await web.SockSite(runner, sock).start()
    return url_of(sock)
