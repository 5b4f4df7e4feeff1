"""Erases people while their images are in flight.

    eval "$(make -s services)"; python -m bench.soak.erase [PHOTOS]
    python -m bench.soak.erase [PHOTOS] --embedded          one process without servers

In each round a person is erased, by any of the four DELETEs, while portraits and photos of that person are in flight.
After the DELETE is answered, no replica may name the person or return one of the pictures. If the person is learned
again, every replica must name the person again. Rounds run in groups, each in a separate directory. During each group
there is one fault or none: a random process is killed, or a sink or processor is stopped (SIGSTOP) until others have
its partitions and then continued. The first groups run without a replay, later ones during a replay. After each group
`facestream erase verify` must find nothing.
"""

import argparse
import asyncio
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp

from bench.clients import RunningService, add_arguments, portraits, verdict
from bench.cluster import Cluster
from bench.commands import Commands
from bench.serving import Serving
from bench.soak.erase_round import KINDS, Round, RoundFailed, RoundPhotos
from bench.soak.faults import HELD_S
from bench.soak.kills import SingleService
from bench.stores import temporary_stores

COUNTS = {"ingest": 2, "process": 2, "sink": 2}
GENERATION = "dlib-resnet29"  # announced by the replay
BALLAST = 40  # additional faces for the replay to embed
ROUNDS_PER_CHECK = 16  # rounds that are checked at the same time
STOPPED = 130  # exit code of a command that got SIGTERM

LONG_S = 5.0  # an erase may take longer while a process is stopped or restarts
CONTINUED_S = 3.0  # until a process that was continued has handled what it had in memory

Fault = Callable[[random.Random, asyncio.Event], Awaitable[None]]  # the event is set when a round is about to erase


async def no_fault(chance: random.Random, erasing: asyncio.Event) -> None:
    """No fault."""


def kill_one(victims: Sequence[Serving]) -> Fault:
    async def kill(chance: random.Random, erasing: asyncio.Event) -> None:
        await erasing.wait()
        await asyncio.sleep(chance.uniform(0, 2))
        victim = chance.choice(victims)
        victim.kill()
        print(f"  {victim.name} is killed", flush=True)
        await asyncio.to_thread(victim.start)

    return kill


def hold_one(cluster: Cluster, role: str, seconds: float = HELD_S) -> Fault:
    async def hold(chance: random.Random, erasing: asyncio.Event) -> None:
        await erasing.wait()
        await asyncio.sleep(chance.uniform(0, 0.3))
        victim = chance.choice(cluster.running[role])
        victim.process.send_signal(signal.SIGSTOP)
        print(f"  {victim.name} is held for {seconds:.0f} s", flush=True)
        await asyncio.sleep(seconds)
        victim.process.send_signal(signal.SIGCONT)
        await asyncio.sleep(CONTINUED_S)

    return hold


class Replay:
    """`facestream reembed`, which runs during the rounds at a low rate. `finish` completes it at full speed."""

    def __init__(self, commands: Commands, rate: float) -> None:
        self._commands, self._rate = commands, rate
        self._process: subprocess.Popen[str] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        if self._process is None:
            self._process = self._commands.start("reembed", GENERATION, "--rate", str(self._rate))

    async def finish(self) -> list[str]:
        """Completes the replay. Returns what was wrong."""
        if self._process is None:
            return []
        if self.running:
            self._process.send_signal(signal.SIGTERM)
        output, _ = await asyncio.to_thread(self._process.communicate)
        if self._process.returncode not in (0, 1, STOPPED):
            return [f"the replay ended with {self._process.returncode}: {output}"]
        code, output = await self._commands.run("reembed", GENERATION)
        return [f"the replay is not complete: {output}"] if code else []


async def erase_under_fire(
    service: RunningService,
    commands: Commands,
    photos: RoundPhotos,
    faults: dict[str, Fault],
    *,
    rounds: int,
    together: int,
    seed: int,
    rate: float,
) -> list[str]:
    """Runs rounds in groups, each during one of the faults in turn, and during a replay after a third of the rounds.

    together: rounds in a group. rate: of the replay, in faces per second. Returns the errors that were found.
    """
    chance, wrong = random.Random(seed), list[str]()
    finished: list[Round] = []
    replay = Replay(commands, rate)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        await _learn_ballast(session, service, photos)
        for group, begin in enumerate(range(0, rounds, together)):
            if begin >= rounds // 3:
                replay.start()
            name, fault = list(faults.items())[group % len(faults)]
            numbers = range(begin, min(begin + together, rounds))
            batch = [
                Round(service, session, photos, KINDS[i % 4], chance.random() < 0.5, random.Random(seed * 1_000 + i))
                for i in numbers
            ]
            began, erasing = time.monotonic(), asyncio.Event()
            await asyncio.gather(fault(chance, erasing), *(_run(it, erasing) for it in batch))
            await _check(batch)  # also checks what a continued or restarted process has done
            checked = time.monotonic()
            code, output = await commands.run("erase", "verify")
            if code:
                batch[0].wrong.append(f"erase verify, {name}: {output}")
            for line in (line for it in batch for line in it.wrong):
                print(f"  WRONG: {line}", flush=True)
            print(
                f"{numbers.stop}/{rounds}, {name}{', replay' if replay.running else ''}: {checked - began:.0f} s,"
                f" erased in {max(it.latency for it in batch):.1f} s at most,"
                f" verified in {time.monotonic() - checked:.1f} s",
                flush=True,
            )
            finished += batch
        wrong += await replay.finish()
        await _check(finished)
        code, output = await commands.run("erase", "verify")
        print(output, flush=True)
    wrong += [f"erase verify at the end: {output}"] if code else []
    wrong += [line for it in finished for line in it.wrong]
    latencies = sorted(it.latency for it in finished)
    again = sum(it.learned_again is not None for it in finished)
    print(
        f"{len(finished)} erased {dict(Counter(it.kind for it in finished))}, {again} learned again;"
        f" a DELETE took {latencies[len(latencies) // 2]:.2f} s (median), {latencies[-1]:.1f} s at most,"
        f" {sum(it > LONG_S for it in latencies)} more than {LONG_S:.0f} s"
    )
    return wrong


async def _run(round_: Round, erasing: asyncio.Event) -> None:
    try:
        await round_.run(erasing)
    except RoundFailed:
        erasing.set()


async def _check(rounds: Sequence[Round]) -> None:
    for begin in range(0, len(rounds), ROUNDS_PER_CHECK):
        await asyncio.gather(*(it.check() for it in rounds[begin : begin + ROUNDS_PER_CHECK]))


async def _learn_ballast(session: aiohttp.ClientSession, service: RunningService, photos: RoundPhotos) -> None:
    for number in range(BALLAST):
        portrait = photos.portraits[number % len(photos.portraits)]
        person = f"person {number}"
        while (retry_after := await _learn(session, service, person, portrait)) is not None:  # noqa: ASYNC110 - no event
            await asyncio.sleep(retry_after)


async def _learn(session: aiohttp.ClientSession, service: RunningService, person: str, portrait: bytes) -> float | None:
    """Learns a person. Returns the seconds to wait before another try if the service has too much in flight, else
    None.
    """
    form = aiohttp.FormData({"directory": "ballast", "person": person})
    form.add_field("file", portrait, filename="photo.jpg")
    async with session.post(f"{service.urls[0]}/learn", data=form) as response:
        if response.status == HTTPStatus.TOO_MANY_REQUESTS:
            return float(response.headers["Retry-After"])
        response.raise_for_status()
        return None


async def erase_embedded(arguments: argparse.Namespace, photos: RoundPhotos, folder: Path) -> list[str]:
    settings = {"data": str(folder / "data"), "weights": str(arguments.weights.resolve())}
    serving = Serving(folder / "data", arguments.weights.resolve())
    await asyncio.to_thread(serving.start)
    try:
        faults = {"no fault": no_fault, "kill": kill_one([serving])}
        return await erase_under_fire(
            SingleService(serving), Commands(settings), photos, _choose_faults(faults, arguments), **_options(arguments)
        )
    finally:
        await asyncio.to_thread(serving.stop)


async def erase_distributed(arguments: argparse.Namespace, photos: RoundPhotos, folder: Path) -> list[str]:
    weights = arguments.weights.resolve()
    async with temporary_stores("erase") as stores:
        commands = Commands(stores | {"data": str(folder / "data"), "weights": str(weights)})
        async with Cluster(stores, folder / "data", weights, COUNTS, decoders="1", threads="1") as cluster:
            faults = {
                "no fault": no_fault,
                "held sink": hold_one(cluster, "sink"),
                "kill": kill_one(cluster.all),
                "held processor": hold_one(cluster, "process"),
            }
            return await erase_under_fire(
                cluster, commands, photos, _choose_faults(faults, arguments), **_options(arguments)
            )


def _choose_faults(faults: dict[str, Fault], arguments: argparse.Namespace) -> dict[str, Fault]:
    return {arguments.only: faults[arguments.only]} if arguments.only else faults


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in ("rounds", "together", "seed", "rate")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--embedded", action="store_true", help="one process without servers, which is killed but not held"
    )
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--together", type=int, default=8, help="rounds at a time")
    parser.add_argument("--only", metavar="FAULT", help="one of them")
    parser.add_argument("--rate", type=float, default=1.0, help="faces a second of the replay")
    add_arguments(parser)
    arguments = parser.parse_args()
    photos = RoundPhotos(portraits(arguments.photos), (arguments.photos / "biden.jpg").read_bytes())
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        wrong = asyncio.run(
            (erase_embedded if arguments.embedded else erase_distributed)(arguments, photos, Path(folder))
        )
    print(f"{arguments.rounds} rounds in {time.monotonic() - began:.0f} s")
    return verdict(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
