"""The embedders of the generations that are in use, loaded when the topic `models` first names them."""

from collections.abc import Awaitable, Callable
from functools import partial

from processors.inference import Inference
from processors.networks import Embedder
from processors.on_demand import OnDemand
from schemas.errors import GenerationRetired, Unavailable
from schemas.generation_records import Generation
from stream.generations import Generations


class Embedders:
    """`fetch` gets what an embedder needs, and returns what makes it; that runs in the inference's thread."""

    def __init__(
        self,
        generations: Generations,
        inference: Inference,
        fetch: Callable[[Generation], Awaitable[Callable[[], Embedder]]],
    ) -> None:
        self._generations, self._inference, self._fetch = generations, inference, fetch
        self._there = OnDemand("embedder")

    async def load_active(self) -> None:
        """Before anybody waits. Raises what `fetch` and what it returns raise."""
        active = self._generations.active
        await self._there.load(active.name, partial(self._load, active))

    async def require(self, name: str) -> Generation:
        """A generation to embed probes in. Raises Unavailable when it cannot be loaded here, GenerationRetired,
        NotFound.
        """
        generation = await self._generations.get_or_refresh(name)
        if generation.state == "retired":
            raise GenerationRetired(f"the generation '{name}' is retired by now: send the image again")
        if not await self._has(generation):
            raise Unavailable(f"the embedder of the generation '{name}' cannot be loaded: the log says why")
        return generation

    async def live(self) -> list[Generation]:
        """The generations to embed learns in: one that cannot be loaded here is left out, unless it is the active one.
        Its replay finds the faces that it lacks, and it cannot become active without them.
        """
        await self.require(self._generations.active.name)
        return [it for it in self._generations.live if await self._has(it)]

    async def _has(self, generation: Generation) -> bool:
        return await self._there.has(generation.name, partial(self._load, generation))

    async def _load(self, generation: Generation) -> None:
        await self._inference.add_embedder(generation.name, await self._fetch(generation))
