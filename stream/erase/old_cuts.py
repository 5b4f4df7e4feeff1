"""Drops the cuts of erasures that cover nothing any more, so that `erasures` stays small.

A cut is needed as long as a record of an image that came before it is in a topic. First retention deletes the images'
own records. Then it deletes those of the topics behind, which ended at `kept_until` at that time. Dead letters keep the
events of images too.
"""

from collections.abc import Mapping

from backends.log import EventLog, NewRecord
from schemas.erasure_records import Erasure
from stream.dead_letters import open_letters
from stream.erase.cuts import end_offsets, start_offsets
from stream.erase.erasures import Erasures
from stream.topics import ERASURES, FACES_DETECTED, FACES_EMBEDDED, ORIGIN_TOPICS

TOPICS_BEHIND = (FACES_DETECTED, FACES_EMBEDDED)


async def drop_old_cuts(log: EventLog, erasures: Erasures) -> int:
    """Appends the erasures that have changed. Returns how many have lost their cut. Raises Unavailable, StorageFull."""
    with_cut = {
        key: it.erasure.model_copy(update={"first_record": it.first_record})
        for key, it in erasures.items()
        if it.erasure.cut is not None and it.erasure.done
    }
    if not with_cut:
        return 0
    starts = await start_offsets(log, (*ORIGIN_TOPICS, *TOPICS_BEHIND))
    ends = await end_offsets(log, TOPICS_BEHIND)
    origins = [letter.origin for letter in await open_letters(log)]
    changed: dict[str, Erasure] = {}
    for key, erasure in with_cut.items():
        cut = erasure.cut
        if cut is None or not _all_gone(starts, cut.next_offsets) or any(map(cut.covers, origins)):
            continue
        if erasure.kept_until is None:
            changed[key] = erasure.model_copy(update={"kept_until": ends})
        elif _all_gone(starts, erasure.kept_until):
            changed[key] = erasure.model_copy(update={"cut": None, "kept_until": None})
    await erasures.refresh()
    changed = {key: it for key, it in changed.items() if _is_last(erasures, key, it)}
    await _append(log, changed)
    await erasures.refresh()
    # An erasure that came in between must stay the last one under its key.
    overtaken = {
        key: known.erasure
        for key, it in changed.items()
        if (known := erasures.get(key)) is not None and known.offset > it.offset
    }
    await _append(log, overtaken)
    return sum(it.cut is None for it in changed.values())


def _is_last(erasures: Erasures, key: str, erasure: Erasure) -> bool:
    known = erasures.get(key)
    return known is not None and known.offset == erasure.offset


async def _append(log: EventLog, changed: Mapping[str, Erasure]) -> None:
    await log.append([NewRecord(ERASURES, key, erasure.encode()) for key, erasure in changed.items()])


def _all_gone(starts: Mapping[str, list[int]], before: Mapping[str, list[int]]) -> bool:
    """Whether the topics begin at these offsets, or later."""
    return all(
        start >= offset
        for topic, offsets in before.items()
        for start, offset in zip(starts[topic], offsets, strict=True)
    )
