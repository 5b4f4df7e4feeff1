"""Fits threshold and calibration to generated faces whose rates are known."""

import numpy as np
import pytest

from schemas.arrays import Float32Array
from schemas.calibration import Calibration, Threshold
from sink.evaluate import samples
from sink.evaluate.fitting import (
    LEAST_MATED_PEOPLE,
    LEAST_STRANGERS,
    SIZES,
    FitResult,
    fit_calibration,
    fit_generation,
    fit_threshold,
    probe_weights,
)
from sink.evaluate.samples import GalleryScores, LabelledVectors, populations_of, score_galleries

DIMENSION = 24
SHARES = (0.1, 0.01, 0.001)


def directory(
    people: int, portraits: int, seed: int, *, spread: float = 0.09, dimension: int = DIMENSION
) -> LabelledVectors:
    """People at random points of the sphere, and portraits around them."""
    chance = np.random.default_rng(seed)
    centres = chance.normal(size=(people, 1, dimension))
    centres /= np.linalg.norm(centres, axis=-1, keepdims=True)
    vectors = centres + chance.normal(scale=spread, size=(people, portraits, dimension))
    vectors *= chance.uniform(0.5, 20, size=(people, portraits, 1))  # lengths do not matter
    persons = [f"person {i}" for i in range(people) for _ in range(portraits)]
    return persons, vectors.reshape(-1, dimension).astype(np.float32)


def gallery_scores(one: LabelledVectors, size: int, seed: int) -> GalleryScores:
    """Scores of galleries of that size."""
    chance = np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as fewer:  # than a fit draws, which are enough to count in
        fewer.setattr("sink.evaluate.samples.ENROLLED", 1_000)
        found = score_galleries(populations_of([one], chance), size, chance)
    assert found is not None
    return found


def error(calibration: Calibration, found: GalleryScores) -> float:
    """Expected calibration error with ten bins, written as a plain loop."""
    similarity = [*found.mated.tolist(), *found.strangers.tolist()]
    right = [*found.mated_correct.tolist(), *[False] * len(found.strangers)]
    weight = probe_weights(len(found.mated), len(found.strangers))
    surplus = [0.0] * 10
    for each, truth, much in zip(similarity, right, weight.tolist(), strict=True):
        said = calibration.probability(each, found.people)
        surplus[min(9, int(said * 10))] += much * (said - truth)
    return sum(map(abs, surplus))


@pytest.fixture
def fewer_galleries(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that count how often something happens: enough galleries to count in."""
    monkeypatch.setattr("sink.evaluate.samples.ENROLLED", 1_000)


@pytest.fixture
def few_galleries(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests whose outcome does not depend on how exact a fit is."""
    monkeypatch.setattr("sink.evaluate.samples.ENROLLED", 100)


@pytest.fixture(scope="module")
def fitted() -> FitResult:
    with pytest.MonkeyPatch.context() as fewer:
        fewer.setattr("sink.evaluate.samples.ENROLLED", 1_000)
        return fit_generation([directory(300, 3, 0)])


@pytest.fixture(scope="module")
def of_others() -> dict[int, GalleryScores]:
    """Scores of people that were not fitted, by the size of the gallery."""
    return {size: gallery_scores(directory(600, 3, 1), size, 2) for size in (1, 5, 20, 100)}


def test_the_set_share_of_new_strangers_reaches_the_threshold(
    fitted: FitResult, of_others: dict[int, GalleryScores]
) -> None:
    assert fitted.threshold is not None
    for size, found in of_others.items():
        for share, least, most in ((0.1, 0.07, 0.13), (0.01, 0.004, 0.018), (0.001, 0, 0.004)):
            reached = float((found.strangers >= fitted.threshold.similarity_for(size, share)).mean())
            assert least <= reached <= most, (size, share)


def test_probabilities_are_calibrated_for_new_people(fitted: FitResult, of_others: dict[int, GalleryScores]) -> None:
    assert fitted.calibration is not None
    assert fitted.reason == ""
    for size, found in of_others.items():
        assert error(fitted.calibration, found) < 0.03, size


@pytest.mark.usefixtures("few_galleries")
def test_counts_people_of_directories_with_others(fitted: FitResult) -> None:
    assert (fitted.strangers, fitted.mated_people) == (300, 300)
    alone, several, single = directory(1, 5, 0), directory(60, 2, 1), directory(40, 1, 2)
    found = fit_generation([alone, several, single])
    assert (found.strangers, found.mated_people) == (100, 60)


@pytest.mark.usefixtures("few_galleries")
def test_more_people_and_fewer_strangers_never_get_a_lower_threshold() -> None:
    for people in (LEAST_STRANGERS, 47, 120):
        for seed in range(3):
            threshold = fit_generation([directory(people, 1, seed)], seed).threshold
            assert threshold is not None
            table = np.array([threshold.one_in_10, threshold.one_in_100, threshold.one_in_1000])
            assert (np.diff(table, axis=0) >= 0).all()
            assert (np.diff(table, axis=1) >= 0).all()
            assert table.max() <= 1


@pytest.mark.usefixtures("fewer_galleries")
def test_the_threshold_for_few_people_is_rather_too_high_than_too_low() -> None:
    """With the smallest number of people, the FPIR is lower than set, but not zero."""
    strangers = gallery_scores(directory(600, 1, 99), 5, 5).strangers
    tables = [fit_generation([directory(LEAST_STRANGERS, 1, seed)], seed).threshold for seed in range(5)]
    reached = [float((strangers >= table.similarity_for(5, 0.01)).mean()) for table in tables if table is not None]
    assert len(reached) == len(tables)
    assert 0.0002 < np.mean(reached) <= 0.01
    assert max(reached) < 0.03


@pytest.mark.usefixtures("few_galleries")
def test_people_with_one_portrait_give_a_threshold_but_no_calibration() -> None:
    found = fit_generation([directory(60, 1, 0)])
    assert found.threshold is not None
    assert found.calibration is None
    assert (found.strangers, found.mated_people) == (60, 0)
    assert f"{LEAST_MATED_PEOPLE} people with two portraits" in found.reason


@pytest.mark.parametrize(
    ("galleries", "people"),
    [
        ([], 0),
        ([directory(1, 9, 0)], 0),
        ([directory(1, 2, i) for i in range(50)], 0),
        ([directory(8, 3, 0)], 8),
        ([directory(2, 1, i) for i in range(10)], 20),  # 20 pairs are not enough
    ],
)
def test_too_few_people_give_no_result_and_the_reason_says_how_many_are_needed(
    galleries: list[LabelledVectors], people: int
) -> None:
    found = fit_generation(galleries)
    assert found.threshold is None
    assert found.calibration is None
    assert f"needs {LEAST_STRANGERS} people" in found.reason
    assert found.reason.endswith(f"there are {people}")


@pytest.mark.usefixtures("fewer_galleries")
def test_many_small_directories_count_together() -> None:
    found = fit_generation([directory(5, 2, seed) for seed in range(60)])
    assert found.threshold is not None
    assert found.calibration is not None
    assert found.threshold.people[:2] == [1, 2]
    assert max(found.calibration.people) < 5
    others = directory(600, 2, 1000)
    reached = float((gallery_scores(others, 2, 0).strangers >= found.threshold.similarity_for(2, 0.01)).mean())
    assert 0.004 <= reached <= 0.018


@pytest.mark.usefixtures("few_galleries")
def test_people_of_two_directories_are_not_strangers_to_each_other() -> None:
    """The same people again, under other names. In one directory, each would be a stranger that gets a name."""
    persons, vectors = directory(100, 1, 0)
    renamed = [f"other {person}" for person in persons]
    chance = np.random.default_rng(1)
    again = (vectors + chance.normal(scale=0.05, size=vectors.shape)).astype(np.float32)
    one, both = fit_generation([(persons, vectors)]), fit_generation([(persons, vectors), (renamed, again)])
    mixed = fit_generation([([*persons, *renamed], np.concatenate([vectors, again]))])
    assert one.threshold is not None
    assert both.threshold is not None
    assert mixed.threshold is not None
    assert both.threshold.similarity_for(50, 0.1) == pytest.approx(one.threshold.similarity_for(50, 0.1), abs=0.02)
    assert mixed.threshold.similarity_for(50, 0.1) > one.threshold.similarity_for(50, 0.1) + 0.05


@pytest.mark.usefixtures("few_galleries")
def test_copies_of_a_portrait_are_no_second_one() -> None:
    persons, vectors = directory(60, 1, 0)
    found = fit_generation([([*persons, *persons], np.concatenate([vectors, 3 * vectors]))])
    assert (found.strangers, found.mated_people) == (60, 0)
    assert found.calibration is None


@pytest.mark.usefixtures("few_galleries")
def test_an_embedder_that_cannot_tell_people_apart_gets_no_calibration() -> None:
    chance = np.random.default_rng(0)
    noise = chance.normal(size=(300, DIMENSION)).astype(np.float32)
    far = [(f"person {i}", vector) for i, vector in enumerate(noise) for _ in range(2)]
    opposite = np.array([vector * (1 if i % 2 else -1) for i, (_, vector) in enumerate(far)], np.float32)
    found = fit_generation([([person for person, _ in far], opposite)])
    assert found.calibration is None
    assert "no more similar" in found.reason


@pytest.mark.usefixtures("few_galleries")
def test_the_same_seed_gives_the_same() -> None:
    galleries = [directory(40, 2, 0), directory(25, 2, 1)]
    assert fit_generation(galleries, 7) == fit_generation(galleries, 7)
    assert fit_generation(galleries, 7) != fit_generation(galleries, 8)


@pytest.mark.usefixtures("few_galleries")
def test_a_directory_in_another_order_counts_as_the_same_people() -> None:
    persons, vectors = directory(40, 3, 0)
    order = np.random.default_rng(0).permutation(len(persons))
    found = fit_generation([([persons[i] for i in order], vectors[order])])
    assert (found.strangers, found.mated_people) == (40, 40)
    assert found.calibration is not None


def test_a_very_large_directory_takes_a_bounded_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MOST_PEOPLE", 500)
    monkeypatch.setattr(samples, "MOST_PORTRAITS", 4)
    chance = np.random.default_rng(0)
    among = populations_of([directory(3_000, 8, 0), directory(1_000, 8, 1), directory(1, 3, 2)], chance)
    assert len(among) == 2
    assert 370 <= len(among[0]) <= 380
    assert 120 <= len(among[1]) <= 130
    assert {len(units) for it in among for units in it.units} == {4}


@pytest.mark.usefixtures("few_galleries")
def test_a_large_directory_has_all_sizes() -> None:
    found = fit_generation([directory(3_000, 1, 0, dimension=16)])
    assert found.threshold is not None
    assert found.threshold.people == [*SIZES, 10 * SIZES[-1]]


def test_unmeasured_shares_rise_with_the_rarest_measured_one() -> None:
    """Similarities of strangers are uniform; in the larger gallery .1 higher, and too few to measure one in 100."""
    even = np.linspace(0, 0.8, 100_001, dtype=np.float32)
    none = np.empty(0, np.float32)
    found = [
        GalleryScores(10, none, none.astype(bool), even, 100_000, 0),
        GalleryScores(20, none, none.astype(bool), even + np.float32(0.1), 60, 0),
    ]
    threshold = fit_threshold(found)
    assert threshold.people == [10, 20, 200]
    assert threshold.one_in_10 == pytest.approx([0.72, 0.82, 0.892], abs=2e-4)
    assert threshold.one_in_100 == pytest.approx([0.792, 0.892, 0.8992], abs=2e-4)
    assert threshold.one_in_1000 == pytest.approx([0.7992, 0.8992, 0.9064], abs=2e-4)


def test_shares_that_the_first_gallery_does_not_measure_follow_a_gumbel_distribution() -> None:
    """Similarities of strangers have a Gumbel distribution: the value for one in 100, out of 60, is the true one."""
    shares = (np.arange(20_000) + 0.5) / 20_000
    gumbel: Float32Array = (0.4 - 0.03 * np.log(-np.log(shares))).astype(np.float32)
    none = np.empty(0, np.float32)
    threshold: Threshold = fit_threshold([GalleryScores(1, none, none.astype(bool), gumbel, 60, 0)])
    truth = [0.4 - 0.03 * np.log(-np.log(1 - share)) for share in SHARES]
    assert [threshold.one_in_10[0], threshold.one_in_100[0], threshold.one_in_1000[0]] == pytest.approx(truth, abs=5e-4)


def test_midpoints_never_fall_with_the_people() -> None:
    chance = np.random.default_rng(0)

    def made(people: int, middle: float) -> GalleryScores:
        mated = chance.normal(middle + 0.2, 0.05, 4_000).astype(np.float32)
        strangers = chance.normal(middle, 0.05, 4_000).astype(np.float32)
        return GalleryScores(people, mated, np.ones(4_000, bool), strangers, 4_000, LEAST_MATED_PEOPLE)

    calibration, reason = fit_calibration([made(1, 0.5), made(10, 0.45), made(100, 0.6)])
    assert calibration is not None
    assert reason == ""
    assert calibration.midpoint[0] == calibration.midpoint[1] < calibration.midpoint[2]
