"""The embedders of the generations in use, loaded when the topic `models` first names them."""

from collections.abc import Awaitable, Callable
from functools import partial

from processors.inference import Inference
from processors.loaded_models import LoadedModels
from processors.networks import Embedder
from schemas.errors import GenerationRetired, Unavailable
from schemas.generation_records import Generation
from stream.generations import Generations


class Embedders:
    """The embedders that this process can run.

    `fetch` gets the files of an embedder and returns the function that makes it, which runs in the inference thread.
    """

    def __init__(
        self,
        generations: Generations,
        inference: Inference,
        fetch: Callable[[Generation], Awaitable[Callable[[], Embedder]]],
    ) -> None:
        self._generations, self._inference, self._fetch = generations, inference, fetch
        self._models = LoadedModels("embedder")

    async def load_active(self) -> None:
        """Loads the active embedder at the start of a role. Raises what `fetch` and its function raise."""
        active = self._generations.active
        await self._models.load(active.name, partial(self._load, active))

    async def require(self, name: str) -> Generation:
        """A generation to embed probes with.

        Raises Unavailable when its embedder cannot be loaded here, GenerationRetired, NotFound.
        """
        generation = await self._generations.get_or_refresh(name)
        if generation.state == "retired":
            raise GenerationRetired(f"the generation '{name}' is retired by now: send the image again")
        if not await self._ensure_loaded(generation):
            raise Unavailable(f"the embedder of the generation '{name}' cannot be loaded: the log says why")
        return generation

    async def live(self) -> list[Generation]:
        """The generations to embed learned faces with. Those that cannot be loaded here are left out, except the active
        one.

        A generation that is left out gets these faces from its replay, and cannot become active before that.
        """
        await self.require(self._generations.active.name)
        return [it for it in self._generations.live if await self._ensure_loaded(it)]

    async def _ensure_loaded(self, generation: Generation) -> bool:
        return await self._models.ensure_loaded(generation.name, partial(self._load, generation))

    async def _load(self, generation: Generation) -> None:
        await self._inference.add_embedder(generation.name, await self._fetch(generation))
