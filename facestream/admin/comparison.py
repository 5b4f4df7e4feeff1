"""Compares two generations on the faces that both have, and counts those that only one has."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from backends.vectors import VectorReader
from facestream.progress import progress_bar
from schemas.errors import NotFound
from schemas.generation_records import Generation
from sink.evaluate.comparing import (
    Accuracy,
    Difference,
    DirectoryMatches,
    Key,
    accuracy_of,
    common_faces,
    find_differences,
    match_directory,
    read_faces,
)


@dataclass(frozen=True, slots=True)
class UncomparedFaces:
    """The numbers of faces that only one of the two generations has."""

    only_old: int
    only_new: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison of two generations. directories and faces: those that both generations have."""

    old: str
    new: str
    directories: Sequence[str]
    faces: int
    left_out: UncomparedFaces
    old_figures: Accuracy
    new_figures: Accuracy
    differences: Sequence[Difference]


async def compare_generations(
    vectors: VectorReader, old: Generation, new: Generation, directory: str | None
) -> Comparison:
    """Compares two generations. directory: only this one; None for all. Raises NotFound if there is nothing to compare,
    Unavailable.
    """
    for generation in (old, new):
        if generation.state == "retired":
            raise NotFound(f"generation '{generation.name}' is retired: its vectors are deleted")
    directories = {it.name: await vectors.directories(it.name) for it in (old, new)}
    for name, of_generation in directories.items():
        if not of_generation:
            raise NotFound(f"generation '{name}' has no faces: make them with `facestream reembed {name}`")
        if directory is not None and directory not in of_generation:
            raise NotFound(f"directory '{directory}' has no faces in generation '{name}'")
    searched = sorted({*directories[old.name], *directories[new.name]}) if directory is None else [directory]
    in_both, not_compared = await _count_faces(vectors, searched, old.name, new.name)
    if not in_both:
        raise NotFound(
            f"'{old.name}' and '{new.name}' have no face in common, {not_compared.only_old:,} and"
            f" {not_compared.only_new:,} of their own: complete the replay with `facestream reembed {new.name}`"
        )
    matches_old: list[DirectoryMatches] = []
    matches_new: list[DirectoryMatches] = []
    found: list[Difference] = []
    compared, faces = [], 0
    with progress_bar("comparing", 2 * sum(in_both.values())) as advance:
        for name in in_both:
            of_old, of_new = common_faces(
                await read_faces(vectors, name, old.name), await read_faces(vectors, name, new.name)
            )
            if not of_old.keys:  # they were erased after they were counted
                continue
            matches_old.append(await asyncio.to_thread(match_directory, of_old, old.threshold, advance))
            matches_new.append(await asyncio.to_thread(match_directory, of_new, new.threshold, advance))
            found += find_differences(name, of_old.keys, matches_old[-1], matches_new[-1])
            compared.append(name)
            faces += len(of_old.keys)
    if not faces:
        raise NotFound("all faces were erased in the meantime")
    return Comparison(
        old.name, new.name, compared, faces, not_compared, accuracy_of(matches_old), accuracy_of(matches_new), found
    )


def select_differences(found: Sequence[Difference], most: int) -> list[Difference]:
    """At most `most` differences: half of them those in which OLD is right, if there are that many."""
    old = [it for it in found if it.right == "old"]
    new = [it for it in found if it.right == "new"]
    of_old = min(len(old), max(most // 2, most - len(new)))
    return old[:of_old] + new[: most - of_old]


async def _count_faces(
    vectors: VectorReader, directories: Sequence[str], old: str, new: str
) -> tuple[dict[str, int], UncomparedFaces]:
    """The number of faces that both generations have, by directory, and the number of those that only one has."""
    in_both: dict[str, int] = {}
    only_old = only_new = 0
    for directory in directories:
        of_old = {key async for key in _keys(vectors, directory, old)}
        of_new = {key async for key in _keys(vectors, directory, new)}
        if of_old & of_new:
            in_both[directory] = len(of_old & of_new)
        only_old += len(of_old - of_new)
        only_new += len(of_new - of_old)
    return in_both, UncomparedFaces(only_old, only_new)


async def _keys(vectors: VectorReader, directory: str, generation: str) -> AsyncIterator[Key]:
    async for page in vectors.read_faces(directory, generation):
        for face in page:
            yield face.person, face.face_id
