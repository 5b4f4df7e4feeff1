"""Kills the service at random moments under load and checks what a user was promised: `python -m bench.soak.kills
--kills 50`.

Clients learn and recognize, and send a request again, with its Idempotency-Key, until it is answered. Afterwards no
acknowledged learn may be missing, no face may be there twice, every accepted image must have an answer, and the stores
must open clean.
"""

import argparse
import asyncio
import random
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from bench.clients import Clients, Outcome, add_arguments, portraits, verdict
from bench.serving import Serving


class Single:
    """One service, as the clients see it."""

    def __init__(self, serving: Serving) -> None:
        self.urls = [serving.url]


async def soak(serving: Serving, photos: Sequence[bytes], kills: int, seed: int = 0) -> Outcome:
    """photos: pictures with one face each. The service must not run yet; it is stopped in the end."""
    outcome, chance = Outcome(), random.Random(seed)
    await asyncio.to_thread(serving.start)
    async with Clients(Single(serving), photos, outcome, directory="soak", seed=seed) as clients:
        for number in range(kills):
            await asyncio.sleep(chance.uniform(0.1, 5.0))
            serving.kill()
            print(f"kill {number + 1}/{kills}: {len(outcome.learned)} learned, {dict(outcome.answers)}", flush=True)
            await asyncio.to_thread(serving.start)
        await clients.finish()
        await clients.check()
    code = await asyncio.to_thread(serving.stop)
    if code:
        outcome.wrong.append(f"the service ended with {code}")
    _check_files(serving.data, outcome)
    return outcome


def _check_files(data: Path, outcome: Outcome) -> None:
    for name in ("log.db", "vectors.db"):
        with closing(sqlite3.connect(data / name)) as connection:
            found = connection.execute("PRAGMA integrity_check").fetchone()[0]
        if found != "ok":
            outcome.wrong.append(f"{name}: {found}")
    outcome.wrong += [f"left over: {path.name}" for path in (data / "objects" / ".tmp").glob("*")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    add_arguments(parser)
    arguments = parser.parse_args()
    photos = portraits(arguments.photos)
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        serving = Serving(Path(folder) / "data", arguments.weights.resolve())
        outcome = asyncio.run(soak(serving, photos, arguments.kills, arguments.seed))
    print(
        f"{arguments.kills} kills in {time.monotonic() - began:.0f} s: {len(outcome.learned)} learned, {dict(outcome.answers)}"
    )
    return verdict(outcome.wrong)


if __name__ == "__main__":
    raise SystemExit(main())
