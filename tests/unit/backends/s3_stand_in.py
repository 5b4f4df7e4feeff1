"""A server that answers as a test says, for example like an S3 store with problems that a healthy one does not have."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Gets the method and the path of a request, returns the bytes of the answer.
Answer = Callable[[str, str], bytes]


def answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} -", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def error(status: int, code: str, message: str = "so it is") -> bytes:
    return answer(
        status,
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode(),
        "Content-Type: application/xml",
    )


@contextmanager
def stand_in(
    answering: Answer,
    *,
    port: int = 0,
    tls: tuple[Path, Path] | None = None,
    conditions: list[str | None] | None = None,
) -> Iterator[int]:
    """Serves until the end of the block; yields its port. `tls`: certificate and key. `conditions` gets the header
    If-None-Match of each request.
    """
    connections: list[socket.socket] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            connections.append(self.connection)

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline()
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if conditions is not None:
                conditions.append(self.headers.get("If-None-Match"))
            sent = answering(self.command, self.path)
            self.wfile.write(sent)
            self.close_connection = b"Connection: close" in sent

    class Server(ThreadingHTTPServer):
        block_on_close = False  # a client keeps its connections

    server = Server(("127.0.0.1", port), Handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        for connection in connections:
            with suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
        thread.join()
