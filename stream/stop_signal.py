"""The signal to stop a worker, and waits that end when it is given."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from schemas.errors import StorageFull, Unavailable

log = structlog.get_logger(__name__)

LOG_AWAY_S = 1.0

T = TypeVar("T")


class StopSignal:
    """Set once, to stop a worker. stage: the name for the process's log. `failing` has the reasons for which calls that
    are being repeated fail now, by purpose.
    """

    def __init__(self, stage: str) -> None:
        self._stage, self._event = stage, asyncio.Event()
        self.failing: dict[str, str] = {}

    def set(self) -> None:
        self._event.set()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    async def sleep(self, seconds: float) -> None:
        """Sleeps, but no longer than until the signal."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), seconds)

    async def retry_until_set(self, purpose: str, call: Callable[[], Awaitable[T]]) -> T | None:
        """The result of `call`, which is repeated while the log is unavailable or full; None if the signal is given
        first.
        """
        while not self.is_set:
            try:
                result = await call()
            except (Unavailable, StorageFull) as error:
                self.failing[purpose] = error.message
                log.warning(f"{purpose} failed", stage=self._stage, reason=error.message)
                await self.sleep(LOG_AWAY_S)
            else:
                self.failing.pop(purpose, None)
                return result
        return None
