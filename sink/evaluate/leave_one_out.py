"""Leave one out: matches a learned face against its own gallery as if it had not been learned.

`fitting` and `comparing` use it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.arrays import Float32Array
from sink.match.gallery import Gallery
from sink.match.people import Match

FACES_PER_PRODUCT = 1_024  # of one person, matched against all their faces at once; more are matched in parts


@dataclass(frozen=True, slots=True)
class SamePersonMatches:
    """The similarity of each face of a person to the person's other faces, as sink/match/people.py defines it."""

    similarity: Float32Array  # (faces,), -1 if there is no other face
    nearest: NDArray[np.intp]  # (faces,), the index of the most similar other face, -1 if there is none


def match_same_person(units: Float32Array) -> SamePersonMatches:
    """units: (faces, D) of one person, unit length."""
    count = len(units)
    if count < 2:
        return SamePersonMatches(np.full(count, -1, np.float32), np.full(count, -1, np.intp))
    similarity, nearest = np.empty(count, np.float32), np.empty(count, np.intp)
    for begin in range(0, count, FACES_PER_PRODUCT):
        part = slice(begin, min(begin + FACES_PER_PRODUCT, count))
        similarities = units[part] @ units.T  # (part, faces)
        rows = np.arange(len(similarities))
        similarities[rows, rows + begin] = 0
        mean = similarities.sum(1) / (count - 1)
        similarities[rows, rows + begin] = -np.inf
        nearest[part] = similarities.argmax(1)
        similarity[part] = (similarities.max(1) + mean) / 2
    return SamePersonMatches(similarity, nearest)


def match_other_people(gallery: Gallery, units: Float32Array, people: Sequence[int]) -> list[Match | None]:
    """The best match of each face that is not its own person, None if the gallery has nobody else.

    units: (b, D), unit length. people: (b,), the person of each face, as a number of the gallery.
    """
    found = gallery.best_matches(units, 2)
    return [
        next((it for it in those if it.person != person), None) for those, person in zip(found, people, strict=True)
    ]
