"""Builds and runs programs of other systems in Java, Go, JavaScript and Python, each from one file or module and from
public packages. What is there already is kept.

The packages and programs lie in a folder `foreign` beside those of scripts/services.py.
"""

import asyncio
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.services_lock import locked
from scripts.services_packages import MissingTools, folder, maven, run
from scripts.services_process import ServiceFailed

TOOLS = {"javac": "a JDK 17 or newer", "mvn": "Maven", "go": "Go", "node": "Node.js", "npm": "npm"}


@dataclass(frozen=True, slots=True)
class Program:
    """has_transactions: whether it can send in transactions."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    has_transactions: bool = True


async def send_with(program: Program, arguments: Sequence[str], lines: Sequence[str]) -> None:
    """Runs a program that sends what the lines on its standard input say, and then prints how many it has sent. Raises
    ServiceFailed.
    """
    process = await asyncio.create_subprocess_exec(
        *program.command,
        *arguments,
        env=os.environ | program.environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate("".join(f"{line}\n" for line in lines).encode())
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode or output.decode().split()[-1:] != [str(len(lines))]:
        said = (output + errors).decode()[-2000:]
        raise ServiceFailed(f"{' '.join([*program.command, *arguments])} did not send {len(lines)} records:\n{said}")


def check_tools() -> None:
    """Raises MissingTools if this machine cannot build every program."""
    if lacks := [what for tool, what in TOOLS.items() if not shutil.which(tool)]:
        raise MissingTools(f"this machine cannot build every client: it lacks {', '.join(lacks)}")


def jars_of(*artifacts: tuple[str, str, str]) -> Path:
    """The folder with the jars of Maven artifacts (group, name, version) and of all that they need."""
    with locked(_cache() / "lock"):
        return maven(_cache(), *artifacts)


def java_program(source: Path, jars: Path) -> Program:
    """The class that has the name of its file."""
    classes = _made(
        "java",
        (jars.name, source.read_text()),
        lambda into: run(["javac", "-cp", f"{jars}/*", "-d", str(into), str(source)], into, {}),
    )
    return Program(["java", "-cp", f"{jars}/*:{classes}", source.stem])


def go_program(source: Path, *packages: str) -> Program:
    """packages: each with its version."""

    def build(into: Path) -> None:
        shutil.copy(source, into)
        run(["go", "mod", "init", source.stem], into, {})
        run(["go", "get", *packages], into, {})
        run(["go", "build", "-o", "program", source.name], into, {})

    return Program([str(_made(source.stem, (*packages, source.read_text()), build) / "program")])


def node_program(source: Path, *packages: str) -> Program:
    """packages: each with its version."""

    def build(into: Path) -> None:
        run(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(into), *packages], into, {})

    return Program(["node", str(source)], {"NODE_PATH": str(_made(source.stem, packages, build) / "node_modules")})


def python_program(module: str, *packages: str) -> Program:
    """A module of packages, each with its version, which are not installed beside ours."""

    def build(into: Path) -> None:
        run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(into), *packages], into, {})

    return Program([sys.executable, "-m", module], {"PYTHONPATH": str(_made(module, packages, build))})


def _cache() -> Path:
    return folder() / "foreign"


def _made(name: str, made_from: tuple[str, ...], make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills. Its name follows from what it is made from, so that a change makes it again."""
    digest = hashlib.sha256("\0".join(made_from).encode()).hexdigest()[:12]
    made = _cache() / f"{name}-{digest}"
    with locked(_cache() / "lock"):
        if not made.exists():
            print(f"building {name}", file=sys.stderr)
            unfinished = made.with_name(f"{made.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            make(unfinished)
            unfinished.rename(made)
    return made
