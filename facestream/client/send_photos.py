"""Sends the photos of `learn` and `recognize` to the service, a few at a time, and prints the results in order."""

import argparse
import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from facestream.client.connection import connect
from facestream.client.flags import prints_json, url_and_key
from facestream.client.http import PhotoResult, ServiceClient
from facestream.client.report import Report
from facestream.flags import settings_from
from facestream.interrupt import run_interruptibly
from schemas.answers import RecognizedBody
from schemas.errors import ConfigurationError, FacestreamError
from schemas.options import Options
from schemas.records import Purpose

REQUESTS_AT_ONCE = 4


def send(
    arguments: argparse.Namespace, purpose: Purpose, fields: Mapping[str, str], drawings: Sequence[Path] | None = None
) -> int:
    """Sends the photos. Returns the exit code. Raises ConfigurationError, Unavailable, WeightsInvalid before the first
    photo is sent.
    """
    url, key = url_and_key(arguments)

    async def run() -> int:
        failed = False
        async with connect(settings_from(arguments), url, key) as client:
            with Report(purpose, arguments.photos, as_json=prints_json(arguments)) as report:
                async with aclosing(_send_in_order(client, purpose, arguments.photos, fields, drawings)) as results:
                    async for result in results:
                        report.add(result)
                        failed |= result.failed or result.drawing_error is not None
        return 1 if failed else 0

    return run_interruptibly(run())


async def _send_in_order(
    client: ServiceClient,
    purpose: Purpose,
    photos: Sequence[str],
    fields: Mapping[str, str],
    drawings: Sequence[Path] | None,
) -> AsyncGenerator[PhotoResult, None]:
    slots = asyncio.Semaphore(REQUESTS_AT_ONCE)

    async def one(photo: str, drawing: Path | None) -> PhotoResult:
        async with slots:
            outcome = await client.send(purpose, photo, fields)
            if drawing is None or not isinstance(outcome.body, RecognizedBody):
                return outcome
            from facestream.client.draw import draw  # Pillow and its plugins are needed only for --draw

            try:
                await asyncio.to_thread(draw, photo, outcome.body.persons, drawing)
            except FacestreamError as error:
                return replace(outcome, drawing_error=error)
            return outcome

    places: Sequence[Path | None] = drawings or [None] * len(photos)
    tasks = [asyncio.create_task(one(*it)) for it in zip(photos, places, strict=True)]
    try:
        for task in tasks:
            yield await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def check_options(given: Mapping[str, str | None]) -> dict[str, str]:
    """Returns the options that were given. Raises ConfigurationError for one that is out of bounds."""
    options = {name: value for name, value in given.items() if value is not None}
    try:
        Options.from_texts(options)
    except ValidationError as invalid:
        error = invalid.errors(include_url=False, include_input=False)[0]
        flag = str(error["loc"][0]).replace("_", "-")
        raise ConfigurationError(f"--{flag}: {error['msg']}") from None
    return options
