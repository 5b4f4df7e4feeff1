"""The HTTP client of the command line: sends a photo and returns its answer, even if the service is busy.

It prints nothing; every photo gives a `PhotoResult`.
"""

import asyncio
import json
import random
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import aiohttp
from pydantic import ValidationError

from schemas.answers import AnswerPart, Body, Problem, body_type, problem
from schemas.errors import ConfigurationError, FacestreamError, InvalidRequest, Unavailable
from schemas.event import schema_mismatch
from schemas.http_bodies import WorkingBody
from schemas.records import Purpose

ATTEMPTS = 8
RETRIED = (429, 502, 503, 504)  # a gateway answers 502 or 504 while the service behind it restarts
LONGEST_PAUSE_S, LONGEST_RETRY_AFTER_S = 8.0, 60.0
# an answer or a 202 comes after 30 s at the latest
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)
POLL_S = 1.0
LARGEST_ANSWER = 16 << 20  # bytes; a record has 8 MB
CHUNK = 256 << 10
SOCKET_URL = "http://facestream"  # the address for requests through a Unix socket


Part = TypeVar("Part", bound=AnswerPart)


class UnreadablePhoto(FacestreamError):
    code, status = "unreadable_photo", 400


class UnexpectedAnswer(FacestreamError):
    code, status = "unexpected_answer", 502


@dataclass(frozen=True)
class PhotoResult:
    """The result of one photo. body: the service's answer, or the problem if it `failed`. drawing_error: why the photo
    could not be drawn.
    """

    photo: str
    status: int
    body: Body
    drawing_error: FacestreamError | None = None

    @property
    def failed(self) -> bool:
        return self.status >= 400


@dataclass(frozen=True)
class Reply:
    """A response. body: None if it is not a JSON object. retry_after_s: None if the service gave none."""

    status: int
    body: dict[str, Any] | None
    retry_after_s: float | None


class ServiceClient:
    """A facestream service at `url`, or behind the Unix socket `unix:PATH`.

    Methods raise the errors that every photo would get: ConfigurationError for a missing key, InvalidRequest for a
    wrong option.
    """

    _unavailable: Unavailable | None = None

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url, path = url.rstrip("/"), url.removeprefix("unix:")
        self._base = SOCKET_URL if path != url else self.url
        if not _is_http(self._base):
            raise ConfigurationError(f"'{url}' is no URL of a service: write it as http://127.0.0.1:8080")
        if key and not (key.isascii() and key.isprintable()):
            raise ConfigurationError("the API key of --key or FACESTREAM_KEY has characters that no key has")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path) if path != url else aiohttp.TCPConnector(),
            headers={"Accept-Encoding": "identity"} | ({"x-api-key": key} if key else {}),
            timeout=TIMEOUT,
            auto_decompress=False,  # the limit of an answer counts the bytes that arrive
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def check(self) -> None:
        """Checks the service. Raises Unavailable if nothing answers, ConfigurationError if it is not a facestream
        service.
        """
        try:
            async with self._session.get(f"{self._base}/healthz", allow_redirects=False) as response:
                body = await _json(response)
                if response.status == 200 and body is not None:
                    return
                moved = f", and points to {response.headers['Location']}" if "Location" in response.headers else ""
                raise ConfigurationError(
                    f"{self.url} is no facestream service: it answers HTTP {response.status}{moved}"
                )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(error) from None

    async def send(self, purpose: Purpose, photo: str, fields: Mapping[str, str]) -> PhotoResult:
        try:
            data = await asyncio.to_thread(read_photo, photo)
            reply = await self._post(purpose, photo, data, fields)
            while reply.status == 202:
                await asyncio.sleep(POLL_S)
                reply = await self._request("GET", f"/results/{self.parse(reply, WorkingBody).image_id}")
            body = self.answer_of(reply, purpose)
        except (UnreadablePhoto, Unavailable, UnexpectedAnswer) as error:
            return PhotoResult(photo, error.status, problem(error))
        if isinstance(body, Problem):
            if reply.status == 400:
                raise InvalidRequest(body.detail)
            if reply.status in (401, 403):
                raise ConfigurationError(f"{self.url}: {body.detail} (--key or FACESTREAM_KEY)")
        return PhotoResult(photo, reply.status, body)

    async def _post(self, purpose: Purpose, photo: str, data: bytes, fields: Mapping[str, str]) -> Reply:
        headers = {"Idempotency-Key": str(uuid.uuid4())}  # so that a repeated request is processed once
        return await self._request("POST", f"/{purpose}", headers, lambda: form_of(photo, data, fields))

    async def _request(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        form: Callable[[], aiohttp.FormData | None] = lambda: None,
    ) -> Reply:
        """Sends a request, repeatedly if needed. Raises Unavailable after ATTEMPTS without an answer, and from then on
        immediately.
        """
        for attempt in count(1):
            if self._unavailable:
                raise self._unavailable
            pause_s = min(2.0 ** (attempt - 2), LONGEST_PAUSE_S) * random.uniform(0.8, 1.2)
            try:
                reply = await self.exchange(method, path, headers, form())
            except Unavailable as error:
                if attempt == ATTEMPTS:
                    self._unavailable = error
                    raise
            else:
                if reply.status not in RETRIED or attempt == ATTEMPTS:
                    return reply
                pause_s = reply.retry_after_s or pause_s
            await asyncio.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    async def exchange(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, form: aiohttp.FormData | None = None
    ) -> Reply:
        """Sends one request once. Raises Unavailable if nothing answers."""
        try:
            async with self._session.request(
                method, self._base + path, data=form, headers=headers, allow_redirects=False
            ) as response:
                return Reply(response.status, await _json(response), _retry_after(response))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(error) from None

    def answer_of(self, reply: Reply, purpose: Purpose) -> Body:
        """Raises UnexpectedAnswer where the body is none of facestream's."""
        return self.parse(reply, body_type(purpose, reply.status))

    def parse(self, reply: Reply, model: type[Part]) -> Part:
        """Raises UnexpectedAnswer where the body is none of facestream's."""
        if reply.body is None:
            raise UnexpectedAnswer(f"{self.url} answered HTTP {reply.status} without JSON")
        try:
            return model.model_validate(reply.body)
        except ValidationError as error:
            reason = schema_mismatch(error, model.__name__).message
            raise UnexpectedAnswer(f"{self.url} answered HTTP {reply.status} with something else: {reason}") from None

    def _unreachable(self, error: Exception) -> Unavailable:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Unavailable(
            f"no service can be reached at {self.url} ({reason}): start one with `facestream up`, or check --url"
        )


def _is_http(url: str) -> bool:
    if any(it.isspace() or not it.isprintable() for it in url):
        return False
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an impossible port, IPv6 address or host name
        return False


def read_photo(photo: str) -> bytes:
    """The bytes of a photo. Raises UnreadablePhoto, whose message lacks the file name: the caller puts it first."""
    try:
        data = Path(photo).read_bytes()
    except IsADirectoryError:
        raise UnreadablePhoto("this is a folder: name the photos in it") from None
    except OSError as error:
        raise UnreadablePhoto(f"cannot be read: {error.strerror}") from None
    if not data:
        raise UnreadablePhoto("the file is empty")
    return data


def form_of(photo: str, data: bytes, fields: Mapping[str, str]) -> aiohttp.FormData:
    form = aiohttp.FormData(quote_fields=False)  # a file name is sent as UTF-8, as browsers do
    for name, value in fields.items():
        form.add_field(name, value)
    name = "".join(it if it.isprintable() else "_" for it in Path(photo).name)
    form.add_field("file", data, filename=name or "photo", content_type="application/octet-stream")
    return form


async def _json(response: aiohttp.ClientResponse) -> dict[str, Any] | None:
    """The body if it is a JSON object and not too large, as in all responses of a facestream service; else None."""
    data = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK):
        data += chunk
        if len(data) > LARGEST_ANSWER:
            return None
    try:
        body = json.loads(data)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    text = response.headers.get("Retry-After", "")
    return min(float(text), LONGEST_RETRY_AFTER_S) if text.isdecimal() else None
