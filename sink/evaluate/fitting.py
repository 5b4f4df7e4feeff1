"""Thresholds and calibration of a generation that has none, from the galleries of its replay.

Galleries of different sizes are drawn from each directory (see `draws`). Nobody of another directory plays the
stranger, who may be the same person. What a share of strangers reaches is the quantile of their best similarities where
enough of them lie above it. Elsewhere it is rather too high than too low:

- in the smallest galleries, the line through the two rarest shares that are known, in the variate of a Gumbel distribution:
  maxima follow that where the tail is exponential, and the tail of cosines is shorter.
- in larger ones, as far above the next smaller gallery as the rarest share that is known: rarer ones rise less with the people.
- in ten times the largest, what a tenth of the share reaches in that: so it is where people are independent of each other, and
  on LFW, from 10 to 1,000 people, within .002.

More people and fewer strangers never get a lower threshold.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.arrays import Float32Array
from schemas.calibration import Calibration, Threshold
from sink.evaluate.samples import Directory, Flags, Scores, populations, scores

SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000)  # people of a gallery
SHARES = (0.1, 0.01, 0.001)  # of strangers, as Threshold has them
# Strangers above a quantile that is believed. Fitted on 20, 30 and 50 people of LFW, ten times each, and checked in
# galleries of 5 others, where 1 % of strangers are wished, .4, .7 and .9 % are named, at most 1.9 % (with 5 above: .0,
# .4 and .6 %).
LEAST_ABOVE = 3
# People. From 12 of LFW came a threshold so high that 38 % of the enrolled were named in galleries of 5, from 20 one
# for 92 %.
LEAST_STRANGERS = 20
# People with two portraits or more. From 20 of LFW, probabilities in galleries of up to 20 were off by .02, at most
# .04.
LEAST_MATES = 20
MATES = 0.4  # share of the probes that are of enrolled people: between a photo among friends and a crowd

Real = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Fitted:
    """`reason` says why there is no threshold, or no calibration; '' where both are there."""

    threshold: Threshold | None
    calibration: Calibration | None
    strangers: int  # people of directories with two people or more
    mates: int  # those of them who have two portraits or more
    reason: str


def fit(galleries: Sequence[Directory], seed: int = 0) -> Fitted:
    """galleries: of each directory the person of each face, and its vector, (n, D), of any length. The same seed gives
    the same.

    Of more than 20,000 people, and 20 portraits of one, a part is taken.
    """
    chance = np.random.default_rng(seed)
    among = populations(galleries, chance)
    people, mates = sum(len(it) for it in among), sum(int(it.several.sum()) for it in among)
    found = [it for size in SIZES if (it := scores(among, size, chance)) is not None]
    found = [it for it in found if it.independent * SHARES[0] >= LEAST_ABOVE]
    if people < LEAST_STRANGERS or not found:
        reason = (
            f"a threshold needs {LEAST_STRANGERS} people who have others in their directory, more where directories are small;"
            f" there are {people}"
        )
        return Fitted(None, None, people, mates, reason)
    threshold = thresholds(found)
    calibration, reason = calibrated(found)
    return Fitted(threshold, calibration, people, mates, reason)


def thresholds(found: Sequence[Scores]) -> Threshold:
    """found: by size, ascending; one in ten is believed in each."""
    rows: list[list[float]] = []
    for one in found:
        measured = [float(np.quantile(one.strangers, 1 - it)) for it in SHARES if one.independent * it >= LEAST_ABOVE]
        rows.append(_completed(measured, rows[-1]) if rows else _extended(one, measured))
    last = rows[-1]
    rows.append(_completed(last[1:], last))  # ten times the people
    table = np.array(rows)  # (sizes, shares)
    table = np.minimum(np.maximum.accumulate(np.maximum.accumulate(table, 0), 1), 1)
    columns = (np.ceil(table * 1e4) / 1e4).T.tolist()
    return Threshold(
        people=[*(it.people for it in found), 10 * found[-1].people],
        one_in_10=columns[0],
        one_in_100=columns[1],
        one_in_1000=columns[2],
    )


def calibrated(found: Sequence[Scores]) -> tuple[Calibration | None, str]:
    """The calibration, or why there is none."""
    found = [it for it in found if it.mates_people >= LEAST_MATES and len(it.mates)]
    if len(found) < 2:
        return None, (
            f"probabilities need {LEAST_MATES} people with two portraits or more, in directories of three people or more"
        )
    curves = [curve(it.mates, it.right, it.strangers) for it in found]
    if any(slope <= 0 for _, slope in curves):
        return None, "portraits of one person are no more similar than those of strangers: there are no probabilities"
    midpoints = np.maximum.accumulate([midpoint for midpoint, _ in curves])
    return Calibration(
        people=[it.people for it in found],
        midpoint=[round(float(it), 4) for it in midpoints],
        slope=[round(slope, 1) for _, slope in curves],
    ), ""


def curve(mates: Float32Array, right: Flags, strangers: Float32Array, share: float = MATES) -> tuple[float, float]:
    """Midpoint and slope of the probability, where a `share` of the probes is of enrolled people. Best similarities,
    (m,), (m,) and (s,).
    """
    similarity = np.concatenate([mates, strangers])
    truth = np.concatenate([right, np.zeros(len(strangers), bool)])
    return logistic(similarity, truth, weights(len(mates), len(strangers), share))


def weights(mates: int, strangers: int, share: float = MATES) -> Real:
    """Of each, so that mates have that share. (mates + strangers,)."""
    return np.repeat([share / mates, (1 - share) / strangers], [mates, strangers])


def logistic(x: Real, y: Flags, weight: Real, steps: int = 100) -> tuple[float, float]:
    """Midpoint and slope of the logistic curve that makes y likeliest (Newton's method, a little ridge against
    separable points).

    x, y, weight: (n,).
    """
    weight = (weight / np.sum(weight) * len(x)).astype(np.float64)
    centre, width = float(np.mean(x)), float(np.std(x)) or 1.0
    z = (np.asarray(x, float) - centre) / width
    design = np.stack([z, np.ones_like(z)], 1)  # (n, 2)
    line = np.zeros(2)
    ridge = np.diag([1e-3, 1e-6])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(design @ line, -50, 50)))
        gradient = design.T @ (weight * (p - y)) + ridge @ line
        hessian = (design * (weight * p * (1 - p))[:, None]).T @ design + ridge
        step = np.linalg.solve(hessian, gradient)
        line -= step
        if np.abs(step).max() < 1e-9:
            break
    slope, offset = line
    return centre - width * float(offset / slope), float(slope / width)


def _completed(measured: list[float], smaller: list[float]) -> list[float]:
    """What is not measured lies as far above that of the next smaller gallery as the rarest share that is."""
    rise = measured[-1] - smaller[len(measured) - 1]
    return [*measured, *(it + rise for it in smaller[len(measured) :])]


def _extended(one: Scores, measured: list[float]) -> list[float]:
    """What is not measured lies on the line through the two rarest shares that are, of which the median is the first."""
    known = [(0.5, float(np.median(one.strangers))), *zip(SHARES, measured, strict=False)]
    (share, low), (rarer, high) = known[-2:]
    slope = (high - low) / (_gumbel(rarer) - _gumbel(share))
    return [*measured, *(high + slope * (_gumbel(it) - _gumbel(rarer)) for it in SHARES[len(measured) :])]


def _gumbel(share: float) -> float:
    """What this share of a standard Gumbel distribution is above."""
    return -math.log(-math.log1p(-share))
