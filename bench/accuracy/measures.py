"""The statistics of the accuracy scripts."""

from dataclasses import dataclass

import numpy as np

from schemas.arrays import BoolArray, FloatArray


def calibration_error(
    probability: FloatArray, right: BoolArray, bins: int = 10, weight: FloatArray | None = None
) -> float:
    """Expected calibration error (Naeini et al. 2015): the distance of stated probability and share that is right.

    Over bins of equal width, weighted by what is in each. probability: (n,), 0..1. right: (n,). weight: (n,), by
    default 1 each.
    """
    weight = np.ones(len(right)) if weight is None else np.asarray(weight, float)
    of_bin = np.minimum((np.asarray(probability) * bins).astype(int), bins - 1)
    surplus = np.bincount(of_bin, weights=weight * (probability - right), minlength=bins)
    return float(np.abs(surplus).sum() / weight.sum())


def quantile_reached(scores: FloatArray, share: float) -> float:
    """The lowest score that at most a `share` of all scores reaches; above the highest score if the share is too
    small.
    """
    ordered = np.sort(scores)[::-1]
    allowed = int(share * len(ordered) + 1e-9)
    return float(ordered[allowed - 1]) if allowed else float(np.nextafter(ordered[0], np.inf))


def one_to_one(overlap: FloatArray, least: float) -> list[tuple[int, int]]:
    """Pairs of row and column that overlap by at least `least`, the best first, each row and column at most once.

    overlap: (rows, columns).
    """
    pairs: list[tuple[int, int]] = []
    rows, columns = set[int](), set[int]()
    for index in np.argsort(-overlap, axis=None, kind="stable"):
        row, column = (int(at) for at in np.unravel_index(index, overlap.shape))
        if overlap[row, column] < least:
            break
        if row not in rows and column not in columns:
            pairs.append((row, column))
            rows.add(row)
            columns.add(column)
    return pairs


def isotonic(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The non-decreasing step function nearest to the points (pool adjacent violators): x ascending, the value at each.

    x, y: (n,). Returns (n,), (n,).
    """
    order = np.argsort(x, kind="stable")
    values: list[float] = []
    weights: list[int] = []
    for value in np.asarray(y, float)[order]:
        values.append(float(value))
        weights.append(1)
        while len(values) > 1 and values[-2] >= values[-1]:
            weight = weights[-2] + weights[-1]
            values[-2:] = [(values[-2] * weights[-2] + values[-1] * weights[-1]) / weight]
            weights[-2:] = [weight]
    return np.asarray(x)[order], np.repeat(values, weights)


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation, lowest and highest over several draws."""

    mean: float
    deviation: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.deviation:.4f}  ({self.low:.4f} – {self.high:.4f})"


def spread(values: list[float]) -> Spread:
    return Spread(float(np.mean(values)), float(np.std(values)), min(values), max(values))
