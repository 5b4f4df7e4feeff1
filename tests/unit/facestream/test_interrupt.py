"""Ctrl-C ends a command with exit code 130, whenever it comes and whatever the command does about it."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from facestream import parser
from facestream.cli import main
from facestream.interrupt import run_interruptibly
from schemas.errors import Unavailable


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """pytest keeps its own handler."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


async def interrupted() -> None:
    """Returns after the first Ctrl-C has cancelled the task."""
    press_ctrl_c()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(60)


def fail(error: Exception) -> Callable[[], int]:
    def end() -> int:
        raise error

    return end


@pytest.mark.parametrize(
    "end",
    [lambda: 0, lambda: 1, fail(BrokenPipeError()), fail(Unavailable("away")), fail(RuntimeError("a defect"))],
    ids=["done", "failed", "closed pipe", "unavailable", "defect"],
)
def test_an_interrupted_coroutine_raises_keyboard_interrupt_however_it_ends(end: Callable[[], int]) -> None:
    async def command() -> int:
        await interrupted()
        return end()

    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(command())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupted_coroutine_tidies_up() -> None:
    tidied = False

    async def command() -> int:
        nonlocal tidied
        try:
            press_ctrl_c()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            tidied = True
        return 0

    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(command())
    assert tidied


def test_a_second_ctrl_c_ends_a_coroutine_that_ignores_the_first() -> None:
    async def command() -> int:
        while True:
            await interrupted()

    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(command())


def test_without_ctrl_c_the_result_of_the_coroutine_is_returned() -> None:
    async def command() -> int:
        return 1

    assert run_interruptibly(command()) == 1
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run_interruptibly(command())))
    thread.start()
    thread.join()
    assert codes == [1]


def test_the_exit_code_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def command(argv: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(parser, "run_command", command)
    assert main([]) == 130


WHILE_LOADING = """
import sys
from facestream import cli

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "facestream.commands.up":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
sys.exit(cli.main(["--help"]))
"""


def test_ctrl_c_while_the_commands_load_exits_with_130() -> None:
    done = subprocess.run([sys.executable, "-c", WHILE_LOADING], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


WHILE_A_THREAD_WORKS = """
import sys, threading, time
from facestream import cli, parser

def command(argv):
    threading.Thread(target=time.sleep, args=(300,)).start()
    raise KeyboardInterrupt

parser.run_command = command
code = cli.main([])
print("tidied up", flush=True)
sys.exit(code)
"""


def test_a_second_ctrl_c_does_not_wait_for_threads() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WHILE_A_THREAD_WORKS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "tidied up\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
