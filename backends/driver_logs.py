"""What a server's driver has to say goes our way: its warnings, each kind now and then, without its tracebacks."""

import logging
import re
import time

import structlog

EVERY_S = 30.0

log = structlog.get_logger(__name__)


class _Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        kind = re.sub(r"\d+", "", record.getMessage())
        if now - self._said.get(kind, float("-inf")) > EVERY_S:
            self._said[kind] = now
            log.warning("driver", says=record.getMessage(), module=record.name)


def hear(name: str) -> None:
    """Takes over the driver's logger, once. What is below a warning goes nowhere: it may have passwords in it."""
    logger = logging.getLogger(name)
    if not any(isinstance(handler, _Heard) for handler in logger.handlers):
        logger.addHandler(_Heard())
        logger.setLevel(logging.WARNING)
        logger.propagate = False
