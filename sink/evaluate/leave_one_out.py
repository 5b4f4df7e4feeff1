"""Leave one out: how a learned face fares in its own gallery if it had not been learned. For `fitting` and `comparing`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.arrays import Float32Array
from sink.match.gallery import Gallery
from sink.match.people import Match

AT_ONCE = 1_024  # faces of one person: more are looked at in parts


@dataclass(frozen=True, slots=True)
class Own:
    """How similar each face of a person is to the others of that person, as sink/people.py says. A single face has
    none.
    """

    similarity: Float32Array  # (faces,), -1 where there is no other
    nearest: NDArray[np.intp]  # (faces,), which of them is most similar, -1 where there is no other


def own(units: Float32Array) -> Own:
    """units: (faces, D) of one person, unit length."""
    count = len(units)
    if count < 2:
        return Own(np.full(count, -1, np.float32), np.full(count, -1, np.intp))
    similarity, nearest = np.empty(count, np.float32), np.empty(count, np.intp)
    for begin in range(0, count, AT_ONCE):
        part = slice(begin, min(begin + AT_ONCE, count))
        each = units[part] @ units.T  # (part, faces)
        rows = np.arange(len(each))
        each[rows, rows + begin] = 0
        mean = each.sum(1) / (count - 1)
        each[rows, rows + begin] = -np.inf
        nearest[part] = each.argmax(1)
        similarity[part] = (each.max(1) + mean) / 2
    return Own(similarity, nearest)


def best_others(gallery: Gallery, units: Float32Array, people: Sequence[int]) -> list[Match | None]:
    """For each face the best match that is somebody else, None where there is nobody. units: (b, D), unit length.
    people: (b,), whose face each is, numbers of the gallery.
    """
    found = gallery.best(units, 2)
    return [
        next((it for it in those if it.person != person), None) for those, person in zip(found, people, strict=True)
    ]
