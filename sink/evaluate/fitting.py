"""Fits the threshold and the calibration of a generation that has none, to the galleries of its replay.

Random galleries of different sizes are drawn from each directory (see `samples`). People of another directory are never
used as strangers, because they may be the same person. The similarity that a share of strangers reaches is the quantile
of their best similarities, if enough of them are above it. Otherwise it is estimated, rather too high than too low:

- In the smallest galleries, on the line through the two rarest measured shares, in the variate of a Gumbel
  distribution: maxima follow that where the tail is exponential, and the tail of cosines is shorter.
- In larger galleries, as far above the next smaller size as the rarest measured share is: rarer shares rise less.
- In ten times the largest size, what a tenth of the share reaches in the largest. That holds where people are
  independent of each other, and on LFW, from 10 to 1,000 people, within .002.

A threshold is never lower for more people or for fewer strangers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schemas.arrays import BoolArray, Float32Array, FloatArray
from schemas.calibration import Calibration, Threshold
from sink.evaluate.samples import GalleryScores, LabelledVectors, populations_of, score_galleries

SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000)  # people of a gallery
SHARES = (0.1, 0.01, 0.001)  # of strangers, as Threshold has them
# A quantile is used if at least this many strangers are above it. Measured: with thresholds for an FPIR of 1 %, fitted
# on 20, 30 and 50 people of LFW, ten times each, the FPIR in galleries of 5 others was .4, .7 and .9 %, at most 1.9 %
# (with 5 above: .0, .4 and .6 %).
LEAST_ABOVE = 3
# People. Measured: with the threshold fitted on 12 people of LFW, 38 % of enrolled people got their name in galleries
# of 5, with that fitted on 20 people 92 %.
LEAST_STRANGERS = 20
# People with two portraits or more. Measured: fitted on 20 people of LFW, probabilities in galleries of up to 20 were
# off by .02, at most .04.
LEAST_MATED_PEOPLE = 20
MATED_SHARE = 0.4  # assumed share of probes that are of enrolled people: between a photo of friends and a crowd


@dataclass(frozen=True, slots=True)
class FitResult:
    """The fitted threshold and calibration. `reason` says why one of them is missing; it is '' if both are there."""

    threshold: Threshold | None
    calibration: Calibration | None
    strangers: int  # people of directories with two people or more
    mated_people: int  # those of them who have two portraits or more
    reason: str


def fit_generation(directories: Sequence[LabelledVectors], seed: int = 0) -> FitResult:
    """Fits threshold and calibration to the faces of all directories; the same seed gives the same result.

    If there are more than 20,000 people, or more than 20 portraits of a person, only some of them are used.
    """
    chance = np.random.default_rng(seed)
    populations = populations_of(directories, chance)
    people, mated_people = sum(len(it) for it in populations), sum(int(it.has_several.sum()) for it in populations)
    scores = [it for size in SIZES if (it := score_galleries(populations, size, chance)) is not None]
    scores = [it for it in scores if it.independent_strangers * SHARES[0] >= LEAST_ABOVE]
    if people < LEAST_STRANGERS or not scores:
        reason = (
            f"a threshold needs {LEAST_STRANGERS} people who have others in their directory,"
            f" more where directories are small; there are {people}"
        )
        return FitResult(None, None, people, mated_people, reason)
    threshold = fit_threshold(scores)
    calibration, reason = fit_calibration(scores)
    return FitResult(threshold, calibration, people, mated_people, reason)


def fit_threshold(scores: Sequence[GalleryScores]) -> Threshold:
    """scores: by size, ascending; each has enough strangers to measure one in ten."""
    rows: list[list[float]] = []
    for of_size in scores:
        measured = [
            float(np.quantile(of_size.strangers, 1 - it))
            for it in SHARES
            if of_size.independent_strangers * it >= LEAST_ABOVE
        ]
        rows.append(_extend_from_smaller(measured, rows[-1]) if rows else _extend_on_line(of_size, measured))
    last = rows[-1]
    rows.append(_extend_from_smaller(last[1:], last))  # ten times the people
    table = np.array(rows)  # (sizes, shares)
    table = np.minimum(np.maximum.accumulate(np.maximum.accumulate(table, 0), 1), 1)
    columns = (np.ceil(table * 1e4) / 1e4).T.tolist()
    return Threshold(
        people=[*(it.people for it in scores), 10 * scores[-1].people],
        one_in_10=columns[0],
        one_in_100=columns[1],
        one_in_1000=columns[2],
    )


def fit_calibration(scores: Sequence[GalleryScores]) -> tuple[Calibration | None, str]:
    """The calibration, or why there is none."""
    scores = [it for it in scores if it.mated_people >= LEAST_MATED_PEOPLE and len(it.mated)]
    if len(scores) < 2:
        return None, (
            f"probabilities need {LEAST_MATED_PEOPLE} people with two portraits or more,"
            " in directories of three people or more"
        )
    curves = [fit_curve(it.mated, it.mated_correct, it.strangers) for it in scores]
    if any(slope <= 0 for _, slope in curves):
        return None, "portraits of one person are no more similar than those of strangers: there are no probabilities"
    midpoints = np.maximum.accumulate([midpoint for midpoint, _ in curves])
    return Calibration(
        people=[it.people for it in scores],
        midpoint=[round(float(it), 4) for it in midpoints],
        slope=[round(slope, 1) for _, slope in curves],
    ), ""


def fit_curve(
    mated: Float32Array, correct: BoolArray, strangers: Float32Array, share: float = MATED_SHARE
) -> tuple[float, float]:
    """Midpoint and slope of the probability, where a `share` of the probes is of enrolled people.

    mated, correct, strangers: (m,), (m,) and (s,), see GalleryScores.
    """
    similarity = np.concatenate([mated, strangers])
    truth = np.concatenate([correct, np.zeros(len(strangers), bool)])
    return fit_logistic(similarity, truth, probe_weights(len(mated), len(strangers), share))


def probe_weights(mated: int, strangers: int, share: float = MATED_SHARE) -> FloatArray:
    """The weight of each probe that gives the mated ones that share of the total. (mated + strangers,)."""
    return np.repeat([share / mated, (1 - share) / strangers], [mated, strangers])


def fit_logistic(x: FloatArray, y: BoolArray, weight: FloatArray, steps: int = 100) -> tuple[float, float]:
    """Midpoint and slope of the logistic curve under which y is most likely.

    Newton's method, with a small ridge for points that can be separated. x, y, weight: (n,).
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


def _extend_from_smaller(measured: list[float], smaller: list[float]) -> list[float]:
    """Adds the shares that are not measured: as far above those of the smaller size as the rarest measured share is."""
    rise = measured[-1] - smaller[len(measured) - 1]
    return [*measured, *(it + rise for it in smaller[len(measured) :])]


def _extend_on_line(scores: GalleryScores, measured: list[float]) -> list[float]:
    """Adds the shares that are not measured: on the line through the two rarest measured ones, the median included."""
    known = [(0.5, float(np.median(scores.strangers))), *zip(SHARES, measured, strict=False)]
    (share, low), (rarer, high) = known[-2:]
    slope = (high - low) / (_gumbel_quantile(rarer) - _gumbel_quantile(share))
    return [
        *measured,
        *(high + slope * (_gumbel_quantile(it) - _gumbel_quantile(rarer)) for it in SHARES[len(measured) :]),
    ]


def _gumbel_quantile(share: float) -> float:
    """The value that this share of a standard Gumbel distribution exceeds."""
    return -math.log(-math.log1p(-share))
