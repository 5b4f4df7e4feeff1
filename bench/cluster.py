"""A cluster of roles in separate processes, on one set of stores: to be measured, killed and scaled."""

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.serving import Serving

ROLES = ("sink", "process", "ingest")
STAND_IN = "stand-in"  # a processor without models


class Cluster:
    """The processes of all roles. As an async context manager it sets the stores up, and starts and stops the roles.

    stores: the settings log, objects, vectors (and objects_password). counts: processes by role. processor: "process",
    or STAND_IN. wait_s: how long an image takes in a stand-in, one at a time; 0 for many at once. `code`: the checkout
    whose code new processes run, if it is not this one.
    """

    def __init__(
        self,
        stores: dict[str, str],
        data: Path,
        weights: Path,
        counts: dict[str, int],
        *,
        processor: str = "process",
        wait_s: float = 0.0,
        **settings: str,
    ) -> None:
        self.data = data
        self._weights, self._processor, self._wait_s = weights, processor, wait_s
        self._settings = stores | settings
        self.code: Path | None = None
        self._numbers = 0
        self.running: dict[str, list[Serving]] = {role: [] for role in ROLES}
        self._counts = counts

    @property
    def urls(self) -> list[str]:
        """The URLs of the ingest replicas."""
        return [serving.url for serving in self.running["ingest"]]

    @property
    def all(self) -> list[Serving]:
        return [serving for role in ROLES for serving in self.running[role]]

    async def add(self, role: str, count: int = 1) -> None:
        """Starts more processes of a role."""
        new = [self._serving(role) for _ in range(count)]
        for serving in new:
            serving.code = self.code
        await asyncio.gather(*(asyncio.to_thread(serving.start) for serving in new))
        self.running[role] += new

    async def replace(self, role: str) -> int:
        """Stops the process that has run longest, with SIGTERM, and starts another. Returns the exit code."""
        exit_code = await asyncio.to_thread(self.running[role].pop(0).stop)
        await self.add(role)
        return exit_code

    async def remove(self, role: str) -> int:
        """Stops the process that was started last, with SIGTERM. Returns its exit code."""
        return await asyncio.to_thread(self.running[role].pop().stop)

    async def __aenter__(self) -> Self:
        self.data.mkdir(parents=True, exist_ok=True)
        await self.init()
        try:
            for role in ROLES:
                await self.add(role, self._counts.get(role, 1))
        except BaseException:
            await self._stop()
            raise
        return self

    async def init(self) -> None:
        """Runs `facestream init`."""
        environment = os.environ | {f"FACESTREAM_{name.upper()}": value for name, value in self._settings.items()}
        command = [sys.executable, "-m", "facestream.cli", "init", "--data", str(self.data)]
        await asyncio.to_thread(
            subprocess.run, command, env=environment, cwd=self.code, check=True, stderr=subprocess.DEVNULL
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        codes = await self._stop()
        if error is None:
            assert set(codes) <= {0}, f"exit codes {codes}"

    async def _stop(self) -> Sequence[int]:
        """Stops the roles in the order in which a request passes through them."""
        codes: list[int] = []
        for role in reversed(ROLES):
            living = [serving for serving in self.running[role] if serving.alive()]
            codes += await asyncio.gather(*(asyncio.to_thread(serving.stop) for serving in living))
        return codes

    def _serving(self, role: str) -> Serving:
        self._numbers += 1
        name = f"{role}-{self._numbers}"
        if role == "process" and self._processor == STAND_IN:
            module = "bench.stand_in_processor"
            return Serving(
                self.data,
                self._weights,
                command=("--wait", f"{self._wait_s}"),
                name=name,
                module=module,
                member=name,
                **self._settings,
            )
        return Serving(self.data, self._weights, command=(role,), name=name, **self._settings)


def unique(word: str) -> str:
    """A name that no other run has."""
    return f"{word}{secrets.token_hex(4)}"
