"""Models that are loaded once, when they are first needed."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from schemas.errors import FacestreamError

log = structlog.get_logger(__name__)

RETRY_S = 30.0  # time until loading a model is tried again after a failure


class LoadedModels:
    """The models of one kind that are loaded, by name."""

    def __init__(self, kind: str) -> None:
        """kind: for the log, 'detector' for example."""
        self._kind = kind
        self._loaded: set[str] = set()
        self._failed: dict[str, float] = {}
        self._loading = asyncio.Lock()

    async def load(self, name: str, load: Callable[[], Awaitable[None]]) -> None:
        """Loads a model at the start of a role. Raises what `load` raises."""
        await load()
        self._loaded.add(name)
        log.info(f"{self._kind} loaded", name=name)

    async def ensure_loaded(self, name: str, load: Callable[[], Awaitable[None]]) -> bool:
        """Whether the model is loaded. Loads it if it was not; the log says why it cannot be loaded."""
        if name in self._loaded:
            return True
        async with self._loading:
            if name not in self._loaded and self._failed.get(name, 0.0) < time.monotonic():
                try:
                    await self.load(name, load)
                except FacestreamError as error:
                    self._failed[name] = time.monotonic() + RETRY_S
                    log.error(f"{self._kind} not loaded", name=name, code=error.code, reason=error.message)
            return name in self._loaded
