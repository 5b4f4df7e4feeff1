"""Draws random galleries from the existing directories, for `fitting`.

Some of a directory's people are enrolled with all their portraits; the others are the strangers. One portrait of each
enrolled person is matched as if it had not been learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backends.vectors import FaceBlock
from schemas.arrays import BoolArray, Float32Array
from sink.evaluate.leave_one_out import match_other_people, match_same_person
from sink.match.gallery import Gallery

LabelledVectors = tuple[
    Sequence[str], Float32Array
]  # the person of each face, (n,), and its vector, (n, D), any length

MOST_PEOPLE = 20_000  # over all directories; with 512 numbers and a portrait each 40 MB
MOST_PORTRAITS = 20  # of one person
MOST_STRANGERS = 1_000  # matched against one gallery
ENROLLED = 4_000  # people enrolled in all galleries of one size together, within these numbers of galleries:
LEAST_GALLERIES, MOST_GALLERIES = 20, 400  # of one size
MOST_ENROLLED = 2 / 3  # of a directory's people, so that strangers are left
# Two faces above this cosine are one picture, or a picture and its mirror image, which would be too easy a match.
# Measured on LFW: different portraits of one person reach .997, one portrait from a JPEG and from its pixels .9998.
COPY = 0.998


@dataclass(frozen=True, slots=True)
class GalleryScores:
    """Best similarities of probes in galleries of one size. Mated probes are of enrolled people."""

    people: int  # in each gallery
    mated: Float32Array  # (m,), of portraits of enrolled people, left out of their gallery
    mated_correct: BoolArray  # (m,), whether the best match was that person
    strangers: Float32Array  # (s,)
    independent_strangers: float  # number of independent strangers; fewer than s, because the galleries overlap
    mated_people: int  # number of people with a portrait that could be left out


class Population:
    """The people of one directory, to draw galleries from.

    units: (portraits, D) of each person, unit length, without copies.
    """

    def __init__(self, directory: LabelledVectors, most_people: int, chance: np.random.Generator) -> None:
        persons, vectors = directory
        names, person_of = np.unique(np.asarray(persons, object), return_inverse=True)
        order = np.argsort(person_of, kind="stable")
        rows = np.split(order, np.cumsum(np.bincount(person_of, minlength=len(names)))[:-1])
        chosen = chance.permutation(len(names))[:most_people]
        self.units = [_portraits(vectors[chance.permutation(rows[i])[:MOST_PORTRAITS]]) for i in chosen]
        self.same_person = [match_same_person(units).similarity for units in self.units]  # (portraits,) of each
        self.has_several = np.array([len(units) > 1 for units in self.units], bool)  # (people,)

    def __len__(self) -> int:
        return len(self.units)

    def independent_strangers(self, size: int) -> float:
        """The number of strangers in galleries of this size that have no people in common."""
        return (len(self) - size) * len(self) / size

    def score_gallery(self, size: int, chance: np.random.Generator) -> tuple[Float32Array, BoolArray, Float32Array]:
        """Matches mated probes and strangers against a random gallery of `size` people.

        Returns the mated probes' best similarities, whether the best match is correct, and the strangers' best
        similarities: (m,), (m,), (s,).
        """
        order = chance.permutation(len(self))
        members, strangers = order[:size], order[size:][:MOST_STRANGERS]
        gallery = Gallery(self.units[0].shape[1])
        persons = [str(number) for number, member in enumerate(members) for _ in self.units[member]]
        gallery.load(FaceBlock(persons, _ids(len(persons)), np.concatenate([self.units[member] for member in members])))
        mated = [number for number, member in enumerate(members) if self.has_several[member]]
        portraits = [int(chance.integers(len(self.units[members[number]]))) for number in mated]
        same = np.array([self.same_person[members[n]][i] for n, i in zip(mated, portraits, strict=True)], np.float32)
        other = np.full(len(mated), -1, np.float32)
        if mated:
            probes = np.stack([self.units[members[n]][i] for n, i in zip(mated, portraits, strict=True)])
            found = match_other_people(gallery, probes, mated)
            other = np.array([it.similarity if it else -1 for it in found], np.float32)
        probes = np.stack([self.units[i][chance.integers(len(self.units[i]))] for i in strangers])
        best = np.array([found[0].similarity for found in gallery.best_matches(probes, 1)], np.float32)
        return np.maximum(same, other), same > other, best


def populations_of(directories: Sequence[LabelledVectors], chance: np.random.Generator) -> list[Population]:
    """A population for each directory with two people or more. If there are very many people in all, a part of them is
    used.
    """
    people = [len(set(persons)) for persons, _ in directories]
    share = min(1.0, MOST_PEOPLE / max(1, sum(people)))
    found = []
    for directory, count in zip(directories, people, strict=True):
        wanted = int(np.floor(count * share + chance.random()))  # so that many small directories do not all round to 0
        if min(wanted, count) > 1:
            found.append(Population(directory, wanted, chance))
    return found


def score_galleries(populations: Sequence[Population], size: int, chance: np.random.Generator) -> GalleryScores | None:
    """Scores random galleries of one size, from every directory with enough people; more from larger ones.

    Returns None if no directory has enough people.
    """
    large = [it for it in populations if size <= len(it) * MOST_ENROLLED or size == 1]
    if not large:
        return None
    weight = np.array([len(it) for it in large], float)
    count = int(np.clip(ENROLLED / size, LEAST_GALLERIES, MOST_GALLERIES))
    scored = [large[i].score_gallery(size, chance) for i in chance.choice(len(large), count, p=weight / weight.sum())]
    mated, correct, strangers = (np.concatenate(each) for each in zip(*scored, strict=True))
    independent = min(sum(it.independent_strangers(size) for it in large), float(len(strangers)))
    return GalleryScores(size, mated, correct, strangers, independent, sum(int(it.has_several.sum()) for it in large))


def _portraits(vectors: Float32Array) -> Float32Array:
    """The vectors of one person at unit length, without copies. vectors: (n, D)."""
    alone = Gallery(vectors.shape[1])
    alone.load(FaceBlock([""] * len(vectors), _ids(len(vectors)), vectors))
    units = alone.vectors_of(0)
    copies = np.triu(units @ units.T, 1).max(0) > COPY
    distinct: Float32Array = units[~copies]
    return distinct


def _ids(count: int) -> list[str]:
    return [f"{i:032x}" for i in range(count)]
