"""Measures how long code blocks the event loop."""

import asyncio
import gc
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

TURN_S = 0.001


class LoopWatch:
    """As an async context manager it measures the longest turn of the event loop.

    Time in which a thread of this process was ready to run, but the machine ran other processes, is subtracted: a test
    must find code that blocks, not a busy machine. Nor is garbage collected meanwhile: among the objects of all tests
    that takes longer than what a test looks for.
    """

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def __aenter__(self) -> Self:
        gc.collect()
        gc.disable()
        self._watching = asyncio.create_task(self._watch())
        await asyncio.sleep(0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gc.enable()
        self._watching.cancel()
        with suppress(asyncio.CancelledError):
            await self._watching

    async def _watch(self) -> None:
        while True:
            began, ready = time.monotonic(), _ready_s()
            try:
                await asyncio.sleep(TURN_S)
            finally:
                self.longest_s = max(self.longest_s, time.monotonic() - began - max(0.0, _ready_s() - ready))


def _ready_s() -> float:
    """Seconds for which the threads of this process have waited for a core, if the system reports that."""
    total = 0
    for thread in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError):  # it has ended
            total += int(thread.read_text().split()[1])  # ns
    return total / 1e9
