"""Compares two generations on the same learned faces, by leave-one-out: `facestream models compare`.

Each face is matched against all others of its directory, as if it were a new probe.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from backends.vectors import FaceBlock, VectorReader
from schemas.arrays import BoolArray, Float32Array
from schemas.calibration import Threshold
from sink.evaluate.leave_one_out import match_other_people, match_same_person
from sink.match.gallery import Gallery
from sink.match.thresholds import threshold

FACES_PER_STEP = 256  # faces matched between two reports of the progress
FPIR = 0.01  # the false positive identification rate that a request has by default
Key = tuple[str, str]  # person, face_id


@dataclass(frozen=True, slots=True)
class LearnedFaces:
    """The learned faces of a directory in one generation, sorted by key. vectors: (n, D)."""

    keys: Sequence[Key]
    vectors: Float32Array


@dataclass(frozen=True, slots=True)
class BestMatch:
    """The best match of a face among all others: the person, and the face of that person.

    named: whether the similarity reaches the threshold, None if the generation has no threshold yet.
    """

    person: str
    face_id: str
    similarity: float
    named: bool | None


@dataclass(frozen=True, slots=True)
class DirectoryMatches:
    """The best matches of all faces of one directory in one generation, in the order of its keys, (n,)."""

    threshold: float | None  # None if the generation has none yet
    best: Sequence[BestMatch | None]  # None if there is no other face
    has_several: BoolArray  # whether the person has another face
    correct: BoolArray  # whether the best match is the face's own person
    named: BoolArray  # whether the best match reaches the threshold
    strangers: Float32Array  # best similarity to another person, -1 if there is none


@dataclass(frozen=True, slots=True)
class Difference:
    """A face whose best match is its own person in one generation only."""

    directory: str
    person: str
    face_id: str
    old: BestMatch
    new: BestMatch
    right: str  # "old" or "new"


async def read_faces(vectors: VectorReader, directory: str, generation: str) -> LearnedFaces:
    """Raises Unavailable."""
    keys: list[Key] = []
    blocks: list[Float32Array] = []
    blocks_read: AsyncIterator[FaceBlock] = vectors.read_gallery(directory, generation)
    async for block in blocks_read:
        keys += zip(block.persons, block.face_ids, strict=True)
        blocks.append(block.vectors)
    if not keys:
        return LearnedFaces([], np.empty((0, 1), np.float32))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return LearnedFaces([keys[i] for i in order], np.concatenate(blocks)[order])


def common_faces(old: LearnedFaces, new: LearnedFaces) -> tuple[LearnedFaces, LearnedFaces]:
    """Both, reduced to the faces that they have in common."""
    shared = set(old.keys) & set(new.keys)
    return _select(old, shared), _select(new, shared)


def match_directory(
    faces: LearnedFaces, table: Threshold | None, advance: Callable[[int], None] = lambda count: None
) -> DirectoryMatches:
    """Matches each face against all others.

    faces: at least one. table: the generation's thresholds. advance: is called with the number of faces of each step.
    """
    persons = [person for person, _ in faces.keys]
    gallery = Gallery(faces.vectors.shape[1])
    gallery.load(FaceBlock(persons, [face_id for _, face_id in faces.keys], faces.vectors))
    starts = [i for i, person in enumerate(persons) if i == 0 or person != persons[i - 1]]
    counts = np.diff([*starts, len(persons)])
    # people of the gallery are numbered in the order of the keys, and the faces of each person are adjacent
    number = np.repeat(np.arange(len(starts)), counts)  # (n,)
    limit = None if table is None else threshold(table, gallery.people, FPIR, gallery.stranger_similarities())

    same, nearest = np.empty(len(persons), np.float32), np.empty(len(persons), np.intp)
    units = np.empty_like(faces.vectors)
    for person, (start, count) in enumerate(zip(starts, counts, strict=True)):
        of_person = gallery.vectors_of(person)
        found = match_same_person(of_person)
        part = slice(start, start + count)
        units[part], same[part], nearest[part] = of_person, found.similarity, start + found.nearest

    strangers = np.full(len(persons), -1, np.float32)
    best: list[BestMatch | None] = []
    for begin in range(0, len(persons), FACES_PER_STEP):
        part = slice(begin, min(begin + FACES_PER_STEP, len(persons)))
        for i, other in enumerate(match_other_people(gallery, units[part], number[part].tolist()), begin):
            strangers[i] = other.similarity if other else -1
            has_another = counts[number[i]] > 1
            if has_another and (other is None or same[i] > other.similarity):
                row, similarity = int(nearest[i]), float(same[i])
            elif other is not None:
                row, similarity = other.row, other.similarity
            else:
                best.append(None)
                continue
            best.append(BestMatch(*faces.keys[row], similarity, None if limit is None else similarity >= limit))
        advance(part.stop - begin)
    return DirectoryMatches(
        threshold=limit,
        best=best,
        has_several=counts[number] > 1,
        correct=np.array(
            [it is not None and it.person == person for it, person in zip(best, persons, strict=True)], bool
        ),
        named=np.array([it is not None and it.named is True for it in best], bool),
        strangers=strangers,
    )


def find_differences(
    directory: str, keys: Sequence[Key], old: DirectoryMatches, new: DirectoryMatches
) -> list[Difference]:
    """The faces that only one of the generations matches correctly, in the order of the keys."""
    found = []
    for i in np.flatnonzero(old.has_several & (old.correct != new.correct)).tolist():
        (person, face_id), best_old, best_new = keys[i], old.best[i], new.best[i]
        assert best_old is not None
        assert best_new is not None
        right = "old" if old.correct[i] else "new"
        found.append(Difference(directory, person, face_id, best_old, best_new, right))
    return found


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The accuracy of a generation over all directories.

    Shares are None if there is nothing to count. Those that need a threshold are None if there is none.
    """

    portraits: int  # faces of people with two faces or more
    right: float | None  # share of the portraits whose best match is their own person (rank one)
    named: float | None  # share of the portraits that get their own name (TPIR)
    strangers: int  # faces of people whose directory has somebody else
    strangers_named: float | None  # share of them that get a name when their own person is not enrolled (FPIR)
    strangers_below: tuple[float, float] | None  # how far the median stranger, and one in 100, is below the threshold


def accuracy_of(directories: Sequence[DirectoryMatches]) -> Accuracy:
    several = np.concatenate([it.has_several for it in directories])
    right = np.concatenate([it.correct for it in directories])
    named = np.concatenate([it.named for it in directories])
    strangers = [it.strangers[it.strangers > -1] for it in directories]
    limits = [it.threshold for it in directories if it.threshold is not None]
    have_limits = len(limits) == len(directories)
    below = np.concatenate(
        [limit - of_one for limit, of_one in zip(limits, strangers, strict=False)] or [np.empty(0, np.float32)]
    )
    return Accuracy(
        portraits=int(several.sum()),
        right=_share(right[several]),
        named=_share((right & named)[several]) if have_limits else None,
        strangers=sum(map(len, strangers)),
        strangers_named=_share(below <= 0) if have_limits else None,
        strangers_below=(float(np.median(below)), float(np.quantile(below, 0.01)))
        if have_limits and len(below)
        else None,
    )


def _share(flags: BoolArray) -> float | None:
    return float(flags.mean()) if len(flags) else None


def _select(faces: LearnedFaces, wanted: set[Key]) -> LearnedFaces:
    if len(wanted) == len(faces.keys):
        return faces
    kept = [i for i, key in enumerate(faces.keys) if key in wanted]
    return LearnedFaces([faces.keys[i] for i in kept], faces.vectors[kept])
