"""Forwards the warnings of a client library to our log: each kind once in EVERY_S, without tracebacks."""

import logging
import re
import time

import structlog

EVERY_S = 30.0

log = structlog.get_logger(__name__)


class _DriverLogHandler(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        kind = re.sub(r"\d+", "", record.getMessage())
        if now - self._said.get(kind, float("-inf")) > EVERY_S:
            self._said[kind] = now
            log.warning("driver", says=record.getMessage(), module=record.name)


def forward_driver_logs(name: str) -> None:
    """Takes over the library's logger, once. Messages below a warning are dropped: they may contain passwords."""
    logger = logging.getLogger(name)
    if not any(isinstance(handler, _DriverLogHandler) for handler in logger.handlers):
        logger.addHandler(_DriverLogHandler())
        logger.setLevel(logging.WARNING)
        logger.propagate = False
