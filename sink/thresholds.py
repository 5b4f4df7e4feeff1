"""Which similarity a stranger reaches: the threshold that gives a chosen share of strangers a name, for a gallery of some size.

A verification threshold cannot serve: the more people, the likelier somebody looks like the stranger. Small galleries take the
model's own table (weights/manifest.toml); in larger ones every enrolled person plays the stranger against all others.
"""

import math

import numpy as np
from numpy.typing import NDArray

from weights.manifest import Threshold

TABLE_WEIGHT = 100  # the table counts as much as this many enrolled people
FEWEST = 50  # below this many people who play the stranger, the table alone counts
ENOUGH_BEYOND = 10  # with so many maxima beyond the quantile, the sample's own is used


def threshold(table: Threshold, people: int, strangers: float, best_of_others: NDArray[np.float32]) -> float:
    """The similarity that a share `strangers` of strangers reaches in a gallery of `people`.

    best_of_others: (s,), for some enrolled people the best similarity to anybody else. Returns -1 for strangers = 1: the
    nearest is always named.
    """
    if strangers >= 1:
        return -1.0
    from_table = table.at(people, strangers)
    if len(best_of_others) < FEWEST:
        return from_table
    weight = len(best_of_others) / (len(best_of_others) + TABLE_WEIGHT)
    return weight * quantile_of_maxima(best_of_others, 1 - strangers) + (1 - weight) * from_table


def quantile_of_maxima(maxima: NDArray[np.float32], share: float) -> float:
    """The quantile of best-of-many similarities; where few are beyond it, drawn towards that of a Gumbel distribution fitted by
    its moments, as the distribution of maxima.
    """
    beyond = (1 - share) * len(maxima)
    own = float(np.quantile(maxima, share))
    if beyond >= ENOUGH_BEYOND:
        return own
    scale = float(np.std(maxima)) * math.sqrt(6) / math.pi
    fitted = float(np.mean(maxima)) - np.euler_gamma * scale - scale * math.log(-math.log(share))
    return (beyond * own + (ENOUGH_BEYOND - beyond) * fitted) / ENOUGH_BEYOND
