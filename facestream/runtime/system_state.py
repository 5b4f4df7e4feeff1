"""The state of the system that every role keeps in memory: the generations of models, and the erasures."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from backends.log import EventLog
from stream.erase.erasures import Erasures
from stream.generations import Generations
from weights.manifest import manifest


@dataclass(frozen=True, slots=True)
class SystemState:
    generations: Generations
    erasures: Erasures

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.generations.run())
            tasks.create_task(self.erasures.run())


@asynccontextmanager
async def follow_state(log_: EventLog) -> AsyncIterator[SystemState]:
    """Yields the current state; its `run` keeps it up to date. Raises Unavailable."""
    known = manifest()
    state = SystemState(Generations(log_, known.generation(known.default_generation)), Erasures(log_))
    async with AsyncExitStack() as stack:
        for follower in (state.generations, state.erasures):
            stack.push_async_callback(follower.close)
            await follower.start()
        yield state
