"""One draw of bench/naming.py end to end: learned and recognized through a service that runs, with its own defaults."""

import asyncio
import uuid
from pathlib import Path
from typing import Any

import aiohttp

from bench.accuracy.naming import Draw, Figures, figures
from bench.serving import Serving
from facestream.progress import progress_bar

AT_ONCE = 8


def through_own(folder: Path, weights: Path, dtype: str, photos: Path, paths: list[str], one: Draw) -> Figures:
    """Through a service with its data in `folder`."""
    with Serving(folder / "data", weights.resolve(), dtype=dtype) as serving:
        return through(serving.url, photos, paths, one)


def through(url: str, photos: Path, paths: list[str], one: Draw) -> Figures:
    """photos: the folder of `paths`. Raises RuntimeError when the service refuses an image."""
    return asyncio.run(_through(url, photos, paths, one))


async def _through(url: str, photos: Path, paths: list[str], one: Draw) -> Figures:
    directory = f"bench-{uuid.uuid4().hex[:12]}"
    turns = asyncio.Semaphore(AT_ONCE)
    async with aiohttp.ClientSession(url) as session:

        async def send(path: str, row: int, fields: dict[str, str]) -> Any:
            async with turns:
                form = aiohttp.FormData(fields | {"directory": directory})
                form.add_field("file", await asyncio.to_thread((photos / paths[row]).read_bytes), filename="photo.jpg")
                async with session.post(path, data=form) as response:
                    body = await response.json()
                    if response.status not in (200, 201):
                        raise RuntimeError(f"{paths[row]}: {path} answered {response.status}: {body}")
                    done(1)
                    return body

        with progress_bar("learn", len(one.people)) as done:
            await asyncio.gather(
                *(
                    send("/learn", row, {"person": person, "face": "largest"})
                    for person, row in zip(one.people, one.learned, strict=True)
                )
            )
        with progress_bar("recognize", len(one.probes) + len(one.strangers)) as done:
            bodies = await asyncio.gather(*(send("/recognize", row, {}) for row in one.probes + one.strangers))
    missed = [paths[row] for row, body in zip(one.probes + one.strangers, bodies, strict=True) if not body["persons"]]
    if missed:
        raise RuntimeError(f"no face was found in {', '.join(missed)}")
    found = [max(body["persons"], key=_area) for body in bodies]
    return figures(one.people, found[: len(one.people)], found[len(one.people) :])


def _area(person: dict[str, Any]) -> int:
    left, top, right, bottom = person["box"]
    return int((right - left) * (bottom - top))
