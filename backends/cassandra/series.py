"""Sends many requests, a limited number at once: for each answer the driver's thread sends the next request.

The event loop is not involved. When it sent all requests, or only the first ones, the two threads waited for each other
to release the interpreter lock, and a third fewer faces were written per second.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from cassandra.cluster import ResponseFuture

from backends.cassandra.private_parts import free_references


class RequestSeries:
    """`done` is set when all requests were answered, or when one has failed."""

    def __init__(self, requests: Iterable[tuple[Any, Sequence[Any]]], send: Callable[..., ResponseFuture]) -> None:
        """`requests`: the arguments of `send`. They are taken from the iterator as they are needed, in the driver's
        thread. Their answers have no rows.
        """
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self._loop.create_future()
        self._requests = enumerate(requests)
        self._send = send
        self._in_flight: set[int] = set()
        self._ended = False
        self._lock = threading.Lock()

    def begin(self, in_flight: int) -> None:
        """Sends the first requests. Has to run in the driver's thread."""
        for _ in range(in_flight):
            self._send_next()

    def stop(self, error: Exception | None = None) -> None:
        """Sends no more requests, and sets `done`."""
        with self._lock:
            self._end(error)

    def _send_next(self) -> None:
        """Sends the next request."""
        with self._lock:
            if self._ended:
                return
            try:
                number, (statement, values) = next(self._requests)
            except StopIteration:
                if not self._in_flight:
                    self._end(None)
                return
            except Exception as error:
                self._end(error)
                return
            self._in_flight.add(number)
        try:
            request = self._send(statement, values)
        except Exception as error:
            self.stop(error)
        else:
            request.add_callbacks(
                self._on_answer, self._on_failure, callback_args=(request, number), errback_args=(request,)
            )

    def _on_answer(self, rows: Any, request: ResponseFuture, number: int) -> None:
        free_references(request)
        with self._lock:
            if number not in self._in_flight:  # two servers have answered
                return
            self._in_flight.remove(number)
        self._send_next()

    def _on_failure(self, error: Exception, request: ResponseFuture) -> None:
        free_references(request)
        self.stop(error)

    def _end(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended = True
            with suppress(RuntimeError):  # the event loop is closed, and nobody is waiting
                self._loop.call_soon_threadsafe(_settle, self.done, error)


def _settle(done: asyncio.Future[None], error: Exception | None) -> None:
    if done.done():  # cancelled
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
