"""A client of a service's bulk lane: it uploads a picture, and polls for the answer later.

If the service restarts or is busy, requests are repeated for PATIENCE_S. Repeated uploads have the same
Idempotency-Key, so that the picture is processed once.
"""

import asyncio
import hashlib
import json
import random
import time
from collections.abc import Callable, Mapping
from itertools import count
from urllib.parse import quote

import aiohttp

from facestream.client.bulk.journal import FileVersion, version_of
from facestream.client.bulk.source import PictureFile
from facestream.client.http import (
    LONGEST_RETRY_AFTER_S,
    RETRIED,
    Reply,
    ServiceClient,
    UnexpectedAnswer,
    UnreadablePhoto,
    form_of,
    read_photo,
)
from schemas.answers import Body, Problem, problem
from schemas.errors import ConfigurationError, FacestreamError, InvalidRequest, Unavailable
from schemas.http_bodies import PersonsBody, WorkingBody
from schemas.records import Purpose

PATIENCE_S = 600.0  # without one successful request
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
TOLD_AFTER_S = 10.0
STORAGE_FULL = 507
PAGE = 1_000


class BulkClient:
    """run: becomes part of the Idempotency-Keys, so that another run gets new answers. tell: is called with a message
    while the service does not answer.

    Every method raises the errors that end the run: Unavailable after PATIENCE_S, ConfigurationError for a wrong API
    key, InvalidRequest if the service refuses the first upload as malformed.
    """

    def __init__(
        self,
        client: ServiceClient,
        purpose: Purpose,
        fields: Mapping[str, str],
        *,
        run: str = "",
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._client, self._purpose, self._fields, self._run, self._tell = client, purpose, dict(fields), run, tell
        self._last_success_at = time.monotonic()
        self._has_told = self._has_accepted_one = False

    async def upload(self, item: PictureFile, attempt: int) -> tuple[Reply, FileVersion]:
        """Uploads a picture. Returns the reply, 202 if it was accepted, and the version of the file that was read.
        Raises UnreadablePhoto.
        """
        data, version, sha256 = await asyncio.to_thread(_read_with_version, item.photo)
        person = {} if item.person is None else {"person": item.person}
        fields = self._fields | person
        same = json.dumps([self._purpose, fields, sha256, attempt, self._run], sort_keys=True)
        headers = {
            "Idempotency-Key": f"bulk-{hashlib.sha256(same.encode()).hexdigest()}",
            "Prefer": "respond-async",
        }
        form = lambda: form_of(item.photo, data, fields)  # noqa: E731 - each attempt needs a new body
        reply = await self._exchange("POST", f"/{self._purpose}?lane=bulk", headers, form)
        if reply.status == 400 and not self._has_accepted_one:
            raise InvalidRequest(self._client.parse(reply, Problem).detail)
        self._has_accepted_one = True
        return reply, version

    async def result(self, image_id: str) -> Reply:
        """Asks for an answer. Returns the reply, 202 while the image is being processed."""
        return await self._exchange("GET", f"/results/{image_id}")

    def image_id_of(self, reply: Reply) -> str:
        """The image_id in a reply with status 202. Raises UnexpectedAnswer."""
        return self._client.parse(reply, WorkingBody).image_id

    async def persons(self) -> set[str]:
        """The people who have faces in the directory."""
        names: set[str] = set()
        path = f"/directories/{quote(self._fields['directory'], safe='')}/persons?limit={PAGE}"
        after: str | None = ""
        while after is not None:
            reply = await self._exchange("GET", f"{path}&after={quote(after, safe='')}")
            page = self._client.parse(reply, PersonsBody)
            names |= {person.id for person in page.persons}
            after = page.next
        return names

    async def _exchange(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        form: Callable[[], aiohttp.FormData | None] = lambda: None,
    ) -> Reply:
        for attempt in count():
            pause_s = min(FIRST_PAUSE_S * 2.0**attempt, LONGEST_PAUSE_S) * random.uniform(0.8, 1.2)
            try:
                reply = await self._client.exchange(method, path, headers, form())
            except Unavailable as error:
                self._wait(error)
            else:
                if reply.status in (401, 403):
                    detail = self._client.parse(reply, Problem).detail
                    raise ConfigurationError(f"{self._client.url}: {detail} (--key or FACESTREAM_KEY)")
                if reply.status not in (*RETRIED, STORAGE_FULL):
                    self._last_success_at, self._has_told = time.monotonic(), False
                    return reply
                self._wait(self._refusal(reply))
                pause_s = max(pause_s, min(reply.retry_after_s or 0.0, LONGEST_RETRY_AFTER_S))
            await asyncio.sleep(pause_s)
        raise AssertionError("it returns or raises")

    def _refusal(self, reply: Reply) -> FacestreamError:
        """The error for the reply of a busy service, or of a gateway in front of it."""
        try:
            return Unavailable(self._client.parse(reply, Problem).detail)
        except UnexpectedAnswer:
            return Unavailable(f"{self._client.url} answered HTTP {reply.status}")

    def answer_of(self, reply: Reply) -> tuple[int, Body]:
        """The status and body of a reply; those of a problem if the reply is not an answer."""
        try:
            return reply.status, self._client.answer_of(reply, self._purpose)
        except UnexpectedAnswer as error:
            return error.status, problem(error)

    def _wait(self, error: FacestreamError) -> None:
        """Raises the error once PATIENCE_S have passed without success."""
        waited_s = time.monotonic() - self._last_success_at
        if waited_s > PATIENCE_S:
            raise error
        if waited_s > TOLD_AFTER_S and not self._has_told:
            self._has_told = True
            self._tell(f"{error.message}; trying again for {PATIENCE_S / 60:.0f} minutes")


def _read_with_version(photo: str) -> tuple[bytes, FileVersion, str]:
    try:
        version = version_of(photo)
    except OSError as error:
        raise UnreadablePhoto(f"cannot be read: {error.strerror}") from None
    data = read_photo(photo)
    return data, version, hashlib.sha256(data).hexdigest()
