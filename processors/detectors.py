"""The detectors of the generations in use, loaded when the topic `models` first names them."""

from collections.abc import Callable
from functools import partial

from processors.inference import Inference
from processors.loaded_models import LoadedModels
from processors.networks import Detector
from schemas.errors import Unavailable
from schemas.generation_records import Generation
from stream.generations import Generations


class Detectors:
    """The detectors that this process can run. `make` loads one by its name, in the inference thread."""

    def __init__(self, generations: Generations, inference: Inference, make: Callable[[str], Detector]) -> None:
        self._generations, self._inference, self._make = generations, inference, make
        self._models = LoadedModels("detector")

    async def load_active(self) -> None:
        """Loads the active detector at the start of a role. Raises what `make` raises."""
        name = self._generations.active.detector
        await self._models.load(name, partial(self._load, name))

    async def active(self) -> Generation:
        """The active generation, whose detector finds the faces. Raises Unavailable when it cannot be loaded here."""
        generation = self._generations.active
        if not await self.ensure_loaded(generation.detector):
            raise Unavailable(f"the detector '{generation.detector}' cannot be loaded: the log says why")
        return generation

    async def other_detectors(self, detector: str) -> list[str]:
        """The other detectors of the live generations, without those that cannot be loaded here."""
        names = dict.fromkeys(it.detector for it in self._generations.live if it.detector != detector)
        return [it for it in names if await self.ensure_loaded(it)]

    async def ensure_loaded(self, name: str) -> bool:
        return await self._models.ensure_loaded(name, partial(self._load, name))

    async def _load(self, name: str) -> None:
        await self._inference.add_detector(name, partial(self._make, name))
