"""The threshold for a false positive identification rate (FPIR: the share of strangers that get a name).

A verification threshold is not enough: the more people a gallery has, the more likely one of them looks like the
stranger. Small galleries use the model's table (weights/manifest.toml). In larger ones, enrolled people are treated as
strangers and matched against all others.
"""

import numpy as np

from schemas.arrays import Float32Array
from schemas.calibration import Threshold

# The table has the weight of this many enrolled people above the threshold. Measured with bench/accuracy/thresholds.py
# on 100 random galleries of 200 people of LFW, where a threshold for one in a hundred has two people above it: 1.3 % of
# strangers got a name. (A Gumbel fit of the maxima gave far too high a threshold.)
TABLE_WEIGHT = 4


def threshold(table: Threshold | None, people: int, strangers: float, stranger_similarities: Float32Array) -> float:
    """The similarity that a share `strangers` of strangers reaches in a gallery of `people`.

    stranger_similarities: (s,), see Gallery. Returns -1 for strangers = 1: the nearest person is always named. Without
    a table, a gallery with few people gets a high threshold.
    """
    if strangers >= 1:
        return -1.0
    from_table = table.similarity_for(people, strangers) if table else 1.0
    if not len(stranger_similarities):
        return from_table
    above = strangers * len(stranger_similarities)
    weight = above / (above + TABLE_WEIGHT)
    return weight * float(np.quantile(stranger_similarities, 1 - strangers)) + (1 - weight) * from_table
