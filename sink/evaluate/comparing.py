"""What two generations make of the same learned faces, leave one out: `facestream models compare`.

Each face is matched against all others of its directory, as if it had just come as a probe.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.vectors import FaceBlock, VectorReader
from schemas.arrays import Float32Array
from schemas.calibration import Threshold
from sink.evaluate.leave_one_out import best_others, own
from sink.evaluate.samples import Flags
from sink.match.gallery import Gallery
from sink.match.thresholds import threshold

AT_ONCE = 256  # faces that are matched between two steps of the progress
STRANGERS = 0.01  # the share of strangers that may get a name, as in a request that does not say
Key = tuple[str, str]  # person, face_id


@dataclass(frozen=True, slots=True)
class Faces:
    """The learned faces of a directory in one generation: of each its key, and its vector, (n, D)."""

    keys: Sequence[Key]
    vectors: Float32Array


@dataclass(frozen=True, slots=True)
class First:
    """Who comes first when a face is looked for among all others, and by which of their faces; `named` says whether
    that is above the threshold, None where the generation has none yet.
    """

    person: str
    face_id: str
    similarity: float
    named: bool | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the faces of one directory fare in one generation. All arrays are in the order of its keys, (n,)."""

    threshold: float | None  # None where the generation has none yet
    first: Sequence[First | None]  # None where nobody else has a face
    several: Flags  # whether the person has another face
    right: Flags  # whether the own person is first
    named: Flags  # whether the first is above the threshold
    strangers: Float32Array  # best similarity to anybody else, -1 where there is nobody


@dataclass(frozen=True, slots=True)
class Difference:
    """A face whose own person is first in one generation only."""

    directory: str
    person: str
    face_id: str
    old: First
    new: First
    right: str  # "old" or "new"


async def read(vectors: VectorReader, directory: str, generation: str) -> Faces:
    """Sorted by key. Raises Unavailable."""
    keys: list[Key] = []
    blocks: list[Float32Array] = []
    blocks_read: AsyncIterator[FaceBlock] = vectors.read_gallery(directory, generation)
    async for block in blocks_read:
        keys += zip(block.persons, block.face_ids, strict=True)
        blocks.append(block.vectors)
    if not keys:
        return Faces([], np.empty((0, 1), np.float32))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return Faces([keys[i] for i in order], np.concatenate(blocks)[order])


def common(old: Faces, new: Faces) -> tuple[Faces, Faces]:
    """The faces that both have."""
    shared = set(old.keys) & set(new.keys)
    return _only(old, shared), _only(new, shared)


def outcome(faces: Faces, table: Threshold | None, done: Callable[[int], None] = lambda count: None) -> Outcome:
    """faces: sorted by key, at least one. table: the generation's. done: is told how many more faces were matched."""
    persons = [person for person, _ in faces.keys]
    gallery = Gallery(faces.vectors.shape[1])
    gallery.load(FaceBlock(persons, [face_id for _, face_id in faces.keys], faces.vectors))
    starts = [i for i, person in enumerate(persons) if i == 0 or person != persons[i - 1]]
    counts = np.diff([*starts, len(persons)])
    # people of the gallery are numbered in the order of the keys, and the faces of each lie one after the other
    number = np.repeat(np.arange(len(starts)), counts)  # (n,)
    limit = None if table is None else threshold(table, gallery.people, STRANGERS, gallery.best_of_others())

    mine, nearest = np.empty(len(persons), np.float32), np.empty(len(persons), np.intp)
    units = np.empty_like(faces.vectors)
    for person, (start, count) in enumerate(zip(starts, counts, strict=True)):
        of_person = gallery.vectors_of(person)
        found = own(of_person)
        part = slice(start, start + count)
        units[part], mine[part], nearest[part] = of_person, found.similarity, start + found.nearest

    strangers = np.full(len(persons), -1, np.float32)
    first: list[First | None] = []
    for begin in range(0, len(persons), AT_ONCE):
        part = slice(begin, min(begin + AT_ONCE, len(persons)))
        for i, other in enumerate(best_others(gallery, units[part], number[part].tolist()), begin):
            strangers[i] = other.similarity if other else -1
            has_own = counts[number[i]] > 1
            if has_own and (other is None or mine[i] > other.similarity):
                row, similarity = int(nearest[i]), float(mine[i])
            elif other is not None:
                row, similarity = other.row, other.similarity
            else:
                first.append(None)
                continue
            first.append(First(*faces.keys[row], similarity, None if limit is None else similarity >= limit))
        done(part.stop - begin)
    return Outcome(
        threshold=limit,
        first=first,
        several=counts[number] > 1,
        right=np.array(
            [it is not None and it.person == person for it, person in zip(first, persons, strict=True)], bool
        ),
        named=np.array([it is not None and it.named is True for it in first], bool),
        strangers=strangers,
    )


def differences(directory: str, keys: Sequence[Key], old: Outcome, new: Outcome) -> list[Difference]:
    """Faces of people with two or more where one generation is right and the other is not, in the order of the keys."""
    found = []
    for i in np.flatnonzero(old.several & (old.right != new.right)).tolist():
        (person, face_id), first_old, first_new = keys[i], old.first[i], new.first[i]
        assert first_old is not None
        assert first_new is not None
        right = "old" if old.right[i] else "new"
        found.append(Difference(directory, person, face_id, first_old, first_new, right))
    return found


@dataclass(frozen=True, slots=True)
class Figures:
    """Of all directories together. Shares are None where there is nothing to count; those of who is named, and how far
    strangers lie below the threshold, where there is no threshold.
    """

    portraits: int  # faces of people with two or more
    right: float | None  # share of them whose own person is first
    named: float | None  # share of them who get their own name
    strangers: int  # faces of people who have others beside them
    strangers_named: float | None  # share of them who would get a name if their own person were not there
    strangers_below: tuple[float, float] | None  # how far the median stranger, and one in 100, lies below the threshold


def figures(outcomes: Sequence[Outcome]) -> Figures:
    several = _joined([it.several for it in outcomes])
    right = _joined([it.right for it in outcomes])
    named = _joined([it.named for it in outcomes])
    strangers = [it.strangers[it.strangers > -1] for it in outcomes]
    limits = [it.threshold for it in outcomes if it.threshold is not None]
    have_limits = len(limits) == len(outcomes)
    below = np.concatenate(
        [limit - of_one for limit, of_one in zip(limits, strangers, strict=False)] or [np.empty(0, np.float32)]
    )
    return Figures(
        portraits=int(several.sum()),
        right=_share(right[several]),
        named=_share((right & named)[several]) if have_limits else None,
        strangers=sum(map(len, strangers)),
        strangers_named=_share(below <= 0) if have_limits else None,
        strangers_below=(float(np.median(below)), float(np.quantile(below, 0.01)))
        if have_limits and len(below)
        else None,
    )


def _joined(parts: Sequence[Flags]) -> Flags:
    return np.concatenate(parts)


def _share(flags: NDArray[np.bool_]) -> float | None:
    return float(flags.mean()) if len(flags) else None


def _only(faces: Faces, wanted: set[Key]) -> Faces:
    if len(wanted) == len(faces.keys):
        return faces
    kept = [i for i, key in enumerate(faces.keys) if key in wanted]
    return Faces([faces.keys[i] for i in kept], faces.vectors[kept])
