"""`facestream erase verify`: searches every store and topic for erased data."""

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from backends.log import EventLog
from facestream.admin.erasure_search import (
    SEARCHED_TOPICS,
    TopicMatches,
    find_erased_answers,
    find_erased_vectors,
    find_pictures,
    is_learned,
    search_topic,
)
from facestream.flags import STORES, add_settings, settings_from
from facestream.interrupt import run_interruptibly
from facestream.runtime.stores import Stores, open_stores
from facestream.runtime.system_state import SystemState, follow_state
from facestream.terminal import log_warnings_only, printable
from stream.catch_up import LOOK_EVERY_S, remaining_lag
from stream.erase.leftovers import delete_leftovers
from stream.topics import FACES_LEARNED, GROUPS, topics

DESCRIPTION = """\
Search every store and topic for erased data. Exit code 1: something is left in a store, where nothing may be left.
Records that are left in a topic cannot be read through facestream, and the topic's retention deletes them: they are
listed with the time.

These requests erase: DELETE /directories/DIRECTORY/persons/PERSON, /faces/FACE_ID, /images/IMAGE_ID,
/directories/DIRECTORY. Images that are still being processed are waited for.
"""
COMPACTED_S = 3_600.0  # after this time a superseded record of a compacted topic has been deleted
HANDLED_S = 60.0  # how long to wait for images in the topics
STUCK_S = 10.0  # and how long without any progress

SOME_KEYS = 5  # printed for each store; --json has all


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "erase", help="verify that erased data is gone", description="Verify that erased data is gone."
    )
    subcommands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    verifying = subcommands.add_parser(
        "verify",
        help="search every store and topic",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verifying.add_argument("--json", action="store_true", help="one JSON object, with the keys of everything left")
    add_settings(verifying, (*STORES, "keep_probes"))
    verifying.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    log_warnings_only()
    return run_interruptibly(_run(arguments))


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The result of a search. left: the erased data in each store. in_topics: the records that name erased data.
    unannounced: pictures without an event, which no stage will handle. older: the objects of `left` of which
    older versions were erased. defects: how much else is left.
    """

    left: dict[str, list[str]]
    in_topics: dict[str, TopicMatches]
    unannounced: list[str]
    older: list[str]
    defects: int


async def _run(arguments: argparse.Namespace) -> int:
    settings = settings_from(arguments)
    retention = {it.name: it.retention_s or COMPACTED_S for it in topics(settings.keep_probes)}
    async with open_stores(settings) as stores, follow_state(stores.log) as state:
        taken_back = await delete_leftovers(stores.log, stores.objects, state.erasures)
        found = await _search(stores, state)
        if any(found.left.values()):
            await _wait_until_handled(stores.log)
            await state.erasures.refresh()
            found = await _search(stores, state)
        await stores.objects.delete(found.unannounced)
        await stores.objects.delete_older(found.older)
    gone_by = {topic: _deletion_time(it, retention[topic]) for topic, it in found.in_topics.items() if it.records}
    if arguments.json:
        _print_json(found, taken_back, gone_by)
    else:
        _print_lines(found, taken_back, gone_by)
    if not any(found.left.values()):
        return 0
    if found.older:
        print(
            f"{len(found.older)} objects had older versions that were erased, and that the bucket's versioning has"
            " kept: these have been deleted now",
            file=sys.stderr,
        )
    if found.defects:
        print(
            "what is left in a store was erased and is there again: this is a defect, please report it", file=sys.stderr
        )
    return 1


def _deletion_time(found: TopicMatches, retention_s: float) -> datetime:
    return datetime.fromtimestamp(max(found.last / 1000 + retention_s, time.time()), UTC)


def _print_json(found: SearchResult, taken_back: int, gone_by: dict[str, datetime]) -> None:
    topics = {
        topic: {"records": it.records, "gone_by": gone_by[topic].isoformat(timespec="seconds") if it.records else None}
        for topic, it in found.in_topics.items()
    }
    line = {
        "stores": found.left,
        "topics": topics,
        "taken_back": taken_back,
        "deleted": [*found.unannounced, *found.older],
    }
    print(json.dumps(line))


def _print_lines(found: SearchResult, taken_back: int, gone_by: dict[str, datetime]) -> None:
    if taken_back:
        print(f"{taken_back} faces that a suspended process had written were deleted from {FACES_LEARNED.name}")
    if found.unannounced:
        print(f"{len(found.unannounced)} pictures of uploads that were never acknowledged were deleted")
    for store, keys in found.left.items():
        some = ", ".join(map(printable, keys[:SOME_KEYS])) + (" …" if len(keys) > SOME_KEYS else "")
        print(f"{store}: {len(keys)} left: {some}" if keys else f"{store}: nothing left")
    for topic, it in found.in_topics.items():
        if it.records:
            print(f"{topic}: {it.records} records, gone by {gone_by[topic]:%Y-%m-%d %H:%M UTC}")
        else:
            print(f"{topic}: nothing left")


async def _search(stores: Stores, state: SystemState) -> SearchResult:
    pictures = await find_pictures(stores.objects, state.erasures)
    left = {
        "vectors": await find_erased_vectors(stores.vectors, state.generations, state.erasures),
        "answers": await find_erased_answers(stores.vectors, state.erasures),
        "objects": [],
    }
    announced: dict[str, bool | None] = dict.fromkeys(it.image_id for it in pictures)
    in_topics = {topic: await search_topic(stores.log, topic, state.erasures, announced) for topic in SEARCHED_TOPICS}
    unannounced: list[str] = []
    older: dict[str, None] = {}  # an object may have several versions
    for it in pictures:
        erased = announced[it.image_id]
        if erased is None and it.began_before:  # nothing in a topic; a row tells that it was learned long ago
            erased = not await is_learned(it, stores.vectors, state.generations, state.erasures)
        if not erased:
            continue
        if not (it.is_older or announced[it.image_id] or it.is_crop):
            unannounced.append(it.key)
        elif it.is_older:
            older[it.key] = None
        else:
            left["objects"].append(it.key)
    defects = sum(map(len, left.values()))
    left["objects"] += [key for key in older if key not in left["objects"]]
    return SearchResult(left, in_topics, unannounced, list(older), defects)


async def _wait_until_handled(log: EventLog) -> None:
    """Returns when all current records of the topics have been handled, or when there is no progress."""
    pairs = [(group, topic) for group, topics in GROUPS.items() for topic in topics]
    ends = {topic: await log.end_offsets(topic) for _, topic in pairs}
    deadline, stuck_at, before = time.monotonic() + HANDLED_S, time.monotonic() + STUCK_S, -1
    while time.monotonic() < min(deadline, stuck_at):
        left = sum([await remaining_lag(log, group, topic, ends[topic]) for group, topic in pairs])
        if not left:
            return
        if left < before:
            stuck_at = time.monotonic() + STUCK_S
        before = left
        await asyncio.sleep(LOOK_EVERY_S)
