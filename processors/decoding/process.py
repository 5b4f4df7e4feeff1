"""The parent's side of one decoding child: starts it, talks to it and stops it.

It knows nothing about images. The constructor and `stop` block, so call them in a thread; the rest never blocks.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from mmap import mmap
from pathlib import Path
from typing import Any

from processors.decoding.wire import LENGTH

START_LIMIT_S = 30
_RECEIVE_BYTES = 1 << 16


class ChildGone(Exception):
    """The child ended before it answered. decoding: whether it had received the order to decode."""

    def __init__(self, *, decoding: bool) -> None:
        super().__init__("the decoding process is gone")
        self.decoding = decoding


class DecodingProcess:
    """One child process with its socket."""

    def __init__(self, settings: dict[str, int]) -> None:
        self._process: subprocess.Popen[bytes]
        self._channel, theirs = socket.socketpair()
        self._channel.setblocking(False)
        self._descriptors: list[int] = []
        command = [
            sys.executable,
            "-P",
            "-m",
            "processors.decoding.child",
            json.dumps({**settings, "parent": os.getpid()}),
        ]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, env=_environment()
                )
        except BaseException:
            self._channel.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    async def wait_until_ready(self) -> None:
        async with asyncio.timeout(START_LIMIT_S):
            await self.answer()

    async def send(self, *parts: bytes | memoryview) -> None:
        loop = asyncio.get_running_loop()
        try:
            for part in parts:
                await loop.sock_sendall(self._channel, part)
        except ConnectionError as error:
            raise ChildGone(decoding=False) from error

    def send_byte(self, word: bytes) -> None:
        """Sends one byte. It always fits into the socket: the child has read everything before it."""
        try:
            self._channel.send(word)
        except ConnectionError:
            return  # `answer` raises ChildGone

    async def answer(self, *, decoding: bool = False) -> dict[str, Any]:
        """The child's next answer. A memory file that comes with it is kept for `take_mapping`."""
        received = b""
        while len(received) < LENGTH.size or len(received) < LENGTH.size + LENGTH.unpack_from(received)[0]:
            try:
                part, descriptors, _, _ = socket.recv_fds(self._channel, _RECEIVE_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                await self._wait_until_readable()
                continue
            except ConnectionError as error:
                raise ChildGone(decoding=decoding) from error
            self._descriptors += descriptors
            if not part:
                raise ChildGone(decoding=decoding)
            received += part
        answer: dict[str, Any] = json.loads(received[LENGTH.size :])
        return answer

    async def _wait_until_readable(self) -> None:
        loop = asyncio.get_running_loop()
        readable = loop.create_future()
        loop.add_reader(self._channel, _wake, readable)
        try:
            await readable
        finally:
            loop.remove_reader(self._channel)

    def take_mapping(self) -> mmap:
        """Maps the memory file that came with the last answer. The child has sealed it, so it cannot shrink."""
        descriptor = self._descriptors.pop()
        try:
            return mmap(descriptor, 0)
        finally:
            os.close(descriptor)

    def kill(self) -> None:
        """Kills the child: a pending `answer` raises ChildGone. `stop` must still be called."""
        self._process.kill()

    def stop(self) -> str:
        """Kills the child if it still runs, waits for its end and returns how it ended. Blocks."""
        self._channel.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self._process.kill()
        code = self._process.wait()
        return f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"it ended with status {code}"


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _environment() -> dict[str, str]:
    """The variables that Python needs, and none of the parent's passwords: in the child, C code reads hostile bytes."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PYTHON", "LD_", "LC_", "LANG"))}
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    # One arena, and no threads of numpy (processors/passes.py imports it): both use address space, which is limited.
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"}
