"""The detectors of the generations that are in use, loaded when the topic `models` first names them."""

from collections.abc import Callable
from functools import partial

from processors.inference import Inference
from processors.networks import Detector
from processors.on_demand import OnDemand
from schemas.errors import Unavailable
from schemas.generation_records import Generation
from stream.generations import Generations


class Detectors:
    """`make` loads one, by its name; it runs in the inference's thread."""

    def __init__(self, generations: Generations, inference: Inference, make: Callable[[str], Detector]) -> None:
        self._generations, self._inference, self._make = generations, inference, make
        self._there = OnDemand("detector")

    async def load_active(self) -> None:
        """Before anybody waits. Raises what `make` raises."""
        name = self._generations.active.detector
        await self._there.load(name, partial(self._load, name))

    async def active(self) -> Generation:
        """The generation to find the faces of an image in. Raises Unavailable when its detector cannot be loaded here."""
        generation = self._generations.active
        if not await self.has(generation.detector):
            raise Unavailable(f"the detector '{generation.detector}' cannot be loaded: the log says why")
        return generation

    async def others(self, detector: str) -> list[str]:
        """Those that the generations to embed learns in have beside this one. One that cannot be loaded here is left
        out.
        """
        names = dict.fromkeys(it.detector for it in self._generations.live if it.detector != detector)
        return [it for it in names if await self.has(it)]

    async def has(self, name: str) -> bool:
        return await self._there.has(name, partial(self._load, name))

    async def _load(self, name: str) -> None:
        await self._inference.add_detector(name, partial(self._make, name))
