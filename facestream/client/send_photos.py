"""The way of `learn` and `recognize`: the photos of the command line go to the service, a few at a time, and what comes
back is printed in their order.
"""

import argparse
import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from facestream.client.connection import connect
from facestream.client.http import Client, PhotoResult
from facestream.client.report import Report
from facestream.flags import settings_from
from schemas.errors import ConfigurationError, FacestreamError
from schemas.names import normalised
from schemas.records import Options, Purpose

AT_ONCE = 4


def send(
    arguments: argparse.Namespace, purpose: Purpose, fields: Mapping[str, str], drawings: Sequence[Path] | None = None
) -> int:
    """Returns the exit code. Raises ConfigurationError, Unavailable, WeightsInvalid before the first photo is sent."""
    url = arguments.url or os.environ.get("FACESTREAM_URL") or None
    key = arguments.key or os.environ.get("FACESTREAM_KEY") or None

    async def run() -> int:
        failed = False
        async with connect(settings_from(arguments), url, key) as client:
            with Report(purpose, arguments.photos) as report:
                async with aclosing(_in_order(client, purpose, arguments.photos, fields, drawings)) as outcomes:
                    async for outcome in outcomes:
                        report.add(outcome)
                        failed |= outcome.failed or outcome.trouble is not None
        return 1 if failed else 0

    return asyncio.run(run())


async def _in_order(
    client: Client, purpose: Purpose, photos: Sequence[str], fields: Mapping[str, str], drawings: Sequence[Path] | None
) -> AsyncGenerator[PhotoResult, None]:
    at_once = asyncio.Semaphore(AT_ONCE)

    async def one(photo: str, drawing: Path | None) -> PhotoResult:
        async with at_once:
            outcome = await client.send(purpose, photo, fields)
            if drawing is None or outcome.failed:
                return outcome
            from facestream.client.draw import draw  # Pillow and its plugins: only for who draws

            try:
                await asyncio.to_thread(draw, photo, outcome.body["persons"], drawing)
            except FacestreamError as error:
                return replace(outcome, trouble=error)
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


def checked_name(text: str, flag: str) -> str:
    """Raises ConfigurationError, as a wrong command line does."""
    try:
        return normalised(text)
    except ValueError as error:
        raise ConfigurationError(f"{flag}: {error}") from None


def checked_options(given: Mapping[str, str | None]) -> dict[str, str]:
    """The options that were given. Raises ConfigurationError for one that is out of bounds."""
    options = {name: value for name, value in given.items() if value is not None}
    try:
        Options.model_validate(options)
    except ValidationError as invalid:
        error = invalid.errors(include_url=False, include_input=False)[0]
        flag = str(error["loc"][0]).replace("_", "-")
        raise ConfigurationError(f"--{flag}: {error['msg']}") from None
    return options
