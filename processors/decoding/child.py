"""The process that decodes: it meets hostile bytes, so it may run out of memory, hang or crash, and nothing else
suffers.

It takes one image after another from its socket (standard input) until the parent, `processors.decoding.pool`, has
gone. No torch and no asyncio are imported: it starts fast, and its address space stays small enough for a limit to mean
something.
"""

import ctypes
import fcntl
import json
import logging
import math
import os
import resource
import signal
import socket
import sys
import time
import warnings
from io import FileIO

from processors.decoding.source import Refused, Source, prepare
from processors.decoding.wire import GO, REQUEST, receive, send


def handle(channel: socket.socket, max_pixels: int, cpu_limit_s: int) -> bool:
    """One image. False when this process is to end: the parent has gone, or memory ran out and may be in pieces."""
    header = receive(channel, REQUEST.size)
    if header is None:
        return False
    length, full, high = REQUEST.unpack(header)
    data = receive(channel, length)
    if data is None:
        return False
    # The parent's clock ends a decode that takes too long; this one is for a parent that is no longer there to do it.
    spent = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(spent) + cpu_limit_s, resource.RLIM_INFINITY))
    try:
        source = Source(data, full=full, detail="high" if high else "normal", max_pixels=max_pixels)
        send(channel, {"pixels": source.cost})
        if receive(channel, 1) != GO:
            return True
        with FileIO(os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb") as file:
            answer = source.pictures(file)
            # What the parent has mapped must not shrink under it.
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            send(channel, answer, file.fileno())
    except Refused as refused:
        send(channel, refused.answer)
    except MemoryError:
        send(
            channel, {"error": "unreadable_image", "message": "decoding this image takes too much memory", "last": True}
        )
        return False
    return True


def confine(parent: int, memory_limit: int) -> None:
    """Give up what a decoder does not need, and end when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_limit, memory_limit))


def quieten() -> None:
    """What decoders say about a file is the file's to choose, so it reaches no log; a traceback of ours still does."""
    sys.stderr = os.fdopen(os.dup(2), "w")
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    warnings.simplefilter("ignore")
    logging.disable()


def main() -> None:
    settings = json.loads(sys.argv[1])
    confine(settings["parent"], settings["memory_limit"])
    quieten()
    prepare()
    with socket.socket(fileno=0) as channel:
        send(channel, {"ready": True})
        while handle(channel, settings["max_pixels"], settings["cpu_limit_s"]):
            pass


if __name__ == "__main__":
    main()
