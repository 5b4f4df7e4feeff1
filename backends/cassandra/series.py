"""Many requests of which some are on their way at once: whenever one was answered, the driver's thread sends the next
one.

The event loop has no part in that. Were they sent from there, even only the first of them, the two threads would wait
for each other's turn of the interpreter: two thirds as many faces a second were written.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from cassandra.cluster import ResponseFuture


class Series:
    """`done` is the end of it: all were answered, or one has failed."""

    def __init__(self, requests: Iterable[tuple[Any, Sequence[Any]]], send: Callable[..., ResponseFuture]) -> None:
        """requests: what `send` takes. They are made as they are needed, in the driver's thread, and have no rows as
        answers.
        """
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._requests = enumerate(requests)
        self._send = send
        self._on_their_way: set[int] = set()
        self._over = False
        self._lock = threading.Lock()

    def begin(self, at_once: int) -> None:
        """In the driver's thread."""
        for _ in range(at_once):
            self._go_on()

    def stop(self, error: Exception | None = None) -> None:
        """Sends no more."""
        with self._lock:
            self._end(error)

    def _go_on(self) -> None:
        """Sends the next one."""
        with self._lock:
            if self._over:
                return
            try:
                number, (statement, values) = next(self._requests)
            except StopIteration:
                if not self._on_their_way:
                    self._end(None)
                return
            except Exception as error:
                self._end(error)
                return
            self._on_their_way.add(number)
        try:
            asked = self._send(statement, values)
        except Exception as error:
            self.stop(error)
        else:
            asked.add_callbacks(self._answered, self._failed, callback_args=(asked, number), errback_args=(asked,))

    def _answered(self, rows: Any, asked: ResponseFuture, number: int) -> None:
        release(asked)
        with self._lock:
            if number not in self._on_their_way:  # two servers have answered
                return
            self._on_their_way.remove(number)
        self._go_on()

    def _failed(self, error: Exception, asked: ResponseFuture) -> None:
        release(asked)
        self.stop(error)

    def _end(self, error: Exception | None) -> None:
        if not self._over:
            self._over = True
            with suppress(RuntimeError):  # the event loop is closed, nobody waits any more
                self._loop.call_soon_threadsafe(_settle, self.done, error)


def release(asked: ResponseFuture) -> None:
    """The driver leaves each of its futures, and the rows in it, to the garbage collector, because what is asked, its
    callbacks and its timer refer to each other. With thousands of them that takes a third of the time.
    """
    asked.clear_callbacks()
    asked._timer = None


def _settle(done: asyncio.Future[None], error: Exception | None) -> None:
    if done.done():  # given up
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
