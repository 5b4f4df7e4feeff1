"""Changes the state of generations: each change is one record of the topic `models`."""

import asyncio

import numpy as np
from pydantic import TypeAdapter, ValidationError

from backends.log import EventLog
from backends.vectors import VectorReader
from facestream.runtime.stores import Stores
from schemas.errors import ConfigurationError
from schemas.generation_records import Generation, GenerationName
from sink.evaluate.fitting import fit_generation
from stream.catch_up import wait_until_caught_up
from stream.generations import Generations, active_record, generation_record
from stream.topics import FACES_EMBEDDED
from weights.manifest import manifest

ANNOUNCED_S = 2.0  # after this time every process has read a new record of `models`
SINK_S = 120.0


def find_generation(generations: Generations, name: str) -> Generation:
    """A generation from the topic, or a shipped one that is not in use yet. Raises NotFound."""
    if name in manifest().generations and name not in {it.name for it in generations.all}:
        return manifest().generation(name)
    return generations.get(name)


def check_generation_name(text: str) -> str:
    """Checks the name of a new generation. Raises ConfigurationError."""
    try:
        return TypeAdapter(GenerationName).validate_python(text)
    except ValidationError:
        raise ConfigurationError(
            f"'{text}' is no name of a generation: up to 64 of a-z, 0-9, '.', '_', '-', a letter or a digit first"
        ) from None


async def make_candidate(log: EventLog, generations: Generations, name: str) -> Generation:
    """Makes the generation a candidate, with which every learned face is embedded from now on. A complete one stays
    complete. Raises NotFound, ConfigurationError.
    """
    await generations.refresh()
    generation = find_generation(generations, name)
    if generation.state == "retired":
        raise ConfigurationError(
            f"'{name}' was retired, and a name is used once only: add the model under another name"
        )
    if generation.state == "added":
        generation = generation.model_copy(update={"state": "candidate"})
        await log.append([generation_record(generation)])
        await generations.refresh()
        await asyncio.sleep(ANNOUNCED_S)
    return generation


async def complete(stores: Stores, generations: Generations, name: str) -> tuple[Generation, str]:
    """Marks a candidate as complete. If it has no threshold or calibration, they are fitted to its galleries.

    Returns the generation, and the reason why one of them is still missing; '' if it has both.
    """
    generation = generations.get(name)
    galleries = [
        await _read_gallery(stores.vectors, directory, name) for directory in await stores.vectors.directories(name)
    ]
    faces = sum(len(persons) for persons, _ in galleries)
    changes: dict[str, object] = {"state": "complete", "faces": faces}
    reason = ""
    if generation.threshold is None or generation.calibration is None:
        fitted = await asyncio.to_thread(fit_generation, galleries)
        changes |= {
            "threshold": generation.threshold or fitted.threshold,
            "calibration": generation.calibration or fitted.calibration,
        }
        reason = fitted.reason
    generation = generation.model_copy(update=changes)
    await stores.log.append([generation_record(generation)])
    await generations.refresh()
    return generation, reason


async def activate(stores: Stores, generations: Generations, name: str, *, force: bool) -> None:
    """Makes the processors embed probes with the generation from now on. Raises NotFound, ConfigurationError."""
    await generations.refresh()
    generation = find_generation(generations, name)
    if generation.state not in ("candidate", "complete"):
        raise ConfigurationError(f"'{name}' is {generation.state}: make its vectors first (facestream reembed {name})")
    if generation.threshold is None:
        raise ConfigurationError(
            f"'{name}' has no threshold, so nobody could be named: its replay found too few people to measure one."
            f" Learn more people and run `facestream reembed {name}` again"
        )
    if not force:
        if generation.state != "complete":
            raise ConfigurationError(f"the replay of '{name}' is not complete: facestream reembed {name} (or --force)")
        await _wait_for_sink(stores.log)
        if missing := await missing_faces(stores.vectors, generations.active.name, name):
            raise ConfigurationError(
                f"'{name}' lacks {len(missing)} faces that '{generations.active.name}' has, the first: {missing[0]}:"
                f" facestream reembed {name} (or --force)"
            )
    await stores.log.append([active_record(name)])
    await generations.refresh()


async def retire(stores: Stores, generations: Generations, name: str) -> int:
    """Deletes the vectors of a generation; returns how many. Raises NotFound, ConfigurationError."""
    await generations.refresh()
    generation = find_generation(generations, name)
    if name == generations.active.name:
        raise ConfigurationError(f"'{name}' is active: activate another one first (facestream models list)")
    if generation.state != "retired":
        await stores.log.append([generation_record(generation.model_copy(update={"state": "retired"}))])
        await generations.refresh()
        await asyncio.sleep(ANNOUNCED_S)  # until then other processes may still write its vectors
        await _wait_for_sink(stores.log)
    deleted = await stores.vectors.delete_generation(name)
    if generation.onnx is not None:
        others = {it.onnx.object_key for it in generations.all if it.onnx is not None and it.state != "retired"}
        if generation.onnx.object_key not in others:
            await stores.objects.delete([generation.onnx.object_key])
    return deleted


async def missing_faces(vectors: VectorReader, has: str, lacks: str) -> list[str]:
    """The faces that one generation has and the other lacks, as directory/person/face_id."""
    missing: list[str] = []
    for directory in await vectors.directories(has):
        existing = {it.face_id async for page in vectors.read_faces(directory, lacks) for it in page}
        async for page in vectors.read_faces(directory, has):
            missing += [f"{directory}/{it.person}/{it.face_id}" for it in page if it.face_id not in existing]
    return missing


async def _read_gallery(vectors: VectorReader, directory: str, generation: str) -> tuple[list[str], np.ndarray]:
    """The person of each face of a gallery, and the vectors, (n, D)."""
    blocks = [block async for block in vectors.read_gallery(directory, generation)]
    return [person for block in blocks for person in block.persons], np.concatenate([block.vectors for block in blocks])


async def _wait_for_sink(log: EventLog) -> None:
    """Returns when the sink has handled the topic up to now. Raises ConfigurationError after SINK_S."""
    try:
        async with asyncio.timeout(SINK_S):
            await wait_until_caught_up(log, "sink", FACES_EMBEDDED)
    except TimeoutError:
        raise ConfigurationError("the sink has not handled all records in time: is one running?") from None
