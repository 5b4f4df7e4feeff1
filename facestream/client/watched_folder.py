"""Watches a folder for `facestream watch`: when a file no longer changes, it is sent through the bulk lane.

As for learning a folder, a journal records what was done, so that the same command continues where it ended.
"""

import argparse
import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from facestream.client.bulk.client import BulkClient
from facestream.client.bulk.journal import FileVersion, Journal, JournalEntry, journal_path, version_of
from facestream.client.bulk.report import describe_people
from facestream.client.bulk.source import PictureFile
from facestream.client.connection import connect
from facestream.client.flags import prints_json, url_and_key
from facestream.client.http import POLL_S, UnreadablePhoto
from facestream.client.report import advice, json_line
from facestream.flags import settings_from
from facestream.terminal import print_message, printable
from schemas.answers import Body, Problem, RecognizedBody, problem
from schemas.errors import ConfigurationError
from schemas.media import SUFFIXES
from schemas.names import normalise_name
from schemas.records import Purpose

LOOK_EVERY_S = 1.0
PICTURES_AT_ONCE = 16
ATTEMPTS = 3  # uploads of a picture whose answer has expired
GONE = (404, 410)
SERVICE_FAILED = 500  # from this status on, the service is at fault: the next start tries the picture again


@dataclass(frozen=True, slots=True)
class WatchedPicture:
    """A picture in the folder, with the purpose and the directory from its path."""

    item: PictureFile
    purpose: Purpose
    directory: str


def watch(arguments: argparse.Namespace, folder: Path) -> int:
    """Runs until SIGINT or SIGTERM; returns the exit code. Raises ConfigurationError, Unavailable, WeightsInvalid."""
    if not os.path.isdir(folder):
        raise ConfigurationError(f"{folder} is not a folder")
    url, key = url_and_key(arguments)
    settings = settings_from(arguments)

    async def run(journal: Journal) -> None:
        stop = asyncio.Event()
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
        async with connect(settings, url, key) as client:

            def bulk_client_of(purpose: Purpose, directory: str) -> BulkClient:
                # as for a folder: a picture is learned once, whichever run sends it
                return BulkClient(
                    client,
                    purpose,
                    {"directory": directory},
                    run="" if purpose == "learn" else journal.run,
                    tell=print_message,
                )

            print_message(f"watching {folder}, until Ctrl-C")
            await FolderWatcher(folder, journal, bulk_client_of, client.url, as_json=prints_json(arguments)).run(stop)

    path = journal_path(service=url or str(settings.data.resolve()), purpose="watch", fields={}, source=folder)
    with Journal(path) as journal:
        asyncio.run(run(journal))
    return 0


class FolderWatcher:
    def __init__(
        self,
        folder: Path,
        journal: Journal,
        bulk_client_of: Callable[[Purpose, str], BulkClient],
        url: str,
        *,
        as_json: bool,
    ) -> None:
        self._folder, self._journal, self._bulk_client_of, self._url = folder, journal, bulk_client_of, url
        self._as_json = as_json
        self._bulk_clients: dict[tuple[Purpose, str], BulkClient] = {}
        self._seen: dict[str, FileVersion] = {}  # at the last scan
        self._settled: dict[str, FileVersion] = {}  # the versions that were answered
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._ignored: set[str] = set()
        self._slots = asyncio.Semaphore(PICTURES_AT_ONCE)

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until `stop`. The next run polls for pictures that are accepted but not answered. Raises what a
        BulkClient raises.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                while not stop.is_set():
                    for found in await asyncio.to_thread(lambda: list(self._stable_pictures())):
                        name = found.item.name
                        if name not in self._under_way and self._settled.get(name) != self._seen[name]:
                            self._under_way[name] = tasks.create_task(self._handle_picture(found))
                    with suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), LOOK_EVERY_S)
                for task in self._under_way.values():
                    task.cancel()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    def _stable_pictures(self) -> Iterator[WatchedPicture]:
        """Pictures that are new or have changed, but have not changed since the last scan."""
        for path in _pictures(self._folder):
            name = str(path.relative_to(self._folder))
            try:
                version = version_of(str(path))
            except OSError:  # it was deleted
                continue
            before, self._seen[name] = self._seen.get(name), version
            if version == before and version.size and self._settled.get(name) != version:
                found = self._classify(path, name)
                if found is not None:
                    yield found

    def _classify(self, path: Path, name: str) -> WatchedPicture | None:
        try:
            match Path(name).parts:
                case [directory, "learn", person, _, *_]:
                    return WatchedPicture(
                        PictureFile(str(path), name, normalise_name(person)), "learn", normalise_name(directory)
                    )
                case [directory, "recognize", _, *_]:
                    return WatchedPicture(PictureFile(str(path), name), "recognize", normalise_name(directory))
        except ValueError as error:
            reason = str(error)
        else:
            reason = "it is neither in DIRECTORY/learn/PERSON nor in DIRECTORY/recognize"
        if name not in self._ignored:
            self._ignored.add(name)
            print_message(f"{path} is ignored: {reason}")
        return None

    async def _handle_picture(self, found: WatchedPicture) -> None:
        try:
            await self._send(found)
        finally:
            del self._under_way[found.item.name]

    async def _send(self, found: WatchedPicture) -> None:
        item = found.item
        entry = self._journal.entry(item)
        if entry is not None and entry.status is not None and entry.status < SERVICE_FAILED:
            self._settled[item.name] = entry.version
            return
        async with self._slots:
            bulk_client = self._bulk_clients.setdefault(
                (found.purpose, found.directory), self._bulk_client_of(found.purpose, found.directory)
            )
            try:
                version, status, body = await self._answer(bulk_client, item, entry)
            except UnreadablePhoto as error:
                version, status, body = self._seen[item.name], error.status, problem(error)
        self._settled[item.name] = version
        _print(item, status, body, as_json=self._as_json)

    async def _answer(
        self, bulk_client: BulkClient, item: PictureFile, entry: JournalEntry | None
    ) -> tuple[FileVersion, int, Body]:
        """Raises UnreadablePhoto."""
        first = 0 if entry is None else entry.attempt + (entry.status is not None)
        waiting = (entry.version, entry.image_id) if entry is not None and entry.image_id is not None else None
        for attempt in range(first, first + ATTEMPTS):
            if waiting is None:
                reply, version = await bulk_client.upload(item, attempt)
                if reply.status == 202:
                    waiting = version, bulk_client.image_id_of(reply)
                    self._journal.add_accepted(item, version, attempt, waiting[1])
            if waiting is not None:
                version, image_id = waiting
                while (reply := await bulk_client.result(image_id)).status == 202:  # noqa: ASYNC110 - another process is asked
                    await asyncio.sleep(reply.retry_after_s or POLL_S)
                waiting = None
            if reply.status not in GONE:
                break
        status, body = bulk_client.answer_of(reply)
        self._journal.add_answered(item, version, attempt, status, body)
        return version, status, body


def _pictures(folder: Path) -> Iterator[Path]:
    """The pictures below the folder, without hidden files: files that are still being written are often hidden."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(place, name)


def _print(item: PictureFile, status: int, body: Body, *, as_json: bool) -> None:
    if as_json:
        person = {} if item.person is None else {"person": item.person}
        members = body.members()
        json_line({"photo": item.photo} | person | ({"error": members} if isinstance(body, Problem) else members))
    elif isinstance(body, Problem):
        print_message(f"{item.photo}: {body.detail}{advice(body)}")
    elif isinstance(body, RecognizedBody):
        print(f"{printable(item.photo)}: {describe_people(body)}", flush=True)
    else:
        learned = "learned" if status == 201 else "known already as"
        print(f"{printable(item.photo)}: {learned} {printable(item.person or '')}", flush=True)
