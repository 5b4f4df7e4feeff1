"""Which similarity a stranger reaches: the threshold that gives a chosen share of strangers a name, for a gallery of
some size.

A verification threshold cannot serve: the more people, the likelier somebody looks like the stranger. Small galleries
take the model's own table (weights/manifest.toml); in larger ones every enrolled person plays the stranger against all
others.
"""

import numpy as np
from numpy.typing import NDArray

from schemas.calibration import Threshold

# The table counts as much as this many enrolled people above the threshold. On 100 draws of 200 people of LFW, two of
# whom are above a threshold for one in a hundred, 1.3 % of strangers passed. (A Gumbel fit of the maxima lies far too
# high.)
TABLE_WEIGHT = 4


def threshold(table: Threshold | None, people: int, strangers: float, best_of_others: NDArray[np.float32]) -> float:
    """The similarity that a share `strangers` of strangers reaches in a gallery of `people`.

    best_of_others: (s,), for some enrolled people the best similarity to anybody else. Returns -1 for strangers = 1:
    the nearest is always named. Without a table, few people have a high threshold.
    """
    if strangers >= 1:
        return -1.0
    from_table = table.at(people, strangers) if table else 1.0
    if not len(best_of_others):
        return from_table
    above = strangers * len(best_of_others)
    weight = above / (above + TABLE_WEIGHT)
    return weight * float(np.quantile(best_of_others, 1 - strangers)) + (1 - weight) * from_table
