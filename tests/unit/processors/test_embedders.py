"""The embedders of the generations that the topic `models` names, loaded while the system runs. Tiny networks, real
records.
"""

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from backends.sqlite.log import SqliteLog
from processors import align, loaded_models
from processors.embed import CropThreads, FaceCrop, decode_crop, embed_crop
from processors.embedders import Embedders
from processors.inference import Inference, Networks
from processors.networks import Chips, Embedder
from schemas.errors import GenerationRetired, ObjectMissing, Unavailable, WeightsInvalid
from schemas.generation_records import Generation
from schemas.generation_records import State as GenerationState
from stream.generations import Generations, active_record, generation_record
from weights.manifest import manifest

DEFAULT = manifest().default_generation
LANDMARKS = np.array([[85, 95], [155, 95], [120, 130], [92, 165], [148, 165]], np.float32)


def generation(
    name: str, *, state: GenerationState = "candidate", dimension: int = 3, template: str = "dlib-150"
) -> Generation:
    update = {"name": name, "state": state, "dimension": dimension, "template": template}
    return manifest().generation("dlib-resnet29").model_copy(update=update)


@dataclass
class Tiny:
    """An embedder whose vectors repeat its number. It waits until `go_on` is set."""

    number: int
    dimension: int
    happened: list[str]
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    entered: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def embed(self, chips: Chips) -> NDArray[np.float32]:
        assert not isinstance(chips, Tensor)
        self.happened.append(f"embed {self.number}")
        self.shapes += [chip.shape for chip in chips]
        self.entered.set()
        assert self.go_on.wait(20)
        return np.full((len(chips), self.dimension), self.number, np.float32)


class Shelf:
    """The loadable embedders by generation: an embedder, or the error that fetching or loading it raises."""

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.embedders: dict[str, Tiny] = {}
        self.fetch_fails: dict[str, Exception] = {}
        self.load_fails: dict[str, Exception] = {}

    def put(self, it: Generation) -> Tiny:
        self.embedders[it.name] = made = Tiny(len(self.embedders) + 1, it.dimension, self.happened)
        made.go_on.set()
        return made

    async def fetch(self, it: Generation) -> Callable[[], Embedder]:
        self.happened.append(f"fetch {it.name}")
        if it.name in self.fetch_fails:
            raise self.fetch_fails[it.name]

        def load() -> Embedder:
            self.happened.append(f"load {it.name}")
            assert threading.current_thread().name == "inference"
            if it.name in self.load_fails:
                raise self.load_fails[it.name]
            return self.embedders[it.name]

        return load

    def tries(self, name: str) -> int:
        return self.happened.count(f"fetch {name}")


@pytest.fixture
async def generations(log: SqliteLog) -> AsyncIterator[Generations]:
    generations = Generations(log, generation(DEFAULT, state="complete"))
    await generations.start()
    yield generations
    await generations.close()


@pytest.fixture
def shelf() -> Shelf:
    shelf = Shelf()
    shelf.put(generation(DEFAULT))
    return shelf


@pytest.fixture
def inference(shelf: Shelf) -> Iterator[Inference]:
    made = Inference(Networks(chunk_pixels=1, chunk_chips=4))
    yield made
    for it in shelf.embedders.values():
        it.go_on.set()
    made.close()


@pytest.fixture
def embedders(generations: Generations, inference: Inference, shelf: Shelf) -> Embedders:
    return Embedders(generations, inference, shelf.fetch)


async def announce(log: SqliteLog, generations: Generations, it: Generation, *, activate: bool = False) -> None:
    await log.append([generation_record(it), *([active_record(it.name)] if activate else [])])
    await generations.refresh()


def names(found: list[Generation]) -> list[str]:
    return [it.name for it in found]


def chips(count: int) -> list[NDArray[np.uint8]]:
    return [np.zeros((150, 150, 3), np.uint8)] * count


async def test_the_active_embedder_is_loaded_once_before_it_is_needed(embedders: Embedders, shelf: Shelf) -> None:
    await embedders.load_active()
    assert names(await asyncio.gather(*(embedders.require(DEFAULT) for _ in range(5)))) == [DEFAULT] * 5
    assert [names(it) for it in await asyncio.gather(*(embedders.live() for _ in range(5)))] == [[DEFAULT]] * 5
    assert shelf.happened == [f"fetch {DEFAULT}", f"load {DEFAULT}"]


async def test_an_embedder_announced_while_running_is_loaded_between_two_chunks(
    log: SqliteLog, generations: Generations, inference: Inference, embedders: Embedders, shelf: Shelf
) -> None:
    await embedders.load_active()
    default = shelf.embedders[DEFAULT]
    default.go_on.clear()
    crowd = asyncio.create_task(inference.embed(DEFAULT, chips(8)))  # two chunks
    assert await asyncio.to_thread(default.entered.wait, 20)
    new = generation("new", dimension=5)
    shelf.put(new)
    assert names(await embedders.live()) == [DEFAULT]
    await announce(log, generations, new)
    waiting = [asyncio.create_task(embedders.live()) for _ in range(3)]
    while "fetch new" not in shelf.happened:  # noqa: ASYNC110 - it happens in this loop
        await asyncio.sleep(0)
    default.go_on.set()
    for found in await asyncio.wait_for(asyncio.gather(*waiting), 20):
        assert names(found) == [DEFAULT, "new"]
    assert (await crowd).tolist() == [[1.0] * 3] * 8
    assert shelf.happened[2:] == ["embed 1", "fetch new", "load new", "embed 1"]
    assert (await inference.embed("new", chips(2))).tolist() == [[2.0] * 5] * 2


@pytest.mark.parametrize("where", ["fetch", "load"])
async def test_an_embedder_that_cannot_be_loaded_is_left_out_and_tried_again_later(
    log: SqliteLog,
    generations: Generations,
    embedders: Embedders,
    shelf: Shelf,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    clock = 1_000.0
    monkeypatch.setattr(loaded_models, "time", SimpleNamespace(monotonic=lambda: clock))
    failing = shelf.fetch_fails if where == "fetch" else shelf.load_fails
    failing["new"] = ObjectMissing("its file is gone") if where == "fetch" else WeightsInvalid("its file is broken")
    new = generation("new")
    shelf.put(new)
    await announce(log, generations, new)
    for _ in range(3):
        assert names(await embedders.live()) == [DEFAULT]
    assert shelf.tries("new") == 1
    clock += loaded_models.RETRY_S + 1
    assert names(await embedders.live()) == [DEFAULT]
    assert shelf.tries("new") == 2
    del failing["new"]
    assert names(await embedders.live()) == [DEFAULT]  # not yet
    clock += loaded_models.RETRY_S + 1
    assert names(await embedders.live()) == [DEFAULT, "new"]
    assert names(await embedders.live()) == [DEFAULT, "new"]
    assert (shelf.tries("new"), shelf.tries(DEFAULT)) == (3, 1)


async def test_an_active_embedder_that_cannot_be_loaded_raises_unavailable(
    log: SqliteLog, generations: Generations, embedders: Embedders, shelf: Shelf
) -> None:
    """Without it, learned faces would lack the vector that probes are matched with, so learning must not continue."""
    await embedders.load_active()
    shelf.load_fails["new"] = WeightsInvalid("its file is broken")
    await announce(log, generations, generation("new", state="complete"), activate=True)
    for ask in (embedders.require("new"), embedders.live()):
        with pytest.raises(Unavailable, match="'new'"):
            await ask
    with pytest.raises(WeightsInvalid, match="broken"):
        await embedders.load_active()
    await log.append([active_record(DEFAULT)])
    await generations.refresh()
    assert (await embedders.require(DEFAULT)).name == DEFAULT
    assert names(await embedders.live()) == [DEFAULT]


async def test_after_a_switch_probes_use_the_new_embedder_and_learns_use_both(
    log: SqliteLog, generations: Generations, embedders: Embedders, shelf: Shelf
) -> None:
    new = generation("new", state="complete")
    shelf.put(new)
    await announce(log, generations, new)
    assert (await embedders.require(DEFAULT)).name == DEFAULT
    assert "load new" not in shelf.happened  # no probe waits for the loading
    await log.append([active_record("new")])
    await generations.refresh()
    assert (await embedders.require("new")).name == "new"
    assert names(await embedders.live()) == [DEFAULT, "new"]


async def test_a_probe_whose_generation_was_retired_is_refused(
    log: SqliteLog, generations: Generations, embedders: Embedders
) -> None:
    await announce(log, generations, generation("new", state="retired"))
    with pytest.raises(GenerationRetired, match="'new'"):
        await embedders.require("new")


@pytest.mark.parametrize("state", ["added", "retired"])
async def test_what_is_not_live_is_not_loaded(
    log: SqliteLog, generations: Generations, embedders: Embedders, shelf: Shelf, state: GenerationState
) -> None:
    await announce(log, generations, generation("new", state=state))
    assert names(await embedders.live()) == [DEFAULT]
    assert shelf.tries("new") == 0


async def test_a_learned_face_is_embedded_in_each_with_the_chip_of_its_template(
    log: SqliteLog, generations: Generations, inference: Inference, embedders: Embedders, shelf: Shelf
) -> None:
    for new in (generation("new", dimension=5, template="arcface-112"), generation("twin", dimension=2)):
        shelf.put(new)
        await announce(log, generations, new)
    file, crop_threads = io.BytesIO(), CropThreads()
    Image.new("RGB", (align.CROP, align.CROP), "gray").save(file, "JPEG")
    live = await embedders.live()
    vectors = await embed_crop(FaceCrop(decode_crop(file.getvalue()), LANDMARKS), live, crop_threads, inference, 0.0)
    crop_threads.close()
    assert {name: vector.tolist() for name, vector in vectors.items()} == {
        DEFAULT: [1.0] * 3,
        "new": [2.0] * 5,
        "twin": [3.0] * 2,
    }
    assert {name: it.shapes for name, it in shelf.embedders.items()} == {
        DEFAULT: [(150, 150, 3)],
        "new": [(112, 112, 3)],
        "twin": [(150, 150, 3)],
    }
