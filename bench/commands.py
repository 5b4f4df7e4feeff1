"""Runs commands of `facestream`, each in a separate process, with chosen settings."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping


class Commands:
    """Runs `facestream` with these settings (by lower-case name) and no others."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        others = {name: value for name, value in os.environ.items() if not name.startswith("FACESTREAM_")}
        self._environment = others | {f"FACESTREAM_{name.upper()}": value for name, value in settings.items()}

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "facestream.cli", *command],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    async def run(self, *command: str) -> tuple[int, str]:
        """Returns the exit code and the output."""
        process = await asyncio.to_thread(self.start, *command)
        output, _ = await asyncio.to_thread(process.communicate)
        return process.returncode, output
