"""Kills the service at random moments under load: `python -m bench.soak.kills [PHOTOS] [--kills 50]`.

Clients learn and recognize, and send a request again, with its Idempotency-Key, until it is answered. Afterwards no
acknowledged learn may be missing, no face may be there twice, every accepted image must have an answer, and the stores
must be intact.
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

from bench.clients import ClientReport, Clients, add_arguments, portraits, verdict
from bench.serving import Serving


class SingleService:
    """One service, as bench.clients.RunningService."""

    def __init__(self, serving: Serving) -> None:
        self.urls = [serving.url]


async def soak(serving: Serving, photos: Sequence[bytes], kills: int, seed: int = 0) -> ClientReport:
    """Runs the clients and kills the service. photos: pictures with one face each. The service must not run yet; it is
    stopped at the end.
    """
    report, chance = ClientReport(), random.Random(seed)
    await asyncio.to_thread(serving.start)
    async with Clients(SingleService(serving), photos, report, directory="soak", seed=seed) as clients:
        for number in range(kills):
            await asyncio.sleep(chance.uniform(0.1, 5.0))
            serving.kill()
            print(f"kill {number + 1}/{kills}: {len(report.learned)} learned, {dict(report.answers)}", flush=True)
            await asyncio.to_thread(serving.start)
        await clients.finish()
        await clients.check()
    code = await asyncio.to_thread(serving.stop)
    if code:
        report.wrong.append(f"the service ended with {code}")
    _check_files(serving.data, report)
    return report


def _check_files(data: Path, report: ClientReport) -> None:
    for name in ("log.db", "vectors.db"):
        with closing(sqlite3.connect(data / name)) as connection:
            found = connection.execute("PRAGMA integrity_check").fetchone()[0]
        if found != "ok":
            report.wrong.append(f"{name}: {found}")
    report.wrong += [f"left over: {path.name}" for path in (data / "objects" / ".tmp").glob("*")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    add_arguments(parser)
    arguments = parser.parse_args()
    photos = portraits(arguments.photos)
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        serving = Serving(Path(folder) / "data", arguments.weights.resolve())
        report = asyncio.run(soak(serving, photos, arguments.kills, arguments.seed))
    seconds = time.monotonic() - began
    print(f"{arguments.kills} kills in {seconds:.0f} s: {len(report.learned)} learned, {dict(report.answers)}")
    return verdict(report.wrong)


if __name__ == "__main__":
    raise SystemExit(main())
