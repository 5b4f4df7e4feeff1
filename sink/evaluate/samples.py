"""Random galleries out of those that are there, for `fitting`: some of a directory's people are enrolled, with all
their portraits, the others play the stranger, and of the enrolled one portrait each is looked for as if it had not been
learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backends.vectors import FaceBlock
from schemas.arrays import Float32Array
from sink.evaluate.leave_one_out import best_others, own
from sink.match.gallery import Gallery

Flags = NDArray[np.bool_]
Directory = tuple[Sequence[str], Float32Array]  # the person of each face, (n,), and its vector, (n, D), of any length

MOST_PEOPLE = 20_000  # over all directories; with 512 numbers and a portrait each 40 MB
MOST_PORTRAITS = 20  # of one person
MOST_STRANGERS = 1_000  # in one draw
ENROLLED = 4_000  # people, over all draws of a size, within these bounds:
LEAST_DRAWS, MOST_DRAWS = 20, 400
MOST_ENROLLED = 2 / 3  # of a directory's people, so that strangers are left
# More similar are two copies of one picture, or it and its mirror image, which would be found too easily: LFW's
# portraits of one person reach .997, the same portrait from a JPEG and from its pixels .9998.
COPY = 0.998


@dataclass(frozen=True, slots=True)
class Scores:
    """Best similarities in galleries of one size. mates: (m,), of left-out portraits of enrolled people; right: (m,),
    whether the best match was that person; strangers: (s,).
    """

    people: int
    mates: Float32Array
    right: Flags
    strangers: Float32Array
    independent: float  # as many strangers say as much as these, who met some galleries that overlap
    mates_people: int  # people whose portraits were left out, or could have been


class Population:
    """The people of one directory. `units`: (portraits, D) of each, unit length, without copies."""

    def __init__(self, directory: Directory, most_people: int, chance: np.random.Generator) -> None:
        persons, vectors = directory
        names, person_of = np.unique(np.asarray(persons, object), return_inverse=True)
        order = np.argsort(person_of, kind="stable")
        rows = np.split(order, np.cumsum(np.bincount(person_of, minlength=len(names)))[:-1])
        chosen = chance.permutation(len(names))[:most_people]
        self.units = [_portraits(vectors[chance.permutation(rows[i])[:MOST_PORTRAITS]]) for i in chosen]
        self.own = [own(units).similarity for units in self.units]
        self.several = np.array([len(units) > 1 for units in self.units], bool)  # (people,)

    def __len__(self) -> int:
        return len(self.units)

    def independent(self, size: int) -> float:
        """Strangers in as many galleries of this size as have no people in common."""
        return (len(self) - size) * len(self) / size

    def draw(self, size: int, chance: np.random.Generator) -> tuple[Float32Array, Flags, Float32Array]:
        """The mates' best similarities and whether they are right, and the strangers'. (m,), (m,), (s,)."""
        order = chance.permutation(len(self))
        members, strangers = order[:size], order[size:][:MOST_STRANGERS]
        gallery = Gallery(self.units[0].shape[1])
        persons = [str(number) for number, member in enumerate(members) for _ in self.units[member]]
        gallery.load(FaceBlock(persons, _ids(len(persons)), np.concatenate([self.units[member] for member in members])))
        looked_for = [number for number, member in enumerate(members) if self.several[member]]
        picked = [int(chance.integers(len(self.units[members[number]]))) for number in looked_for]
        of_own = np.array([self.own[members[n]][i] for n, i in zip(looked_for, picked, strict=True)], np.float32)
        of_others = np.full(len(looked_for), -1, np.float32)
        if looked_for:
            probes = np.stack([self.units[members[n]][i] for n, i in zip(looked_for, picked, strict=True)])
            found = best_others(gallery, probes, looked_for)
            of_others = np.array([it.similarity if it else -1 for it in found], np.float32)
        probes = np.stack([self.units[i][chance.integers(len(self.units[i]))] for i in strangers])
        best = np.array([found[0].similarity for found in gallery.best(probes, 1)], np.float32)
        return np.maximum(of_own, of_others), of_own > of_others, best


def populations(directories: Sequence[Directory], chance: np.random.Generator) -> list[Population]:
    """Of the directories with two people or more; of very many people a part of each."""
    people = [len(set(persons)) for persons, _ in directories]
    share = min(1.0, MOST_PEOPLE / max(1, sum(people)))
    found = []
    for directory, count in zip(directories, people, strict=True):
        wanted = int(np.floor(count * share + chance.random()))  # so that many small ones are not rounded away
        if min(wanted, count) > 1:
            found.append(Population(directory, wanted, chance))
    return found


def scores(among: Sequence[Population], size: int, chance: np.random.Generator) -> Scores | None:
    """Draws galleries of one size from every directory that has the people for it, more from a larger one; None if none
    has.
    """
    large = [it for it in among if size <= len(it) * MOST_ENROLLED or size == 1]
    if not large:
        return None
    weight = np.array([len(it) for it in large], float)
    draws = int(np.clip(ENROLLED / size, LEAST_DRAWS, MOST_DRAWS))
    drawn = [large[i].draw(size, chance) for i in chance.choice(len(large), draws, p=weight / weight.sum())]
    mates, right, strangers = (np.concatenate(each) for each in zip(*drawn, strict=True))
    independent = min(sum(it.independent(size) for it in large), float(len(strangers)))
    return Scores(size, mates, right, strangers, independent, sum(int(it.several.sum()) for it in large))


def _portraits(vectors: Float32Array) -> Float32Array:
    """Of unit length, without copies. vectors: (n, D)."""
    alone = Gallery(vectors.shape[1])
    alone.load(FaceBlock([""] * len(vectors), _ids(len(vectors)), vectors))
    units = alone.vectors_of(0)
    copies = np.triu(units @ units.T, 1).max(0) > COPY
    distinct: Float32Array = units[~copies]
    return distinct


def _ids(count: int) -> list[str]:
    return [f"{i:032x}" for i in range(count)]
