"""One trial of bench/accuracy/naming.py end to end: through a running service, with the service's defaults."""

import asyncio
import uuid
from pathlib import Path
from typing import Any

import aiohttp

from bench.accuracy.naming_trials import NamingRates, NamingTrial, naming_rates
from bench.serving import Serving
from facestream.progress import progress_bar
from schemas.answers import RecognizedBody, RecognizedPerson

CONCURRENCY = 8


def run_trial_on_own_service(
    folder: Path, weights: Path, dtype: str, photos: Path, paths: list[str], trial: NamingTrial
) -> NamingRates:
    """Starts a service with its data in `folder`."""
    with Serving(folder / "data", weights.resolve(), dtype=dtype) as serving:
        return run_trial_over_http(serving.url, photos, paths, trial)


def run_trial_over_http(url: str, photos: Path, paths: list[str], trial: NamingTrial) -> NamingRates:
    """photos: the folder of `paths`. Raises RuntimeError when the service refuses an image."""
    return asyncio.run(_run_trial(url, photos, paths, trial))


async def _run_trial(url: str, photos: Path, paths: list[str], trial: NamingTrial) -> NamingRates:
    directory = f"bench-{uuid.uuid4().hex[:12]}"
    turns = asyncio.Semaphore(CONCURRENCY)
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

        with progress_bar("learn", len(trial.people)) as done:
            await asyncio.gather(
                *(
                    send("/learn", row, {"person": person, "face": "largest"})
                    for person, row in zip(trial.people, trial.learned, strict=True)
                )
            )
        with progress_bar("recognize", len(trial.probes) + len(trial.strangers)) as done:
            bodies = await asyncio.gather(*(send("/recognize", row, {}) for row in trial.probes + trial.strangers))
    missed = [
        paths[row] for row, body in zip(trial.probes + trial.strangers, bodies, strict=True) if not body["persons"]
    ]
    if missed:
        raise RuntimeError(f"no face was found in {', '.join(missed)}")
    found = [max(RecognizedBody.model_validate(body).persons, key=_area) for body in bodies]
    return naming_rates(trial.people, found[: len(trial.people)], found[len(trial.people) :])


def _area(person: RecognizedPerson) -> int:
    left, top, right, bottom = person.box
    return int((right - left) * (bottom - top))
