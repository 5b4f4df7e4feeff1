"""Clients that learn and recognize under load, and check afterwards that every acknowledged request was kept.

Also the arguments and the verdict that all soak runs share.
"""

import argparse
import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import aiohttp

from bench.photos import add_photos_argument

ANSWER_S = 180.0  # until a request must be answered
RETRY_S = 0.3  # until a request is sent again
CLIENTS = 6


class RunningService(Protocol):
    """A service, or several replicas of it."""

    @property
    def urls(self) -> list[str]: ...


@dataclass
class ClientReport:
    """The responses that the clients got, and the errors that were found at the end."""

    learned: set[str] = field(default_factory=set)  # people
    accepted: set[str] = field(default_factory=set)  # ids of images
    answers: Counter[str] = field(default_factory=Counter)  # by kind and status
    latencies: list[float] = field(default_factory=list)  # seconds from the first try to the answer
    wrong: list[str] = field(default_factory=list)


class Clients:
    """Clients that run while the context is open. `finish` waits until each has ended its request, `check` reports
    errors.
    """

    def __init__(
        self,
        service: RunningService,
        photos: Sequence[bytes],
        report: ClientReport,
        *,
        directory: str,
        seed: int,
        clients: int = CLIENTS,
    ) -> None:
        self._service, self._photos, self._report, self._directory = service, photos, report, directory
        self._seed, self._clients = seed, clients
        self._stopping = asyncio.Event()

    async def __aenter__(self) -> Self:
        # a stopped process does not answer: the request times out and is sent to another replica
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=40))
        self._tasks = [asyncio.create_task(self._client(random.Random(self._seed + i))) for i in range(self._clients)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._session.close()

    async def finish(self) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def check(self) -> None:
        await self._check_answers()
        await self._check_listing()

    async def _client(self, chance: random.Random) -> None:
        while not self._stopping.is_set():
            kind, key = chance.choice(("learn", "recognize", "async")), str(uuid.UUID(int=chance.getrandbits(128)))
            began = time.monotonic()
            status, body = await self._send_until_answered(kind, key, chance)
            self._report.latencies.append(time.monotonic() - began)
            self._report.answers[f"{kind} {status}"] += 1
            if status in (200, 201, 202):
                self._report.accepted.add(body["image_id"])
            else:
                self._report.wrong.append(f"{kind} {key} ended with {status}: {body}")
            if kind == "learn" and status in (200, 201):
                self._report.learned.add(f"person-{key}")

    async def _send_until_answered(self, kind: str, key: str, chance: random.Random) -> tuple[int, dict[str, Any]]:
        headers = {"Idempotency-Key": key} | ({"Prefer": "respond-async"} if kind == "async" else {})
        fields = {"directory": self._directory} | ({"person": f"person-{key}"} if kind == "learn" else {})
        photo = chance.choice(self._photos)
        deadline = time.monotonic() + ANSWER_S
        while True:
            form = aiohttp.FormData(fields)
            form.add_field("file", photo, filename="photo.jpg")
            url = f"{chance.choice(self._service.urls)}/{'learn' if kind == 'learn' else 'recognize'}"
            status, body = await self._request("POST", url, data=form, headers=headers)
            is_answered = status in (200, 201) or (status == 202 and kind != "learn")
            refused = 400 <= status < 500 and status != 429
            if is_answered or refused or time.monotonic() > deadline:
                return status, body
            await asyncio.sleep(RETRY_S)

    async def _check_answers(self) -> None:
        for image_id in sorted(self._report.accepted):
            status, body = await self._get(f"/results/{image_id}")
            if status not in (200, 201):
                self._report.wrong.append(f"the accepted image {image_id} ended in {status}: {body}")

    async def _check_listing(self) -> None:
        faces: dict[str, int] = {}
        after = ""
        while True:
            path = f"/directories/{self._directory}/persons"
            status, page = await self._get(path, {"limit": "1000", "after": after})
            if status != 200:
                self._report.wrong.append(f"{path} ended in {status}: {page}")
                return
            faces |= {person["id"]: person["faces"] for person in page["persons"]}
            if "next" not in page:
                break
            after = page["next"]
        learned = self._report.learned
        self._report.wrong += [
            f"{person} was acknowledged and is not there" for person in sorted(learned - faces.keys())
        ]
        self._report.wrong += [
            f"{person} has {count} faces of one picture" for person, count in faces.items() if count != 1
        ]

    async def _get(self, path: str, query: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        """Asks again while the image is being worked on, and while a replica has not reconnected to a server."""
        deadline = time.monotonic() + ANSWER_S
        while True:
            status, body = await self._request("GET", self._service.urls[0] + path, params=query)
            if status not in (0, 202, 429, 503) or time.monotonic() > deadline:
                return status, body
            await asyncio.sleep(RETRY_S)

    async def _request(self, method: str, url: str, **options: Any) -> tuple[int, dict[str, Any]]:
        """The status and the body; 0 and the error if there is no answer. options: of aiohttp."""
        try:
            async with self._session.request(method, url, **options) as response:
                return response.status, await response.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            return 0, {"error": repr(error)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, default=Path("data/weights"))
    add_photos_argument(parser, "the photos of `make photos`")


def portraits(folder: Path) -> list[bytes]:
    """The portraits of one person from `make photos`. Ends the program if there are none."""
    found = [path.read_bytes() for path in sorted(folder.glob("obama*.jpg")) if "partial" not in path.name]
    if not found:
        raise SystemExit(f"no portraits (obama*.jpg) in {folder}: get them with `make photos`")
    return found


def verdict(wrong: Sequence[str]) -> int:
    """Prints the errors, or that there are none. Returns the exit status."""
    for line in wrong:
        print(f"WRONG: {line}")
    print("all is well" if not wrong else f"{len(wrong)} things are wrong")
    return 1 if wrong else 0
