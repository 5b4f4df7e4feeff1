"""Sends the pictures of a folder for `learn` and `recognize`: a few uploads at a time, through the bulk lane.

Answers are polled in the order in which the pictures were accepted.

This client has few requests open at a time, and at most as many waiting pictures as the service answers in WINDOW_S.
"""

import argparse
import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from facestream.client.bulk.client import BulkClient
from facestream.client.bulk.journal import FileVersion, Journal, journal_path
from facestream.client.bulk.report import BulkReport
from facestream.client.bulk.source import PictureFile, pictures_of, portraits_of
from facestream.client.connection import connect
from facestream.client.flags import prints_json, url_and_key
from facestream.client.http import POLL_S, Reply, ServiceClient, UnreadablePhoto
from facestream.flags import settings_from
from facestream.interrupt import run_interruptibly
from facestream.progress import progress_bar
from facestream.terminal import print_message
from schemas.answers import Body, problem
from schemas.records import Purpose

UPLOADS, POLLS = 4, 4  # requests at once
POLLS_IN_A_ROW = 5  # for one image; then another image is polled
WINDOW_S, LEAST_WINDOW, LARGEST_WINDOW = 4.0, 64, 2_048
ATTEMPTS = 3  # uploads of a picture to recognize whose answer has expired
GONE = (404, 410)
SERVICE_FAILED = 500  # from this status on, the service is at fault: the next run sends the picture with a new key


@dataclass(frozen=True, slots=True)
class PendingUpload:
    item: PictureFile
    attempt: int


@dataclass(frozen=True, slots=True)
class AcceptedUpload:
    upload: PendingUpload
    version: FileVersion
    image_id: str


def send_bulk(arguments: argparse.Namespace, purpose: Purpose, fields: Mapping[str, str], source: Path) -> int:
    """Sends the pictures. Returns the exit code. Raises ConfigurationError, InvalidRequest, Unavailable,
    WeightsInvalid.
    """
    url, key = url_and_key(arguments)
    settings = settings_from(arguments)
    items = portraits_of(source) if purpose == "learn" else pictures_of(source)
    report = BulkReport(purpose, arguments.report, as_json=prints_json(arguments))
    report.check()
    path = journal_path(
        service=url or str(settings.data.resolve()),
        purpose=purpose,
        # options make no difference for a face that is already learned, but they change who is recognized
        fields={"directory": fields["directory"]} if purpose == "learn" else dict(fields),
        source=source,
    )

    async def run(journal: Journal) -> int:
        async with connect(settings, url, key) as client:
            # A picture is learned once, whichever run sends it. If it is recognized again later, it may get another
            # answer.
            bulk_client = BulkClient(
                client, purpose, fields, run="" if purpose == "learn" else journal.run, tell=print_message
            )
            bulk = BulkRun(client, bulk_client, journal, report, purpose)
            try:
                await bulk.run(items)
            finally:
                report.close(bulk.unanswered)
        return 1 if report.failed else 0

    with Journal(path, again=arguments.again) as journal:
        code = run_interruptibly(run(journal))
        if purpose == "recognize" and not report.service_failed:
            journal.delete()
    return code


class BulkRun:
    """One run. unanswered: the number of pictures that have no answer yet."""

    def __init__(
        self, client: ServiceClient, bulk_client: BulkClient, journal: Journal, report: BulkReport, purpose: Purpose
    ) -> None:
        self._client, self._bulk_client, self._journal, self._report = client, bulk_client, journal, report
        self._purpose: Purpose = purpose
        self._learning = purpose == "learn"
        self._to_upload: deque[PendingUpload] = deque()
        self._accepted: deque[AcceptedUpload] = deque()  # pictures that are not being polled at the moment
        self._in_window = 0  # pictures from their upload to their answer
        self._answered_at: deque[float] = deque(maxlen=512)
        self._changed = asyncio.Condition()
        self._advance: Callable[[int], None] = lambda _: None
        self.unanswered = 0

    async def run(self, items: Sequence[PictureFile]) -> None:
        self.unanswered = len(items)
        before = await self._queue(items)
        if before:
            print_message(f"{before:,} of {len(items):,} were done before: --again does all of them")
        with progress_bar("pictures", self.unanswered) as self._advance:
            try:
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(UPLOADS):
                        tasks.create_task(self._keep_uploading())
                    for _ in range(POLLS):
                        tasks.create_task(self._keep_polling())
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None

    async def _queue(self, items: Sequence[PictureFile]) -> int:
        """Queues pictures to upload and pictures to poll for. Reports the others, which are done, and returns their
        number.

        A learned picture counts as done only if the directory has its person: the installation may have been replaced.
        """
        entries = await asyncio.to_thread(lambda: [(item, self._journal.entry(item)) for item in items])
        well = [entry for _, entry in entries if entry is not None and entry.status is not None and entry.status < 400]
        persons = await self._bulk_client.persons() if self._learning and well else set[str]()
        before = 0
        for item, entry in entries:
            if entry is None:
                self._to_upload.append(PendingUpload(item, 0))
            elif entry.image_id is not None:
                self._accepted.append(AcceptedUpload(PendingUpload(item, entry.attempt), entry.version, entry.image_id))
                self._in_window += 1
            elif entry.status is not None and entry.status < 400 and (not self._learning or item.person in persons):
                self._report.add(item, entry.status, self._journal.read_body(entry, self._purpose))
                self.unanswered -= 1
                before += 1
                await asyncio.sleep(0)  # the service may be this process
            else:
                failed_here = entry.status is not None and entry.status >= SERVICE_FAILED
                self._to_upload.append(PendingUpload(item, entry.attempt + failed_here))
        return before

    @property
    def _window(self) -> int:
        if len(self._answered_at) < 2:
            return LEAST_WINDOW
        rate = len(self._answered_at) / max(time.monotonic() - self._answered_at[0], 1e-3)
        return int(min(max(rate * WINDOW_S, LEAST_WINDOW), LARGEST_WINDOW))

    async def _keep_uploading(self) -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(
                    lambda: not self.unanswered or (bool(self._to_upload) and self._in_window < self._window)
                )
                if not self.unanswered:
                    return
                upload = self._to_upload.popleft()
                self._in_window += 1
            await self._upload(upload)

    async def _upload(self, upload: PendingUpload) -> None:
        try:
            reply, version = await self._bulk_client.upload(upload.item, upload.attempt)
        except UnreadablePhoto as error:
            await self._settle(upload, error.status, problem(error))
            return
        if reply.status == 202:
            image_id = self._bulk_client.image_id_of(reply)
            self._journal.add_accepted(upload.item, version, upload.attempt, image_id)
            self._accepted.append(AcceptedUpload(upload, version, image_id))
            await self._notify()
        else:
            await self._handle_answer(upload, version, reply)

    async def _keep_polling(self) -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: bool(self._accepted) or not self.unanswered)
                if not self.unanswered:
                    return
                accepted = self._accepted.popleft()
            await self._ask_for(accepted)

    async def _ask_for(self, accepted: AcceptedUpload) -> None:
        upload = accepted.upload
        for _ in range(POLLS_IN_A_ROW):
            reply = await self._bulk_client.result(accepted.image_id)
            if reply.status != 202:
                break
            await asyncio.sleep(reply.retry_after_s or POLL_S)
        if reply.status == 202:
            self._accepted.append(accepted)
            await self._notify()
        elif reply.status in GONE and not self._learning and upload.attempt + 1 < ATTEMPTS:
            # A picture to learn may have been erased meanwhile. Only a new command may learn it again.
            self._to_upload.append(PendingUpload(upload.item, upload.attempt + 1))
            self._in_window -= 1
            await self._notify()
        else:
            await self._handle_answer(upload, accepted.version, reply)

    async def _handle_answer(self, upload: PendingUpload, version: FileVersion, reply: Reply) -> None:
        status, body = self._bulk_client.answer_of(reply)
        self._journal.add_answered(upload.item, version, upload.attempt, status, body)
        await self._settle(upload, status, body)

    async def _settle(self, upload: PendingUpload, status: int, body: Body) -> None:
        self._report.add(upload.item, status, body)
        self._answered_at.append(time.monotonic())
        self._in_window -= 1
        self.unanswered -= 1
        self._advance(1)
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
