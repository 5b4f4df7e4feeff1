"""Kills the service at random moments under load and checks what a user was promised: `python -m bench.soak --kills 50`.

Clients learn and recognize, and send a request again, with its Idempotency-Key, until it is answered. Afterwards no acknowledged
learn may be missing, no face may be there twice, every accepted image must have an answer, and the stores must open clean.
"""

import argparse
import asyncio
import random
import sqlite3
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from facestream.serving import Serving

DIRECTORY = "soak"
ANSWER_S = 120.0
CLIENTS = 6


@dataclass
class Outcome:
    """What the clients were told, and what was wrong in the end (nothing, if all is well)."""

    kills: int = 0
    learned: set[str] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)
    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


async def soak(serving: Serving, photos: Sequence[bytes], kills: int, seed: int = 0) -> Outcome:
    """photos: pictures with one face each. The service must not run yet; it is stopped in the end."""
    outcome, stopping, chance = Outcome(), asyncio.Event(), random.Random(seed)
    await asyncio.to_thread(serving.start)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S)) as session:
        clients = [asyncio.create_task(_client(session, serving, photos, outcome, stopping, i)) for i in range(CLIENTS)]
        for number in range(kills):
            await asyncio.sleep(chance.uniform(0.1, 5.0))
            serving.kill()
            outcome.kills += 1
            print(f"kill {number + 1}/{kills}: {len(outcome.learned)} learned, {dict(outcome.answers)}", flush=True)
            await asyncio.to_thread(serving.start)
        stopping.set()
        await asyncio.gather(*clients)
        await _check_answers(session, serving, outcome)
        await _check_listing(session, serving, outcome)
    code = await asyncio.to_thread(serving.stop)
    if code:
        outcome.wrong.append(f"the service ended with {code}")
    _check_files(serving.data, outcome)
    return outcome


async def _client(
    session: aiohttp.ClientSession,
    serving: Serving,
    photos: Sequence[bytes],
    outcome: Outcome,
    stopping: asyncio.Event,
    number: int,
) -> None:
    chance = random.Random(number)
    while not stopping.is_set():
        key = str(uuid.uuid4())
        kind = chance.choice(("learn", "recognize", "async"))
        person = f"person-{key}"
        headers = {"Idempotency-Key": key} | ({"Prefer": "respond-async"} if kind == "async" else {})
        path = "/learn" if kind == "learn" else "/recognize"
        photo = chance.choice(photos)
        deadline = time.monotonic() + ANSWER_S
        while True:
            form = aiohttp.FormData({"directory": DIRECTORY} | ({"person": person} if kind == "learn" else {}))
            form.add_field("file", photo, filename="photo.jpg")
            try:
                async with session.post(f"{serving.url}{path}", data=form, headers=headers) as response:
                    status, body = response.status, await response.json()
            except (aiohttp.ClientError, TimeoutError):
                status, body = 0, {}
            if status in (200, 201, 202) or time.monotonic() > deadline:
                break
            if 400 <= status < 500 and status != 429:
                break
            await asyncio.sleep(0.2)
        outcome.answers[f"{kind} {status}"] += 1
        if "image_id" in body:
            outcome.accepted.add(body["image_id"])
        if kind == "learn" and status in (200, 201):
            outcome.learned.add(person)
        if status not in (200, 201, 202):
            outcome.wrong.append(f"{kind} {key} ended with {status}: {body}")


async def _check_answers(session: aiohttp.ClientSession, serving: Serving, outcome: Outcome) -> None:
    deadline = time.monotonic() + ANSWER_S
    for image_id in sorted(outcome.accepted):
        while True:
            async with session.get(f"{serving.url}/results/{image_id}") as response:
                status = response.status
            if status != 202 or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        if status not in (200, 201):
            outcome.wrong.append(f"the accepted image {image_id} ended in {status}")


async def _check_listing(session: aiohttp.ClientSession, serving: Serving, outcome: Outcome) -> None:
    faces: dict[str, int] = {}
    after = ""
    while True:
        query = {"limit": "1000", "after": after}
        async with session.get(f"{serving.url}/directories/{DIRECTORY}/persons", params=query) as response:
            page = await response.json()
        faces |= {person["id"]: person["faces"] for person in page["persons"]}
        if "next" not in page:
            break
        after = page["next"]
    outcome.wrong += [f"{person} was acknowledged and is not there" for person in sorted(outcome.learned - faces.keys())]
    outcome.wrong += [f"{person} has {count} faces of one picture" for person, count in faces.items() if count != 1]


def _check_files(data: Path, outcome: Outcome) -> None:
    for name in ("log.db", "vectors.db"):
        with closing(sqlite3.connect(data / name)) as connection:
            verdict = connection.execute("PRAGMA integrity_check").fetchone()[0]
        if verdict != "ok":
            outcome.wrong.append(f"{name}: {verdict}")
    outcome.wrong += [f"left over: {path.name}" for path in (data / "objects" / ".tmp").glob("*")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, default=Path("data/weights"))
    parser.add_argument("--photos", type=Path, default=Path("photos"), help="folder of pictures with one face each")
    arguments = parser.parse_args()
    photos = [path.read_bytes() for path in sorted(arguments.photos.glob("obama*.jpg")) if "partial" not in path.name]
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        serving = Serving(Path(folder) / "data", arguments.weights.resolve())
        outcome = asyncio.run(soak(serving, photos, arguments.kills, arguments.seed))
    print(f"{outcome.kills} kills in {time.monotonic() - began:.0f} s: {len(outcome.learned)} learned, {dict(outcome.answers)}")
    for line in outcome.wrong:
        print(f"WRONG: {line}")
    print("all is well" if not outcome.wrong else f"{len(outcome.wrong)} things are wrong")
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
