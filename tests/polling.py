"""Polls of a log, for tests."""

import time
from contextlib import suppress

from backends.log import Consumer, Reader, Record

PATIENCE_S = 30.0


async def drain(source: Consumer | Reader, count: int, *, passing: type[Exception] | None = None) -> list[Record]:
    """Polls until there are `count` records. `passing`: an error that a poll may raise now and then."""
    records: list[Record] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(records) < count:
        assert time.monotonic() < deadline, f"{len(records)} of {count} records came"
        with suppress(*([passing] if passing else [])):
            records += await source.poll(100, 0.2)
    return records
