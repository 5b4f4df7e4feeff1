"""The entry point of the command line: runs a command and turns its result or error into an exit code.

The commands are imported inside `main`, so that Ctrl-C during the imports gives the same exit code.
"""

import errno
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from schemas.errors import FacestreamError

DONE, FAILED, WRONG_COMMAND, INTERRUPTED = 0, 1, 2, 130
WRONG_COMMAND_CODES = ("configuration_error", "invalid_request", "missing_field")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command. Returns the exit code: 0 done, 1 failed, 2 wrong command line or setting, 130 ended by Ctrl-C."""
    try:
        from facestream.parser import run_command

        code = run_command(argv)
        sys.stdout.flush()
        return code
    except (FacestreamError, ExceptionGroup) as error:
        if isinstance(error, ExceptionGroup) and error.split(FacestreamError)[1] is not None:
            raise
        from facestream.terminal import print_failure

        return WRONG_COMMAND if print_failure(error) & set(WRONG_COMMAND_CODES) else FAILED
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        _flush_or_discard_output()
        if error.errno == errno.ENOSPC:
            from facestream.terminal import print_message

            print_message(f"no space is left for {error.filename or 'the output'}: free some, and try again")
        return FAILED
    except KeyboardInterrupt:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, _exit_at_once)
        _flush_or_discard_output()
        return INTERRUPTED


def _flush_or_discard_output() -> None:
    """Flushes the output, or redirects it to nowhere if it cannot be written. Otherwise the interpreter would fail when
    it flushes it at exit.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _exit_at_once(number: int, frame: FrameType | None) -> None:
    """Ends the process on a second Ctrl-C, without waiting for threads that are still working."""
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
