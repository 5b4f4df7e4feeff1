"""The threshold of a gallery, from the model's table and the similarities between its enrolled people."""

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.calibration import Threshold
from sink.match.thresholds import threshold
from weights.manifest import manifest

NOBODY = np.empty(0, np.float32)
TABLE = Threshold(
    people=[10, 100, 1_000], one_in_10=[0.5, 0.6, 0.7], one_in_100=[0.6, 0.7, 0.8], one_in_1000=[0.65, 0.75, 0.85]
)
SHARES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.9)
SIZES = (1, 2, 10, 30, 100, 400, 1_000, 10_000)


def gumbel(count: int, seed: int, *, middle: float = 0.6, scale: float = 0.02) -> NDArray[np.float32]:
    return np.random.default_rng(seed).gumbel(middle, scale, count).astype(np.float32)


def test_with_strangers_1_every_similarity_reaches_the_threshold() -> None:
    assert threshold(TABLE, 100, 1, NOBODY) == -1
    assert threshold(TABLE, 100, 1, gumbel(500, 0)) == -1


@pytest.mark.parametrize(
    ("people", "strangers", "expected"),
    [
        (10, 0.1, 0.5),
        (100, 0.01, 0.7),
        (1_000, 0.001, 0.85),
        (316.23, 0.01, 0.75),  # half way between 100 and 1,000
        (100, 0.0316228, 0.65),  # half way between one in 10 and one in 100
        (10_000, 0.01, 0.9),  # beyond the last point
    ],
)
def test_an_empty_directory_gets_the_threshold_of_the_table(people: float, strangers: float, expected: float) -> None:
    assert threshold(TABLE, people, strangers, NOBODY) == pytest.approx(expected, abs=1e-4)  # type: ignore[arg-type]  # halves


def as_in_the_table(table: Threshold, people: int, count: int) -> NDArray[np.float32]:
    """Best similarities that are distributed as the table says."""
    shares = (np.arange(count) + 0.5) / count
    return np.array([table.similarity_for(people, float(share)) for share in shares], np.float32)


@pytest.mark.parametrize(
    "table", [TABLE, manifest().generation("dlib-resnet29-mirror").threshold], ids=["simple", "shipped"]
)
@pytest.mark.parametrize("count", [0, 2, 60, 1_000])
def test_fewer_strangers_and_more_people_never_get_a_lower_threshold(table: Threshold, count: int) -> None:
    found = np.array(
        [
            [threshold(table, people, share, as_in_the_table(table, people, count)) for share in SHARES]
            for people in SIZES
        ]
    )  # (sizes, shares)
    assert (np.diff(found, axis=1) <= 1e-6).all()
    assert (np.diff(found, axis=0) >= -1e-6).all()


@pytest.mark.parametrize("strangers", [1e-300, 1e-17, 1e-9])
def test_the_smallest_share_has_a_threshold_too(strangers: float) -> None:
    for sample in (NOBODY, gumbel(1_000, 0)):
        found = threshold(TABLE, 1_000, strangers, sample)
        assert threshold(TABLE, 1_000, 0.001, sample) - 0.01 < found <= 1


def test_the_people_of_a_large_directory_outweigh_the_table() -> None:
    """Best similarities of strangers have a Gumbel distribution here, far below the table; its quantiles are known."""
    for strangers in (0.01, 0.1):
        truth = 0.6 - 0.02 * np.log(-np.log(1 - strangers))
        table = TABLE.similarity_for(1_000, strangers)
        for seed in range(5):
            found = threshold(TABLE, 1_000, strangers, gumbel(1_000, seed))
            assert abs(found - truth) < abs(found - table)
    many = [threshold(TABLE, 1_000, 0.1, gumbel(1_000, seed)) for seed in range(20)]
    assert np.mean(many) == pytest.approx(0.6 - 0.02 * np.log(-np.log(0.9)), abs=0.005)


def test_with_a_few_people_the_threshold_is_close_to_the_table() -> None:
    odd = np.full(5, 0.1, np.float32)
    assert threshold(TABLE, 5, 0.01, odd) == pytest.approx(TABLE.similarity_for(5, 0.01), abs=0.02)
