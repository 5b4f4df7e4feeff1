"""Random galleries of LFW: the best similarities of mated probes, of strangers, and of enrolled people to others."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.accuracy.lfw import LfwFaces
from schemas.arrays import BoolArray, Float32Array


@dataclass(frozen=True)
class BestSimilarities:
    """The best similarity of each probe in one gallery."""

    people: int
    mated: Float32Array  # (m,), probes of enrolled people
    mated_correct: BoolArray  # (m,), whether the best match is that person
    strangers: Float32Array  # (s,)
    others: Float32Array  # (people,), of enrolled people to any other person, as Gallery.stranger_similarities


class Pool:
    """People to draw galleries from. Each has an image to learn and, if possible, another one to recognize."""

    def __init__(self, faces: LfwFaces, people: Sequence[str], chance: np.random.Generator) -> None:
        """people: some of all people, so that a fit on one part can be checked on another."""
        rows = faces.rows_by_person()
        chosen = [chance.permutation(rows[person])[:2] for person in people]
        learned = faces.learned[[int(images[0]) for images in chosen]]  # (n, D)
        probes = faces.probe[[int(images[-1]) for images in chosen]]  # (n, D)
        self.has_several = np.array([len(images) > 1 for images in chosen])  # (n,)
        self.to_learned = probes @ learned.T  # (n probes, n learned)
        self.among_learned = learned @ learned.T  # (n, n)
        np.fill_diagonal(self.among_learned, -1)
        self.chance = chance

    def __len__(self) -> int:
        return len(self.has_several)

    def gallery(self, size: int) -> BestSimilarities:
        """A gallery of `size` random people; all others are strangers."""
        return self.gallery_of(self.chance.permutation(len(self))[:size])

    def gallery_of(self, members: NDArray[np.intp], strangers: NDArray[np.intp] | None = None) -> BestSimilarities:
        """A gallery of these members. members, strangers: indices of people; by default everybody else is a
        stranger.
        """
        if strangers is None:
            strangers = np.setdiff1d(np.arange(len(self)), members)
        mated = members[self.has_several[members]]
        mated_similarities = self.to_learned[np.ix_(mated, members)]  # (m, size)
        others = self.among_learned[np.ix_(members, members)].max(1) if len(members) > 1 else np.empty(0, np.float32)
        return BestSimilarities(
            people=len(members),
            mated=mated_similarities.max(1) if len(mated) else np.empty(0, np.float32),
            mated_correct=members[mated_similarities.argmax(1)] == mated if len(mated) else np.empty(0, bool),
            strangers=self.to_learned[np.ix_(strangers, members)].max(1),
            others=others,
        )


def split_people(faces: LfwFaces, seed: int) -> tuple[list[str], list[str]]:
    """Splits the people at random into two halves."""
    people = sorted(faces.rows_by_person())
    order = np.random.default_rng(seed).permutation(len(people))
    middle = len(people) // 2
    return [people[i] for i in order[:middle]], [people[i] for i in order[middle:]]
