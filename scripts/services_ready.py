"""Checks whether a server serves, in its own protocol and with the standard library only."""

import http.client
import socket
import struct
from collections.abc import Callable

SECONDS = 2.0


def serves(name: str, port: int) -> bool:
    """Whether the server 'kafka', 'cassandra' or 'minio' on this port of 127.0.0.1 serves."""
    try:
        return CHECKS[name](port)
    except (OSError, http.client.HTTPException, struct.error):
        return False


def kafka(port: int) -> bool:
    """Whether a metadata request (version 4, all topics) is answered with at least one broker."""
    client = b"facestream"
    request = struct.pack(">hhih", 3, 4, 1, len(client)) + client + struct.pack(">i?", -1, False)
    with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        _length, correlation, _throttled_ms, brokers = struct.unpack(">iiii", _receive(connection, 16))
    return bool(correlation == 1 and brokers >= 1)


def cassandra(port: int) -> bool:
    """Whether STARTUP is answered with READY, or with AUTHENTICATE (native protocol, version 4)."""
    options = b"".join(struct.pack(">H", len(text)) + text for text in (b"CQL_VERSION", b"3.0.0"))
    body = struct.pack(">H", 1) + options
    with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
        connection.sendall(struct.pack(">BBhBi", 0x04, 0, 0, 0x01, len(body)) + body)
        _version, _flags, _stream, opcode, _length = struct.unpack(">BBhBi", _receive(connection, 9))
    return opcode in (0x02, 0x03)


def minio(port: int) -> bool:
    """Whether MinIO is live and its store can be written to, which may happen later."""
    return all(_status(port, f"/minio/health/{what}") == 200 for what in ("live", "cluster"))


def _status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def _receive(connection: socket.socket, count: int) -> bytes:
    """Receives exactly `count` bytes. Raises ConnectionError if the connection ends before that."""
    received = b""
    while len(received) < count:
        more = connection.recv(count - len(received))
        if not more:
            raise ConnectionError("closed")
        received += more
    return received


CHECKS: dict[str, Callable[[int], bool]] = {"kafka": kafka, "cassandra": cassandra, "minio": minio}
