"""A relay between a client and a server. A test can cut, hold and restore it, like a network that fails."""

import asyncio
from contextlib import suppress


class Relay:
    """Listens on its own port after it is `opened`; the port stays the same."""

    def __init__(self, port: int) -> None:
        """port: of the server on 127.0.0.1."""
        self.port = 0
        self._to = port
        self._listening: asyncio.Server | None = None
        self._passing: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def open(self) -> None:
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Ends all connections and refuses new ones."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    def hold(self) -> None:
        """Connections stay open, and nothing passes."""
        self._flowing.clear()

    def let_go(self) -> None:
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        try:
            to_server, from_server = await asyncio.open_connection("127.0.0.1", self._to)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pass(reader, from_server))
                    both.create_task(self._pass(to_server, writer))
            finally:
                from_server.close()
        except (OSError, asyncio.CancelledError, BaseExceptionGroup):
            pass
        finally:
            self._passing.discard(task)
            writer.close()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            await self._flowing.wait()
            sink.write(data)
            with suppress(ConnectionError):
                await sink.drain()
        raise ConnectionResetError  # one side is gone, so the other one goes too
