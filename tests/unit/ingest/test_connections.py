"""What happens before any route is chosen, and when a connection ends early: problems, and no tracebacks in the log."""

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from aiohttp.web import UrlDispatcher
from prometheus_client import REGISTRY

from tests.unit.ingest.served import Served, picture, served

HOST = "Host: x\r\nConnection: close\r\n"
FORM = "Content-Type: multipart/form-data; boundary=b\r\n"
UPLOAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n%b\r\n--b--\r\n' % picture()
INVALID = {
    "an invalid method": f"FO(O / HTTP/1.1\r\n{HOST}\r\n",
    "an unknown method": f"FOO / HTTP/1.1\r\n{HOST}\r\n",
    "no HTTP": "hello\r\n\r\n",
    "TLS": "\x16\x03\x01\x02\x00\x01\r\n\r\n",
    "another version": f"GET / HTTP/9.9\r\n{HOST}\r\n",
    "no host": "GET / HTTP/1.1\r\n\r\n",
    "two hosts": f"GET / HTTP/1.1\r\n{HOST}Host: y\r\n\r\n",
    "a header without colon": f"GET / HTTP/1.1\r\n{HOST}nonsense\r\n\r\n",
    "a long header": f"GET / HTTP/1.1\r\n{HOST}X: {'x' * 9_000}\r\n\r\n",
    "a negative length": f"POST /detect HTTP/1.1\r\n{HOST}{FORM}Content-Length: -1\r\n\r\n",
    "a length that is no number": f"POST /detect HTTP/1.1\r\n{HOST}{FORM}Content-Length: many\r\n\r\n",
    "two lengths": f"POST /detect HTTP/1.1\r\n{HOST}{FORM}Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "an unknown transfer encoding": f"POST /detect HTTP/1.1\r\n{HOST}{FORM}Transfer-Encoding: br\r\n\r\n",
}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path / "data") as service:
        yield service


async def connect(service: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with service.session.get("/healthz") as response:
        assert response.url.host is not None
        return await asyncio.open_connection(response.url.host, response.url.port)


async def send(service: Served, request: bytes) -> tuple[int, str, dict[str, Any]]:
    """Sends bytes and reads until the service closes the connection: status, content type and body."""
    reader, writer = await connect(service)
    writer.write(request)
    async with asyncio.timeout(10):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    line, *headers = head.decode().split("\r\n")
    fields = dict(header.lower().split(": ", 1) for header in headers)
    return int(line.split()[1]), fields["content-type"].partition(";")[0], json.loads(body)


@pytest.mark.parametrize("request_", [pytest.param(text, id=name) for name, text in INVALID.items()])
async def test_a_request_that_is_no_valid_http_is_answered_with_a_problem(
    service: Served, request_: str, caplog: pytest.LogCaptureFixture
) -> None:
    status, content_type, body = await send(service, request_.encode("latin-1"))
    assert (status, content_type, body["code"]) == (400, "application/problem+json", "invalid_request")
    assert body["detail"].startswith("this is not a valid HTTP request: ")
    assert not [it for it in caplog.records if it.levelno >= logging.WARNING]


@pytest.mark.parametrize("path", ["/detect", "/nowhere"])
async def test_an_unknown_expectation_is_answered_with_a_problem(service: Served, path: str) -> None:
    request = f"POST {path} HTTP/1.1\r\n{HOST}Expect: something\r\n\r\n"
    status, content_type, body = await send(service, request.encode())
    assert (status, content_type, body["code"]) == (417, "application/problem+json", "expectation_failed")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "nonsense"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "compressed"])
async def test_a_content_encoding_is_refused(service: Served, encoding: str, compress: Any) -> None:
    body = compress(UPLOAD)
    head = f"POST /detect HTTP/1.1\r\n{HOST}{FORM}Content-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n"
    status, content_type, answer = await send(service, head.encode() + body)
    assert (status, content_type, answer["code"]) == (415, "application/problem+json", "unsupported_encoding")


async def test_an_unknown_path_and_method_are_answered_with_the_remedy(service: Served) -> None:
    for path in ("/", "/nowhere", "/%FF"):
        status, text = await service.get(path)
        assert (status, json.loads(text)["code"]) == (404, "not_found")
        assert "/docs" in json.loads(text)["detail"]
    status, _, _ = await send(service, f"GET /\xff HTTP/1.1\r\n{HOST}\r\n".encode("latin-1"))
    assert status in (400, 404)
    async with service.session.put("/directories/acme") as response:
        assert (response.status, response.headers["Allow"]) == (405, "DELETE")
        assert (await response.json())["code"] == "method_not_allowed"


def uploads_left() -> float:
    """How many callers have left during a detect, by the metrics."""
    labels = {"route": "POST /detect", "status": "499"}
    return REGISTRY.get_sample_value("facestream_http_requests_total", labels) or 0.0


@pytest.mark.parametrize("framing", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
async def test_a_caller_that_hangs_up_during_its_upload_leaves_no_error(
    service: Served, framing: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = uploads_left()
    _, writer = await connect(service)
    start = UPLOAD[:100]
    chunk = start if framing.startswith("Content") else b"%x\r\n%b\r\n" % (len(start), start)
    with structlog.testing.capture_logs() as logs:
        writer.write(f"POST /detect HTTP/1.1\r\n{HOST}{FORM}{framing}\r\n\r\n".encode() + chunk)
        async with asyncio.timeout(10):
            while "\nfacestream_http_requests_in_flight 2.0\n" not in (await service.get("/metrics"))[1]:
                pass
            writer.transport.abort()
            while uploads_left() == before:
                assert (await service.get("/healthz"))[0] == 200
    assert uploads_left() == before + 1
    assert [it for it in logs if it["log_level"] not in ("debug", "info")] == []
    assert not [it for it in caplog.records if it.levelno >= logging.WARNING]


async def test_an_error_before_a_route_is_chosen_is_logged_and_answered(
    service: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*arguments: object) -> None:
        raise ArithmeticError("broken")

    monkeypatch.setattr(UrlDispatcher, "resolve", fail)
    status, content_type, body = await send(service, f"GET / HTTP/1.1\r\n{HOST}\r\n".encode())
    assert (status, content_type, body["code"]) == (500, "application/problem+json", "internal_error")
    assert "broken" in caplog.text
    assert "broken" not in str(body)


async def test_a_caller_that_is_gone_before_a_route_is_chosen_is_no_error(
    service: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*arguments: object) -> None:
        raise ConnectionResetError

    reader, writer = await connect(service)
    monkeypatch.setattr(UrlDispatcher, "resolve", fail)
    writer.write(f"GET / HTTP/1.1\r\n{HOST}\r\n".encode())
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()
    assert not [it for it in caplog.records if it.levelno >= logging.WARNING]
