"""What is loaded once, when it is first needed."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from schemas.errors import FacestreamError

log = structlog.get_logger(__name__)

AGAIN_S = 30.0  # until what could not be loaded is tried again


class OnDemand:
    """`what` they are, for the log."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._loaded: set[str] = set()
        self._failed: dict[str, float] = {}
        self._loading = asyncio.Lock()

    async def load(self, name: str, load: Callable[[], Awaitable[None]]) -> None:
        """Before anybody waits. Raises what `load` raises."""
        await load()
        self._loaded.add(name)
        log.info(f"{self._what} loaded", name=name)

    async def has(self, name: str, load: Callable[[], Awaitable[None]]) -> bool:
        """Whether it is there, loaded now if it was not; the log says why it cannot be."""
        if name in self._loaded:
            return True
        async with self._loading:
            if name not in self._loaded and self._failed.get(name, 0.0) < time.monotonic():
                try:
                    await self.load(name, load)
                except FacestreamError as error:
                    self._failed[name] = time.monotonic() + AGAIN_S
                    log.error(f"{self._what} not loaded", name=name, code=error.code, reason=error.message)
            return name in self._loaded
