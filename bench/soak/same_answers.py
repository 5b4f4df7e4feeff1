"""Compares the answers of different settings: `eval "$(make -s services)"; python -m bench.soak.same_answers PHOTOS`.

The same learns and recognizes go to one process with the embedded stores, and to Kafka, MinIO and Cassandra with one
and with three processes of each role. The requests of a phase run concurrently. Ids are derived from the
Idempotency-Keys, so complete answers are compared. Similarities may differ in the last digits, because a network's
results depend slightly on the batch.
"""

import argparse
import asyncio
import os
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench.cluster import ROLES, Cluster
from bench.photos import add_photos_argument
from bench.serving import Serving
from bench.stores import temporary_stores

REQUESTS_PER_PHASE = 8
DIRECTORIES = 5
TOLERANCE = 0.004  # of similarities, probabilities and scores
BOX_TOLERANCE = 1.01  # pixels


@dataclass(frozen=True, slots=True)
class Request:
    path: str
    fields: tuple[tuple[str, str], ...]
    photo: Path
    key: str


Answers = dict[str, tuple[int, Any]]


def make_phases(photos: Sequence[Path], count: int, seed: int = 0) -> Iterator[list[Request]]:
    """Phases of learns and of recognizes in turn; the person is the photo's folder.

    No photo occurs twice in a phase, because it would be random which one is processed first.
    """
    chance = random.Random(seed)
    for first in range(0, count, 2 * REQUESTS_PER_PHASE):
        for path in ("/learn", "/recognize"):
            phase = []
            chosen = chance.sample(photos, min(REQUESTS_PER_PHASE, (count - first + 1) // 2))
            for number, photo in enumerate(chosen):
                fields = {"directory": f"same-{chance.randrange(DIRECTORIES)}"}
                if path == "/learn":
                    fields |= {"person": photo.parent.name, "face": "largest"}
                key = f"{seed}-{first}-{path}-{number}"
                phase.append(Request(path, tuple(fields.items()), photo, key))
            yield phase


async def collect_answers(urls: Sequence[str], photos: Sequence[Path], count: int, seed: int = 0) -> Answers:
    chance, found = random.Random(seed), {}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:

        async def ask(request: Request) -> None:
            form = aiohttp.FormData(dict(request.fields))
            form.add_field("file", request.photo.read_bytes(), filename=request.photo.name)
            headers = {"Idempotency-Key": request.key, "Prefer": "wait=100"}
            async with session.post(chance.choice(urls) + request.path, data=form, headers=headers) as response:
                found[request.key] = (response.status, await response.json(content_type=None))

        for phase in make_phases(photos, count, seed):
            await asyncio.gather(*(ask(request) for request in phase))
    return found


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """The differences of two JSON values. Numbers differ if the difference exceeds the tolerance."""
    if isinstance(one, float | int) and isinstance(other, float | int) and not isinstance(one, bool):
        limit = BOX_TOLERANCE if ".box" in where else TOLERANCE
        return [] if abs(one - other) <= limit else [f"{where}: {one} and {other}"]
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [line for name in one for line in differences(one[name], other[name], f"{where}.{name}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [
            line for i, pair in enumerate(zip(one, other, strict=True)) for line in differences(*pair, f"{where}[{i}]")
        ]
    return [] if one == other else [f"{where}: {one!r} and {other!r}"]


async def answer_embedded(folder: Path, weights: Path, photos: Sequence[Path], count: int) -> Answers:
    serving = Serving(folder / "embedded", weights)
    await asyncio.to_thread(serving.start)
    try:
        return await collect_answers([serving.url], photos, count)
    finally:
        await asyncio.to_thread(serving.stop)


async def answer_distributed(
    folder: Path, weights: Path, photos: Sequence[Path], count: int, each: int, servers: Mapping[str, str]
) -> Answers:
    """each: processes of each role."""
    counts = dict.fromkeys(ROLES, each)
    async with (
        temporary_stores("same", servers) as stores,
        Cluster(stores, folder / f"data-{each}", weights, counts, decoders="1") as cluster,
    ):
        return await collect_answers(cluster.urls, photos, count)


async def compare(
    folder: Path,
    weights: Path,
    photos: Sequence[Path],
    count: int,
    numbers: Sequence[int],
    servers: Mapping[str, str] = os.environ,
) -> list[str]:
    """numbers: the numbers of processes of each role to compare with a single process. Returns the differences."""
    expected = await answer_embedded(folder, weights, photos, count)
    statuses = {status for status, _ in expected.values()}
    wrong = [] if statuses <= {200, 201} else [f"embedded: statuses {statuses}"]
    print(f"embedded: {len(expected)} answers", flush=True)
    for each in numbers:
        found = await answer_distributed(folder, weights, photos, count, each, servers)
        lines = [
            line
            for key in expected
            for line in differences(expected[key], found.get(key), f"{each} of each role: {key}")
        ]
        print(f"{each} of each role: {len(found)} answers, {len(lines)} differences", flush=True)
        wrong += lines
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_photos_argument(parser, "a folder of portraits for each person: NAME/*.jpg")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument(
        "--each", type=int, nargs="+", default=[1, 3], help="processes of each role, in turn (default: 1 3)"
    )
    parser.add_argument("--weights", type=Path, default=Path("data/weights"))
    arguments = parser.parse_args()
    people = [person for person in sorted(arguments.photos.iterdir()) if len(list(person.glob("*.jpg"))) > 1]
    photos = [photo for person in people[: arguments.people] for photo in sorted(person.glob("*.jpg"))[:5]]
    with tempfile.TemporaryDirectory() as folder:
        wrong = asyncio.run(
            compare(Path(folder), arguments.weights.resolve(), photos, arguments.requests, arguments.each)
        )
    for line in wrong[:20]:
        print(f"WRONG: {line}")
    print("all answers are the same" if not wrong else f"{len(wrong)} differences")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
