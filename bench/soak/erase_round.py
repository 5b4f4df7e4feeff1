"""One round of `bench.soak.erase`: learns a person, erases it with more pictures in flight, and searches for it."""

import asyncio
import json
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp

from bench.clients import ANSWER_S, RETRY_S, RunningService
from bench.cluster import unique
from schemas.ids import learned_face_id

Kind = Literal["person", "face", "image", "directory"]
KINDS: tuple[Kind, ...] = ("person", "face", "image", "directory")
IN_FLIGHT = 3  # portraits, and as many photos
# The answer to a photo may be sent before the erase is answered, and arrive after that.
ON_ITS_WAY_S = 0.25
ASYNC = {"Prefer": "respond-async"}


@dataclass(frozen=True, slots=True)
class RoundPhotos:
    """Portraits of one person, and a picture of another one."""

    portraits: Sequence[bytes]
    other_person: bytes


@dataclass
class Round:
    """A round: `run` it, then `check` it at any later time. `wrong` has the errors that were found."""

    service: RunningService
    session: aiohttp.ClientSession
    photos: RoundPhotos
    kind: Kind
    again: bool
    chance: random.Random
    wrong: list[str] = field(default_factory=list)
    latency: float = 0.0

    def __post_init__(self) -> None:
        self.directory, self.person, self.other = unique("d"), unique("erased-"), unique("stays-")
        self.face_ids: set[str] = set()
        self.images: set[str] = set()
        self.learned_again: str | None = None

    async def run(self, erasing: asyncio.Event) -> None:
        """Runs the round. erasing: is set when everything is in flight and the erase is sent next."""
        portraits = list(self.photos.portraits)
        self.chance.shuffle(portraits)
        first_key = str(uuid.UUID(int=self.chance.getrandbits(128)))
        await self._learn(self.other, self.photos.other_person)
        if self.kind != "image":
            body = await self._learn(self.person, portraits[0], key=first_key)
            self.images.add(body.get("image_id", ""))
            self.face_ids.add(learned_face_id(body["image_id"]))
        earlier = [await self._ask("POST", "/recognize", portraits[1]) for _ in range(2)]
        for _, body in earlier:
            if self.kind != "image" and self.person not in json.dumps(body):
                self._add_error("not named before", body)
        waiting = [asyncio.create_task(self._recognize(portraits[1])) for _ in range(IN_FLIGHT)]
        target = await self._send_portraits(portraits)
        later = [await self._ask("POST", "/recognize", portraits[1], headers=ASYNC) for _ in range(IN_FLIGHT)]
        erasing.set()
        await asyncio.sleep(self.chance.uniform(0, 2))
        began = time.monotonic()
        await self._erase(target)
        erased_at = time.monotonic()
        self.latency = erased_at - began
        probes = {body["image_id"] for _, body in (*earlier, *later) if "image_id" in body}
        await self._check_probes(probes)
        await self.check()
        for task in waiting:
            arrived, body = await task
            if arrived > erased_at + ON_ITS_WAY_S:
                self._check_body("a photo that waited", body)
        await self._check_pictures()
        if self.again:
            await self._learn_again(portraits[0], first_key if self.kind == "person" else None)
        await self.check()

    async def check(self) -> None:
        """Checks on every replica which people are named and listed."""
        for url in self.service.urls:
            _, body = await self._ask("POST", "/recognize", self.photos.portraits[1], url=url)
            self._check_body("a photo", body)
            names = json.dumps(body.get("persons", []))
            if self.learned_again and self.person not in names:
                self._add_error("learned again, and not named", body)
            if (self.other in names) == (
                self.kind == "directory"
            ):  # with strangers=1, every enrolled person is a candidate
                self._add_error("somebody else is gone, or is not", body)
            _, body = await self._ask("GET", f"/directories/{self.directory}/persons", url=url)
            if (self.person in json.dumps(body)) != bool(self.learned_again):
                self._add_error("the listing is wrong", body)

    async def _send_portraits(self, portraits: Sequence[bytes]) -> str:
        """Sends portraits of the person, without waiting for the learns. Returns the path to DELETE."""
        if self.kind == "face":
            return f"/faces/{next(iter(self.face_ids))}"
        count = 1 if self.kind == "image" else IN_FLIGHT
        for number in range(count):
            portrait = portraits[2] + bytes([number])  # the same picture in another file
            status, body = await self._ask("POST", "/learn", portrait, person=self.person, headers=ASYNC)
            if status not in (200, 201, 202):
                self._add_error("a portrait was not accepted", body)
                continue
            self.images.add(body["image_id"])
            self.face_ids.add(learned_face_id(body["image_id"]))
        if self.kind == "image":
            return f"/images/{next(iter(self.images))}"
        return f"/directories/{self.directory}" + (f"/persons/{self.person}" if self.kind == "person" else "")

    async def _erase(self, path: str) -> None:
        deadline = time.monotonic() + ANSWER_S
        unknown = False  # whether an earlier try may have erased the image
        while time.monotonic() < deadline:
            status, body = await self._send("DELETE", path)
            if status == 200:
                return
            if status == 404 and unknown:  # its picture has been deleted, the rest will be
                return await self._check_gone()
            unknown = True
            if 400 <= status < 500 and status != 429:
                break
            await asyncio.sleep(RETRY_S)
        self._add_error(f"DELETE {path} ended with {status}", body)

    async def _check_gone(self) -> None:
        listing = f"/directories/{self.directory}/persons"
        while self.person in json.dumps((await self._ask("GET", listing))[1]):  # noqa: ASYNC110 - it asks another process
            await asyncio.sleep(RETRY_S)

    async def _recognize(self, photo: bytes) -> tuple[float, dict[str, Any]]:
        _, body = await self._send("POST", "/recognize", photo)
        return time.monotonic(), body

    async def _check_probes(self, probes: set[str]) -> None:
        for image_id in (*probes, *self.images):
            for url in self.service.urls:
                deadline = time.monotonic() + ANSWER_S
                while True:
                    status, body = await self._ask("GET", f"/results/{image_id}", url=url)
                    self._check_body("a result", body)
                    if status != 202 or time.monotonic() > deadline:
                        break
                    await asyncio.sleep(RETRY_S)
                # an erased image gives 404, or 409 once its record that was in flight is answered
                erased = image_id in self.images or self.kind == "directory"
                if status not in ((404, 409) if erased else (200,)):
                    self._add_error(
                        f"the result of {'a portrait' if image_id in self.images else 'a photo'} is {status}", body
                    )

    async def _check_pictures(self) -> None:
        paths = [f"/files/{it}.jpg" for it in self.images] + [f"/faces/{it}.jpg" for it in self.face_ids]
        for path in paths:
            for url in self.service.urls:
                status, _ = await self._ask("GET", path, url=url)
                if status != 404:
                    self._add_error(f"{path} is there: {status}", {})

    async def _learn_again(self, portrait: bytes, key: str | None) -> None:
        """Learns the person again, with the Idempotency-Key of the first learn or with a new one."""
        body = await self._learn(self.person, portrait, key=key)
        image_id = self.learned_again = body["image_id"]
        self.face_ids.discard(learned_face_id(image_id))

    async def _learn(self, person: str, portrait: bytes, key: str | None = None) -> dict[str, Any]:
        status, body = await self._ask("POST", "/learn", portrait, key=key, person=person)
        if status not in (200, 201):
            self._add_error(f"a learn ended with {status}", body)
            raise RoundFailed
        return body

    def _check_body(self, what: str, body: dict[str, Any]) -> None:
        text = json.dumps(body)
        if (self.person in text and not self.learned_again) or any(it in text for it in self.face_ids):
            self._add_error(f"{what} names the erased person", body)

    def _add_error(self, what: str, body: dict[str, Any]) -> None:
        self.wrong.append(f"{self.kind} {self.person} in {self.directory}: {what}: {json.dumps(body)[:400]}")

    async def _ask(
        self,
        method: str,
        path: str,
        photo: bytes | None = None,
        *,
        url: str | None = None,
        key: str | None = None,
        headers: dict[str, str] | None = None,
        **fields: str,
    ) -> tuple[int, dict[str, Any]]:
        """Sends a request until it is answered. A photo has an Idempotency-Key, so that it is processed once."""
        headers = dict(headers or {})
        if photo is not None:
            headers["Idempotency-Key"] = key or str(uuid.UUID(int=self.chance.getrandbits(128)))
        deadline = time.monotonic() + ANSWER_S
        while True:
            status, body = await self._send(method, path, photo, url=url, headers=headers, **fields)
            waits = status == 202 and photo is not None and "Prefer" not in headers
            if not waits and status not in (0, 429) and status < 500:
                return status, body
            if time.monotonic() > deadline:
                self._add_error(f"{method} {path} was not answered: {status}", body)
                return status, body
            await asyncio.sleep(RETRY_S)

    async def _send(
        self,
        method: str,
        path: str,
        photo: bytes | None = None,
        *,
        url: str | None = None,
        headers: dict[str, str] | None = None,
        **fields: str,
    ) -> tuple[int, dict[str, Any]]:
        form = None
        if photo is not None:
            form = aiohttp.FormData(
                {"directory": self.directory} | fields | ({"strangers": "1"} if "person" not in fields else {})
            )
            form.add_field("file", photo, filename="photo.jpg")
        target = (url or self.chance.choice(self.service.urls)) + path
        try:
            async with self.session.request(method, target, data=form, headers=headers) as response:
                is_json = "json" in response.content_type
                return response.status, await response.json(content_type=None) if is_json else {}
        except (aiohttp.ClientError, TimeoutError) as error:
            return 0, {"error": repr(error)}


class RoundFailed(Exception):
    """The round cannot continue; `wrong` says why."""
