"""`facestream erase verify`: looks everywhere for what was erased."""

import argparse
import asyncio
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from backends.log import EventLog
from facestream.admin.erasure_search import (
    CROPS,
    SEARCHED,
    InTopic,
    StoredPicture,
    answers_left,
    in_topic,
    pictures_left,
    vectors_left,
)
from facestream.flags import add_settings, settings_from
from facestream.runtime.stores import Stores, open_stores
from facestream.runtime.system_state import SystemState, follow_state
from facestream.terminal import log_warnings_only
from stream.catching_up import LOOK_EVERY_S, records_left
from stream.erase.late_writes import take_back_late
from stream.topics import FACES_LEARNED, GROUPS, IMAGES_RECEIVED, topics

DESCRIPTION = """\
Look for everything that was erased, in every store and topic. Nothing may be left in a store; what still lies in a topic can be
read by nobody through facestream, and goes with the topic's retention: it is listed with the time.

What erases: DELETE /directories/DIRECTORY/persons/PERSON, /faces/FACE_ID, /images/IMAGE_ID, /directories/DIRECTORY.
What is on its way is waited for. Exits with 1 when something is left in a store.
"""
COMPACTED_S = 3_600.0  # a superseded record of a compacted topic is gone after so long
UPLOADING_S = 900.0  # the event of a picture that was put so long ago is there, or will never be
HANDLED_S = 60.0  # what is on its way gets so long, and STUCK_S as long as nothing goes on
STUCK_S = 10.0


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("erase", help="verify that what was erased is gone")
    subcommands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    verifying = subcommands.add_parser(
        "verify",
        help="search every store and topic",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_settings(verifying, ("log", "objects", "vectors", "data", "keep_probes"))
    verifying.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    log_warnings_only()
    return asyncio.run(_run(arguments))


@dataclass(frozen=True, slots=True)
class Found:
    """What is left, by store; the topics that tell of it; and pictures whose event is not there, so that no stage will
    meet them: `unannounced` for good, `uploading` maybe only by now.
    """

    left: dict[str, list[str]]
    in_topics: dict[str, InTopic]
    unannounced: list[str]
    uploading: list[str]


async def _run(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments)
    retention = {it.name: it.retention_s or COMPACTED_S for it in topics(settings.keep_probes)}
    async with open_stores(settings) as stores, follow_state(stores.log) as state:
        taken_back = await take_back_late(stores.log, stores.objects, state.erasures)
        found = await _look(stores, state, retention[IMAGES_RECEIVED])
        if any(found.left.values()):
            await _handled(stores.log)
            await state.erasures.refresh()
            found = await _look(stores, state, retention[IMAGES_RECEIVED])
        await stores.objects.delete(found.unannounced)
    if taken_back:
        print(f"{taken_back} faces of a process that woke late were taken back from {FACES_LEARNED}")
    if found.unannounced:
        print(f"{len(found.unannounced)} pictures of uploads that were never acknowledged were deleted")
    if found.uploading:
        print(
            f"{len(found.uploading)} pictures whose upload may be under way, or was never acknowledged: look again later"
        )
    for store, keys in found.left.items():
        print(f"{store}: {len(keys)} left: {', '.join(keys[:5])}" if keys else f"{store}: nothing left")
    for topic, it in found.in_topics.items():
        goes = datetime.fromtimestamp(max(it.last / 1000 + retention[topic], time.time()), UTC).strftime(
            "%Y-%m-%d %H:%M UTC"
        )
        print(f"{topic}: {it.records} records, gone by {goes}" if it.records else f"{topic}: nothing left")
    if any(found.left.values()):
        print(
            "what is left in a store was erased and is there again: this is a defect, please report it", file=sys.stderr
        )
        return 1
    return 0


async def _look(stores: Stores, state: SystemState, kept_s: float) -> Found:
    """kept_s: how long events are kept."""
    pictures = await pictures_left(stores.objects, state.erasures)
    left = {
        "vectors": await vectors_left(stores.vectors, state.generations, state.erasures),
        "answers": await answers_left(stores.vectors, state.erasures),
    }
    announced: dict[str, bool | None] = dict.fromkeys(it.image_id for it in pictures)
    in_topics = {topic: await in_topic(stores.log, topic, state.erasures, announced) for topic in SEARCHED}
    # a picture is put before its event: that may have come after the erasure
    pictures = [it for it in pictures if announced[it.image_id] is not False]
    unannounced = [it for it in pictures if _is_unannounced(it, announced, kept_s)]
    left["objects"] = [it.key for it in pictures if it not in unannounced]
    before = time.time() - UPLOADING_S
    return Found(
        left,
        in_topics,
        [it.key for it in unannounced if it.put_at < before],
        [it.key for it in unannounced if it.put_at >= before],
    )


def _is_unannounced(picture: StoredPicture, announced: dict[str, bool | None], kept_s: float) -> bool:
    """Whether there never was an event of it: the upload ended before that, and its caller was told so."""
    is_crop = picture.key.startswith(CROPS)
    return announced[picture.image_id] is None and not is_crop and picture.put_at > time.time() - kept_s + UPLOADING_S


async def _handled(log: EventLog) -> None:
    """Returns when all is handled that is in the topics by now, or nothing goes on."""
    pairs = [(group, topic) for group, topics in GROUPS.items() for topic in topics]
    ends = {topic: await log.end_offsets(topic) for _, topic in pairs}
    deadline, stuck_at, before = time.monotonic() + HANDLED_S, time.monotonic() + STUCK_S, -1
    while time.monotonic() < min(deadline, stuck_at):
        left = sum([await records_left(log, group, topic, ends[topic]) for group, topic in pairs])
        if not left:
            return
        if left < before:
            stuck_at = time.monotonic() + STUCK_S
        before = left
        await asyncio.sleep(LOOK_EVERY_S)
