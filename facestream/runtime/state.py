"""The state that every role follows in the log: the generations, and what was erased."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from backends.log import EventLog
from stream.erase.marks import Erasures
from stream.generations import Generations
from weights.manifest import manifest


@dataclass(frozen=True, slots=True)
class State:
    generations: Generations
    erasures: Erasures

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.generations.run())
            tasks.create_task(self.erasures.run())


@asynccontextmanager
async def followed(log_: EventLog) -> AsyncIterator[State]:
    """The state as of now; `run` keeps it up to date. Raises Unavailable."""
    known = manifest()
    state = State(Generations(log_, known.generation(known.default_generation)), Erasures(log_))
    async with AsyncExitStack() as stack:
        for follower in (state.generations, state.erasures):
            stack.push_async_callback(follower.close)
            await follower.start()
        yield state
