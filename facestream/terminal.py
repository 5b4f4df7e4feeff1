"""What commands say to people: on stderr, and nothing that would steer the terminal."""

import logging
import sys

import structlog


def print_message(message: str) -> None:
    print(f"facestream: {printable(message)}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Text for a terminal: what is no character, or would steer the terminal, is replaced."""
    return "".join(it if it.isprintable() or it == "\u200d" else "\ufffd" for it in text)


def log_warnings_only() -> None:
    """The log holds warnings only: a command says itself what happens."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
