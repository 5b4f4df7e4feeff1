"""The logs of a command: lines on the standard error, as JSON, or for people on a terminal. Those of libraries too."""

import logging
import sys

import structlog

log = structlog.get_logger(__name__)


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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    root = logging.getLogger()
    if not any(isinstance(handler, _LibraryLogHandler) for handler in root.handlers):
        root.addHandler(_LibraryLogHandler(logging.WARNING))
