"""The embedders of the generations that are in use, loaded when the topic `models` first names them."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from processors.inference import Inference
from processors.networks import Embedder
from schemas.errors import FacestreamError, Unavailable
from schemas.generations import Generation
from stream.generations import Generations

log = structlog.get_logger(__name__)

AGAIN_S = 30.0  # until an embedder that could not be loaded is tried again


class Embedders:
    """`fetch` gets what an embedder needs, and returns what makes it; that runs in the inference's thread."""

    def __init__(
        self, generations: Generations, inference: Inference, fetch: Callable[[Generation], Awaitable[Callable[[], Embedder]]]
    ) -> None:
        self._generations, self._inference, self._fetch = generations, inference, fetch
        self._loaded: set[str] = set()
        self._failed: dict[str, float] = {}
        self._loading = asyncio.Lock()

    async def load_active(self) -> None:
        """Before anybody waits. Raises what `fetch` and what it returns raise."""
        await self._load(self._generations.active)

    async def active(self) -> Generation:
        """The generation to embed probes in. Raises Unavailable when it cannot be loaded here."""
        generation = self._generations.active
        if not await self._has(generation):
            raise Unavailable(f"the embedder of the active generation '{generation.name}' cannot be loaded: the log says why")
        return generation

    async def live(self) -> list[Generation]:
        """The generations to embed learns in: one that cannot be loaded here is left out, unless it is the active one. Its replay
        finds the faces that it lacks, and it cannot become active without them.
        """
        await self.active()
        return [it for it in self._generations.live if await self._has(it)]

    async def _has(self, generation: Generation) -> bool:
        if generation.name in self._loaded:
            return True
        async with self._loading:
            if generation.name not in self._loaded and self._failed.get(generation.name, 0.0) < time.monotonic():
                try:
                    await self._load(generation)
                except FacestreamError as error:
                    self._failed[generation.name] = time.monotonic() + AGAIN_S
                    log.error("embedder not loaded", generation=generation.name, code=error.code, reason=error.message)
            return generation.name in self._loaded

    async def _load(self, generation: Generation) -> None:
        await self._inference.add_embedder(generation.name, await self._fetch(generation))
        self._loaded.add(generation.name)
        log.info("embedder loaded", generation=generation.name)
