"""What is done now and then: retention and compaction of the log, answers past their day, pictures of probes past their time."""

import asyncio
import time

import structlog

from backends.log import EventLog
from backends.objects import ObjectStore
from backends.vectors import VectorStore
from schemas.errors import FacestreamError

log = structlog.get_logger(__name__)

EVERY_S = 600.0
EXPIRED_KEPT_S = 7 * 86_400.0  # an expired answer is told from one that never was for so long
DAY_S = 86_400.0
AT_ONCE = 500


class Housekeeping:
    """`keep_probes` in days; with 0 the answers' stage deletes pictures at once and this sweeps what a crash left behind."""

    def __init__(self, log_: EventLog, objects: ObjectStore, vectors: VectorStore, keep_probes: float) -> None:
        self._log, self._objects, self._vectors = log_, objects, vectors
        self._keep_s = max(keep_probes * DAY_S, DAY_S if keep_probes == 0 else 0)

    async def run(self) -> None:
        while True:
            try:
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
