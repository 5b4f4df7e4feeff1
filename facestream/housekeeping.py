"""What is done now and then: retention and compaction of the log, answers past their day, pictures of probes past their time."""

import asyncio
import time
from collections.abc import Callable

import structlog

from backends.log import EventLog
from backends.objects import ObjectStore
from backends.vectors import EXPIRED_KEPT_S, VectorStore
from schemas.errors import FacestreamError

log = structlog.get_logger(__name__)

EVERY_S = 600.0
DAY_S = 86_400.0
AT_ONCE = 500


class Housekeeping:
    """`keep_probes` in days; with 0 the answers' stage deletes pictures at once and this sweeps what a crash left behind. Of
    several sinks the one for which `is_mine` holds does it.
    """

    def __init__(
        self,
        log_: EventLog,
        objects: ObjectStore,
        vectors: VectorStore,
        keep_probes: float,
        *,
        is_mine: Callable[[], bool] = lambda: True,
    ) -> None:
        self._log, self._objects, self._vectors, self._is_mine = log_, objects, vectors, is_mine
        self._keep_s = max(keep_probes * DAY_S, DAY_S if keep_probes == 0 else 0)

    async def run(self) -> None:
        while True:
            try:
                if self._is_mine():
                    await self.once()
            except FacestreamError as error:
                log.warning("housekeeping failed", code=error.code, reason=error.message)
            await asyncio.sleep(EVERY_S)

    async def once(self) -> None:
        await self._log.enforce_retention()
        await self._vectors.sweep_answers(time.time() - EXPIRED_KEPT_S)
        old: list[str] = []
        async for info in self._objects.list("probes/"):
            if info.modified < time.time() - self._keep_s:
                old.append(info.key)
            if len(old) >= AT_ONCE:
                await self._objects.delete(old)
                old.clear()
        if old:
            await self._objects.delete(old)
