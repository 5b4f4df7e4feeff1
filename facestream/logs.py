"""The logs of a command: lines on the standard error, as JSON, or for people on a terminal. Those of libraries too.

A thread writes the lines. So if the standard error cannot be written, because its reader stands still or has gone or
the disk is full, only lines of the log are lost.
"""

import logging
import select
import sys
import threading
from queue import SimpleQueue
from typing import TextIO

import structlog

log = structlog.get_logger(__name__)

# Lines that wait while they cannot be written: a few MB.
MOST_WAITING = 10_000
FLUSH_S = 1.0


class LogLines:
    """Writes lines to `stream` in a thread. Those that cannot be written are dropped, and later their number is
    logged.
    """

    def __init__(self) -> None:
        self.stream: TextIO = sys.stderr
        self._waiting: SimpleQueue[str | threading.Event] = SimpleQueue()
        self._dropped = 0
        self._counting = threading.RLock()  # a signal handler may log while its thread holds the lock
        self._thread: threading.Thread | None = None

    def msg(self, line: str) -> None:
        if self._waiting.qsize() < MOST_WAITING:
            self._put(line)
        else:
            self._drop()

    debug = info = warning = error = critical = exception = msg

    def flush(self) -> None:
        """Waits until everything so far is written, but not longer than FLUSH_S."""
        written = threading.Event()
        self._put(written)
        written.wait(FLUSH_S)

    def _put(self, item: str | threading.Event) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
            self._thread.start()
        self._waiting.put(item)

    def _drop(self) -> None:
        with self._counting:
            self._dropped += 1

    def _write_all(self) -> None:
        while True:
            item = self._waiting.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            try:
                self._write(item)
            except (OSError, ValueError):  # ValueError: the stream is closed
                self._drop()
                continue
            if self._dropped and self._waiting.qsize() < MOST_WAITING // 2:
                with self._counting:
                    dropped, self._dropped = self._dropped, 0
                log.warning("lines of this log could not be written", lines=dropped)

    def _write(self, line: str) -> None:
        """Writes without a buffer, which would keep what cannot be written, and fail again when the process exits."""
        buffer = self.stream.buffer
        raw = getattr(buffer, "raw", buffer)
        rest = memoryview(f"{line}\n".encode(self.stream.encoding, "backslashreplace"))
        while rest:
            written = raw.write(rest)
            if written is None:  # another program has set the pipe to non-blocking, and it is full
                select.select([], [raw], [])
            else:
                rest = rest[written:]


_LINES = LogLines()


class _LibraryLogHandler(logging.Handler):
    """Forwards warnings and errors of libraries, with their tracebacks."""

    def emit(self, record: logging.LogRecord) -> None:
        say = log.error if record.levelno >= logging.ERROR else log.warning
        exc_info = record.exc_info if record.exc_info and record.exc_info[0] else None
        try:
            say("library", says=record.getMessage(), module=record.name, exc_info=exc_info)
        except Exception:  # the library must not fail because its log cannot be written
            self.handleError(record)


def log_to_stderr() -> None:
    _LINES.stream = sys.stderr
    renderer = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *names: _LINES,
    )
    root = logging.getLogger()
    if not any(isinstance(handler, _LibraryLogHandler) for handler in root.handlers):
        root.addHandler(_LibraryLogHandler(logging.WARNING))


def flush_log() -> None:
    """Waits a moment for the lines that are not written yet."""
    _LINES.flush()
