"""The decoding process. It reads hostile bytes: it may run out of memory, hang or crash without affecting other
processes.

It decodes one image after another from its socket (standard input) until its parent, `processors.decoding.pool`, ends.
It imports neither torch nor asyncio, so that it starts fast and its address space is small enough to be limited.
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

from processors.decoding.encoded_image import EncodedImage, ImageRefused, set_up_pillow
from processors.decoding.wire import GO, REQUEST, receive, send


def decode_one(channel: socket.socket, max_pixels: int, cpu_limit_s: int) -> bool:
    """Decodes one image. Returns False if this process must end: the parent has ended, or memory ran out and is
    fragmented.
    """
    header = receive(channel, REQUEST.size)
    if header is None:
        return False
    length, full, high = REQUEST.unpack(header)
    data = receive(channel, length)
    if data is None:
        return False
    # The parent ends a decode that takes too long; this limit is for the case that the parent has ended.
    spent = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(spent) + cpu_limit_s, resource.RLIM_INFINITY))
    try:
        image = EncodedImage(data, full=full, detail="high" if high else "normal", max_pixels=max_pixels)
        send(channel, {"pixels": image.cost})
        if receive(channel, 1) != GO:
            return True
        with FileIO(os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb") as file:
            answer = image.decode(file)
            # The file must not shrink while the parent has it mapped.
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            send(channel, answer, file.fileno())
    except ImageRefused as refused:
        send(channel, refused.answer)
    except MemoryError:
        send(
            channel, {"error": "unreadable_image", "message": "decoding this image takes too much memory", "last": True}
        )
        return False
    return True


def confine(parent: int, memory_limit: int) -> None:
    """Drops the rights that a decoder does not need, and makes the process end with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_limit, memory_limit))


def silence_decoders() -> None:
    """Silences the decoders: a file determines what they print, so that must not reach a log. Our tracebacks still
    do.
    """
    sys.stderr = os.fdopen(os.dup(2), "w")
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    warnings.simplefilter("ignore")
    logging.disable()


def main() -> None:
    settings = json.loads(sys.argv[1])
    confine(settings["parent"], settings["memory_limit"])
    silence_decoders()
    set_up_pillow()
    with socket.socket(fileno=0) as channel:
        send(channel, {"ready": True})
        while decode_one(channel, settings["max_pixels"], settings["cpu_limit_s"]):
            pass


if __name__ == "__main__":
    main()
