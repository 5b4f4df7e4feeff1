"""Checks records of `faces.embedded`, which another producer may have got wrong. The later code relies on these
checks.
"""

from backends.log import Record
from schemas.erasures import erasure_of
from schemas.errors import NotFound, UnreadableRecord
from schemas.faces import is_vector
from schemas.generation_records import Generation
from schemas.records import EraseRequested, FacesEmbedded, FacesReembedded
from stream.generations import Generations
from stream.topics import FACES_EMBEDDED, ORIGIN_TOPICS, PARTITIONS


async def check_event(
    record: Record, event: FacesEmbedded | EraseRequested | FacesReembedded, generations: Generations
) -> None:
    """Raises UnreadableRecord, and Unavailable if a generation is new and the log cannot be read."""
    if record.topic != FACES_EMBEDDED:
        raise UnreadableRecord("only faces.embedded carries what was embedded")
    if isinstance(event, FacesReembedded):
        generation = await _find_generation(event.generation, generations)
        for face in event.faces:
            _check_vector(face.vector, generation)
    elif isinstance(event, FacesEmbedded):
        await _check_faces(event, generations)
    else:
        erasure_of(event)
        partitions = {topic: len(offsets) for topic, offsets in event.cut.next_offsets.items()} if event.cut else {}
        if event.cut is not None and partitions != dict.fromkeys(ORIGIN_TOPICS, PARTITIONS):
            raise UnreadableRecord("a cut has an offset for every partition in which images come in")


async def _check_faces(event: FacesEmbedded, generations: Generations) -> None:
    received = event.received
    if received.purpose == "detect" or received.directory is None:
        raise UnreadableRecord("faces.embedded carries learn and recognize, with a directory")
    active = await _find_generation(event.models.generation or "", generations)
    for face in event.faces:
        if face.vectors and active.name not in face.vectors:
            raise UnreadableRecord(f"a face has no vector of the generation '{active.name}'")
        for name, vector in face.vectors.items():
            _check_vector(vector, await _find_generation(name, generations))
    if received.purpose == "learn":
        complete = len(event.faces) == 1 and event.faces[0].vectors and event.faces[0].crop and event.faces[0].source
        if received.person is None or not complete:
            raise UnreadableRecord("a learn carries a person and one face with vectors, crop and source")


async def _find_generation(name: str, generations: Generations) -> Generation:
    try:
        return await generations.get_or_refresh(name)
    except NotFound as error:
        raise UnreadableRecord(error.message) from None


def _check_vector(encoded: str, generation: Generation) -> None:
    if not is_vector(encoded, generation.dimension):
        raise UnreadableRecord(f"a vector of '{generation.name}' is not {generation.dimension} numbers with a length")
