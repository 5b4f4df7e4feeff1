"""The cut of an erasure stays while a dead letter may bring back an image from before it."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from backends.log import NewRecord, Record
from backends.sqlite.log import SqliteLog
from schemas.errors import ProcessingFailed
from stream.dead_letters import dead_letter_record, drop, open_letters
from stream.erase.cuts import make_cut
from stream.erase.erasures import Erasures
from stream.erase.old_cuts import drop_old_cuts
from stream.topics import ERASURES, FACES_EMBEDDED, IMAGES_RECEIVED, TOPICS
from tests.records import erasure, image_received, older_dead_letter_of

DAY_S = 86_400
EVENT = image_received("photo")


@pytest.mark.parametrize("what", ["an event", "a newer version may read it", "of an older version", "of a later stage"])
async def test_a_cut_stays_while_a_letter_from_before_it_is_open(tmp_path: Path, what: str) -> None:
    now = time.time()
    log = SqliteLog(tmp_path / "log.db", clock=lambda: now)
    await log.create_topics(TOPICS)
    value = b"of a newer version" if what == "a newer version may read it" else EVENT.encode()
    ((_, partition),) = await log.append([NewRecord(IMAGES_RECEIVED, EVENT.image_id, value)])
    known = erasure().model_copy(update={"cut": await make_cut(log)})
    now += 8 * DAY_S
    await log.enforce_retention()
    assert (await log.start_offsets(IMAGES_RECEIVED))[partition] == 1
    failed = Record(IMAGES_RECEIVED, partition, 0, 1_000, EVENT.image_id, value)
    if what == "of an older version":
        letter = older_dead_letter_of(EVENT, partition=partition, offset=0)
    elif what == "of a later stage":  # which does not know the origin
        letter = dead_letter_record(replace(failed, topic=FACES_EMBEDDED), EVENT, ProcessingFailed("x"), 3, "sink")
    else:
        letter = dead_letter_record(failed, None, ProcessingFailed("x"), 3, "processors")
    await log.append([letter, NewRecord(ERASURES, "a digest", known.encode())])

    async def cut_is_left() -> bool:
        erasures = Erasures(log)
        await erasures.start()
        await drop_old_cuts(log, erasures)
        await erasures.close()
        (it,) = [it for _, it in erasures.items()]
        return it.erasure.cut is not None

    assert [await cut_is_left() for _ in range(3)] == [True] * 3
    await drop(log, await open_letters(log))
    assert [await cut_is_left() for _ in range(2)] == [True, False]
    await log.close()
