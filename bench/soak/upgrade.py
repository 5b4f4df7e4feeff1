"""Updates a running system one process at a time, and goes back.

    eval "$(make -s services)"; python -m bench.soak.upgrade [PHOTOS] --from COMMIT

Two of each role run on the real servers, all with the code of an earlier commit. Under load each process is stopped
with SIGTERM and replaced by one with the code of this checkout; later each is replaced by one with the earlier code
again. Meanwhile both versions read and write the same topics. Afterwards every accepted image must have an answer,
every acknowledged learn must exist exactly once, no consumer group may have lag, and there may be no dead letters.
"""

import argparse
import asyncio
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from bench.clients import ClientReport, Clients, add_arguments, portraits, verdict
from bench.cluster import ROLES, Cluster, unique
from bench.soak.faults import unfinished_work
from bench.stores import temporary_stores

COUNTS = {"ingest": 2, "process": 2, "sink": 2}
BETWEEN_S = 5.0  # until the next process is replaced


def write_code(commit: str, folder: Path) -> Path:
    """Writes the code of a commit to a folder. Ends the program if there is no such commit."""
    made = subprocess.run(["git", "archive", commit], capture_output=True, check=False)
    if made.returncode:
        raise SystemExit(f"the code of '{commit}' cannot be read: {made.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


async def replace_all(cluster: Cluster, code: Path | None) -> list[str]:
    """Replaces every process, one after the other. Returns what was wrong."""
    wrong = []
    cluster.code = code
    await cluster.init()
    for role in ROLES:
        for number in range(COUNTS[role]):
            if exit_code := await cluster.replace(role):
                wrong.append(f"{role} {number + 1} ended with {exit_code}")
            print(f"  {role} {number + 1} of {COUNTS[role]} is replaced", flush=True)
            await asyncio.sleep(BETWEEN_S)
    return wrong


async def run(folder: Path, weights: Path, photos: Sequence[bytes], earlier: Path, seed: int) -> list[str]:
    report, wrong = ClientReport(), list[str]()
    async with temporary_stores("upgrade") as stores, AsyncExitStack() as stack:
        cluster = Cluster(stores, folder, weights, COUNTS, threads="1", decoders="1")
        cluster.code = earlier
        await stack.enter_async_context(cluster)
        async with Clients(cluster, photos, report, directory=unique("d"), seed=seed) as clients:
            await asyncio.sleep(BETWEEN_S)
            for code, name in ((None, "this checkout"), (earlier, "the earlier commit")):
                print(f"to {name}:", flush=True)
                wrong += await replace_all(cluster, code)
            await clients.finish()
            await clients.check()
        wrong += report.wrong + await unfinished_work(stores)
    print(
        f"{len(report.learned)} learned, {dict(sorted(report.answers.items()))}; the longest wait was"
        f" {max(report.latencies):.1f} s"
    )
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="commit", metavar="COMMIT", default="HEAD~1", help="default: %(default)s")
    add_arguments(parser)
    arguments = parser.parse_args()
    photos = portraits(arguments.photos)
    with tempfile.TemporaryDirectory() as folder:
        earlier = write_code(arguments.commit, Path(folder) / "earlier")
        data, weights = Path(folder) / "data", arguments.weights.resolve()
        wrong = asyncio.run(run(data, weights, photos, earlier, arguments.seed))
    return verdict(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
