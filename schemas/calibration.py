"""The meaning of a similarity, as data: the threshold for a false positive identification rate (FPIR), and the
probability that a best match is right.

Both depend on how many people are enrolled. The manifest has both for the shipped models; a replay measures them for
other models.
"""

import math
from itertools import pairwise
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Threshold(Entry):
    """The best similarity that one stranger in 10, in 100 and in 1,000 reaches, by number of enrolled people."""

    people: list[int]
    one_in_10: list[float]
    one_in_100: list[float]
    one_in_1000: list[float]

    @model_validator(mode="after")
    def check(self) -> Self:
        check_points(self.people, self.one_in_10, self.one_in_100, self.one_in_1000)
        return self

    def similarity_for(self, people: int, strangers: float) -> float:
        """The threshold at which a share `strangers` (0..1) of all strangers gets a name in a gallery of `people`.

        It is linear in the logarithm of both, between the measured points and beyond them, and never above 1.
        """
        size = math.log10(max(1, people))
        sizes = [math.log10(each) for each in self.people]
        rows = [self.one_in_1000, self.one_in_100, self.one_in_10]
        measured = [interpolate(size, sizes, row, extend=True) for row in rows]
        return min(1.0, interpolate(math.log10(max(strangers, 1e-9)), [-3.0, -2.0, -1.0], measured, extend=True))


class Calibration(Entry):
    """A logistic curve of the best similarity, for each number of enrolled people."""

    people: list[int]
    midpoint: list[float]
    slope: list[float]

    @model_validator(mode="after")
    def check(self) -> Self:
        check_points(self.people, self.midpoint, self.slope)
        return self

    def probability(self, similarity: float, people: int) -> float:
        """The probability (0..1) that a best match of this similarity in a gallery of `people` is that person."""
        size = math.log10(max(1, people))
        sizes = [math.log10(each) for each in self.people]
        z = interpolate(size, sizes, self.slope) * (similarity - interpolate(size, sizes, self.midpoint, extend=True))
        return 1 / (1 + math.exp(-max(-50.0, min(50.0, z))))


def check_points(positions: list[int] | list[float], *columns: list[float]) -> None:
    if (
        len(positions) < 2
        or any(low >= high for low, high in pairwise(positions))
        or any(len(column) != len(positions) for column in columns)
    ):
        raise ValueError("at least two points are needed, in ascending order, with one value each")


def interpolate(x: float, xs: list[float], ys: list[float], *, extend: bool = False) -> float:
    """Linear interpolation. Beyond the points it is constant or, with `extend`, continues the nearest segment."""
    segment = next((index for index in range(1, len(xs) - 1) if x <= xs[index]), len(xs) - 1)
    low, high = segment - 1, segment
    share = (x - xs[low]) / (xs[high] - xs[low])
    if not extend:
        share = max(0.0, min(1.0, share))
    return ys[low] + share * (ys[high] - ys[low])
