"""Runs the coroutine of a command so that Ctrl-C always ends it as an interrupt."""

import asyncio
import signal
import threading
from collections.abc import Coroutine
from types import FrameType
from typing import Any


def run_interruptibly(main: Coroutine[Any, Any, int]) -> int:
    """Like asyncio.run, but after Ctrl-C it always raises KeyboardInterrupt, however the coroutine ends. asyncio itself
    would return or raise what the interrupted task returned or raised, for example an error of a closed pipe.

    The first Ctrl-C cancels the coroutine, which may clean up; a second one raises KeyboardInterrupt immediately.
    """
    if threading.current_thread() is not threading.main_thread():
        return asyncio.run(main)  # only the main thread gets signals
    task: asyncio.Task[int] | None = None
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted or task is None:
            raise KeyboardInterrupt
        interrupted = True
        task.get_loop().call_soon_threadsafe(task.cancel)

    async def run() -> int:
        nonlocal task
        task = asyncio.current_task()
        return await main

    handler = signal.signal(signal.SIGINT, interrupt)
    try:
        return asyncio.run(run())
    finally:
        signal.signal(signal.SIGINT, handler)
        if interrupted:
            raise KeyboardInterrupt
