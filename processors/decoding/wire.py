"""The protocol between the parent and a decoding child.

The parent sends REQUEST and the compressed bytes. The child answers with the number of pixels that decoding takes, or
an error. The parent sends GO or SKIP. After GO the child answers with the layouts of the pictures and a memory file, or
an error. An answer is JSON after its LENGTH; nothing that comes from a child is ever unpickled.
"""

import json
import socket
import struct
from typing import Any

REQUEST = struct.Struct("!Q??")  # bytes that follow; full pixels only; detail is "high"
LENGTH = struct.Struct("!I")
GO, SKIP = b"\1", b"\0"


def pack(answer: dict[str, Any]) -> bytes:
    body = json.dumps(answer).encode()
    return LENGTH.pack(len(body)) + body


def send(channel: socket.socket, answer: dict[str, Any], *descriptors: int) -> None:
    message = pack(answer)
    sent = socket.send_fds(channel, [message], list(descriptors))
    channel.sendall(message[sent:])


def receive(channel: socket.socket, length: int) -> bytes | None:
    """Exactly `length` bytes; None if the other side has ended."""
    received = channel.recv(length, socket.MSG_WAITALL) if length else b""
    return received if len(received) == length else None
