"""The way of `watch`: a file is sent, in the bulk lane, once it has stayed as it is from one look to the next.

What was done is in a journal as learning a folder has it, so that the same command goes on where it ended.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facestream.client.bulk.journal import Entry, Journal, Version, journal_path, version_of
from facestream.client.bulk.lane import Lane, answer_of
from facestream.client.bulk.source import SUFFIXES, Item
from facestream.client.connection import connect
from facestream.client.http import POLL_S, UnreadablePhoto
from facestream.client.report import advice, json_line
from facestream.flags import settings_from
from facestream.terminal import print_message, printable
from schemas.errors import ConfigurationError
from schemas.names import normalised
from schemas.records import Purpose, problem

LOOK_EVERY_S = 1.0
AT_ONCE = 16
ATTEMPTS = 3  # to get an answer for a picture whose answer is gone
GONE = (404, 410)
OUR_FAULT = 500  # from this status on the picture is not to blame: another start tries it again


@dataclass(frozen=True, slots=True)
class Found:
    """A picture in the folder, and what its place says of it."""

    item: Item
    purpose: Purpose
    directory: str


def watch(arguments: argparse.Namespace, folder: Path) -> int:
    """Returns the exit code, once it is told to stop. Raises ConfigurationError, Unavailable, WeightsInvalid."""
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is no folder")
    url = arguments.url or os.environ.get("FACESTREAM_URL") or None
    key = arguments.key or os.environ.get("FACESTREAM_KEY") or None
    settings = settings_from(arguments)

    async def run(journal: Journal) -> None:
        stop = asyncio.Event()
        for each in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(each, stop.set)
        async with connect(settings, url, key) as client:

            def lane_of(purpose: Purpose, directory: str) -> Lane:
                # as for a folder: a picture is learned once, whichever run does it
                return Lane(
                    client,
                    purpose,
                    {"directory": directory},
                    run="" if purpose == "learn" else journal.run,
                    tell=print_message,
                )

            print_message(f"watching {folder}, until Ctrl-C")
            await Watch(folder, journal, lane_of, client.url).run(stop)

    path = journal_path(service=url or str(settings.data.resolve()), purpose="watch", fields={}, source=folder)
    with Journal(path) as journal:
        asyncio.run(run(journal))
    return 0


class Watch:
    def __init__(self, folder: Path, journal: Journal, lane_of: Callable[[Purpose, str], Lane], url: str) -> None:
        self._folder, self._journal, self._lane_of, self._url = folder, journal, lane_of, url
        self._lanes: dict[tuple[Purpose, str], Lane] = {}
        self._seen: dict[str, Version] = {}  # at the last look
        self._settled: dict[str, Version] = {}  # as they were when they were answered
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._complained: set[str] = set()
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; what is accepted by then is asked for by the next run. Raises what ends a Lane."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while not stop.is_set():
                    for found in await asyncio.to_thread(lambda: list(self._stable())):
                        name = found.item.name
                        if name not in self._under_way and self._settled.get(name) != self._seen[name]:
                            self._under_way[name] = tasks.create_task(self._one(found))
                    with suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), LOOK_EVERY_S)
                for task in self._under_way.values():
                    task.cancel()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    def _stable(self) -> Iterator[Found]:
        """What is new or changed, and was the same at the last look."""
        for path in _pictures(self._folder):
            name = str(path.relative_to(self._folder))
            try:
                version = version_of(str(path))
            except OSError:  # it went
                continue
            before, self._seen[name] = self._seen.get(name), version
            if version == before and version.size and self._settled.get(name) != version:
                found = self._placed(path, name)
                if found is not None:
                    yield found

    def _placed(self, path: Path, name: str) -> Found | None:
        try:
            match Path(name).parts:
                case [directory, "learn", person, _, *_]:
                    return Found(Item(str(path), name, normalised(person)), "learn", normalised(directory))
                case [directory, "recognize", _, *_]:
                    return Found(Item(str(path), name), "recognize", normalised(directory))
        except ValueError as error:
            reason = str(error)
        else:
            reason = "lies neither in DIRECTORY/learn/PERSON nor in DIRECTORY/recognize"
        if name not in self._complained:
            self._complained.add(name)
            print_message(f"{path} is left alone: {reason}")
        return None

    async def _one(self, found: Found) -> None:
        try:
            await self._send(found)
        finally:
            del self._under_way[found.item.name]

    async def _send(self, found: Found) -> None:
        item = found.item
        entry = self._journal.entry(item)
        if entry is not None and entry.status is not None and entry.status < OUR_FAULT:
            self._settled[item.name] = entry.version
            return
        async with self._at_once:
            lane = self._lanes.setdefault(
                (found.purpose, found.directory), self._lane_of(found.purpose, found.directory)
            )
            try:
                version, status, body = await self._answer(lane, item, entry)
            except UnreadablePhoto as error:
                version, status, body = self._seen[item.name], error.status, problem(error)
        self._settled[item.name] = version
        _tell(item, status, body)

    async def _answer(self, lane: Lane, item: Item, entry: Entry | None) -> tuple[Version, int, dict[str, Any]]:
        """Raises UnreadablePhoto."""
        first = 0 if entry is None else entry.attempt + (entry.status is not None)
        waiting = (entry.version, entry.image_id) if entry is not None and entry.image_id is not None else None
        for attempt in range(first, first + ATTEMPTS):
            if waiting is None:
                reply, version = await lane.upload(item, attempt)
                if reply.status == 202 and reply.body is not None:
                    waiting = version, reply.body["image_id"]
                    self._journal.accepted(item, version, attempt, waiting[1])
            if waiting is not None:
                version, image_id = waiting
                while (reply := await lane.result(image_id)).status == 202:  # noqa: ASYNC110 - another process is asked
                    await asyncio.sleep(reply.retry_after_s or POLL_S)
                waiting = None
            if reply.status not in GONE:
                break
        status, body = answer_of(reply, self._url)
        self._journal.answered(item, version, attempt, status, body)
        return version, status, body


def _pictures(folder: Path) -> Iterator[Path]:
    """Hidden ones are left out, as what is still being written often is."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(place, name)


def _tell(item: Item, status: int, body: dict[str, Any]) -> None:
    failed = status >= 400
    if not sys.stdout.isatty():
        person = {} if item.person is None else {"person": item.person}
        json_line({"photo": item.photo} | person | ({"error": body} if failed else body))
    elif failed:
        print_message(f"{item.photo}: {body.get('detail', '')}{advice(body)}")
    elif item.person is not None:
        print(
            f"{printable(item.photo)}: {'learned' if status == 201 else 'known already as'} {printable(item.person)}",
            flush=True,
        )
    else:
        names = ", ".join(
            "?" if it["id"] is None else f"{printable(it['id'])} {it['probability']:.0%}" for it in body["persons"]
        )
        print(f"{printable(item.photo)}: {names or 'no face'}", flush=True)
