"""The statistics of bench/speed and bench/accuracy, against cases that can be worked out by hand."""

import math

import numpy as np
import pytest

from bench.accuracy.measures import calibration_error, isotonic, one_to_one, quantile_reached, spread
from bench.speed.bare import PARTS, Timing
from bench.speed.http import BOUNDARY, Load, multipart
from bench.speed.report import (
    Measurements,
    PartTimes,
    best_batch,
    figures_of,
    find_misses,
    format_tables,
    memory_growth,
    percentiles,
)
from sink.evaluate.fitting import fit_logistic


def test_calibration_error_is_zero_for_right_probabilities() -> None:
    said = np.array([0.25] * 4 + [0.75] * 4)
    right = np.array([True, False, False, False, True, True, True, False])
    assert calibration_error(said, right) == pytest.approx(0)


def test_calibration_error_weighs_bins_by_their_number_of_cases() -> None:
    said = np.array([0.95, 0.95, 0.95, 0.05])
    right = np.array([True, True, False, False])
    assert calibration_error(said, right) == pytest.approx(3 / 4 * abs(0.95 - 2 / 3) + 1 / 4 * 0.05)
    assert calibration_error(np.array([1.0, 0.0]), np.array([False, True])) == 1


def test_calibration_error_with_weights_is_that_of_repeated_cases() -> None:
    said, right = np.array([0.9, 0.9, 0.4]), np.array([True, False, False])
    repeated = calibration_error(np.repeat(said, [3, 1, 2]), np.repeat(right, [3, 1, 2]))
    assert calibration_error(said, right, weight=np.array([3.0, 1.0, 2.0])) == pytest.approx(repeated)


def test_isotonic_averages_falling_values_and_keeps_rising_ones() -> None:
    x, y = isotonic(np.array([3.0, 1.0, 2.0, 4.0]), np.array([2.0, 1.0, 4.0, 5.0]))
    assert x.tolist() == [1, 2, 3, 4]
    assert y.tolist() == [1, 3, 3, 5]


def test_isotonic_is_the_nearest_among_rising_sequences() -> None:
    chance = np.random.default_rng(0)
    y = chance.normal(size=30)
    _, fitted = isotonic(np.arange(30.0), y)
    assert (np.diff(fitted) >= 0).all()
    for _ in range(200):
        other = np.sort(fitted + chance.normal(scale=0.1, size=30))
        assert ((y - fitted) ** 2).sum() <= ((y - other) ** 2).sum() + 1e-9


def test_logistic_finds_the_curve_that_made_the_points() -> None:
    chance = np.random.default_rng(1)
    x = chance.uniform(0.85, 1.0, 40_000)
    right = chance.random(len(x)) < 1 / (1 + np.exp(-200 * (x - 0.93)))
    midpoint, slope = fit_logistic(x, right, np.ones(len(x)))
    assert midpoint == pytest.approx(0.93, abs=5e-4)
    assert slope == pytest.approx(200, rel=0.05)


def test_logistic_with_weights_is_that_of_repeated_cases() -> None:
    x = np.array([0.1, 0.4, 0.5, 0.6, 0.9])
    right = np.array([False, True, False, True, True])
    counts = np.array([3, 1, 2, 4, 1])
    assert fit_logistic(x, right, counts.astype(float)) == pytest.approx(
        fit_logistic(np.repeat(x, counts), np.repeat(right, counts), np.ones(counts.sum())), rel=1e-2
    )


def test_at_most_the_given_share_reaches_quantile_reached() -> None:
    scores = np.arange(200.0)
    limit = quantile_reached(scores, 0.01)
    assert (scores >= limit).mean() == 0.01
    assert (scores[:50] >= quantile_reached(scores[:50], 0.01)).sum() == 0


def test_one_to_one_takes_the_best_pairs_first_and_none_twice() -> None:
    overlap = np.array([[0.9, 0.8], [0.7, 0.1], [0.0, 0.5]])
    assert one_to_one(overlap, 0.35) == [(0, 0), (2, 1)]
    assert one_to_one(np.zeros((0, 3)), 0.35) == []


def test_spread_of_draws() -> None:
    it = spread([1.0, 2.0, 3.0])
    assert (it.mean, it.low, it.high) == (2, 1, 3)
    assert it.deviation == pytest.approx(math.sqrt(2 / 3))


def test_percentiles_are_in_ms() -> None:
    assert percentiles([0.1 * i for i in range(1, 12)]) == pytest.approx([600, 1000, 1090])
    assert all(math.isnan(value) for value in percentiles([]))


def test_memory_growth_compares_the_end_with_request_1000() -> None:
    rss = [(at, 100 + (at > 1500) * 2) for at in range(20, 2001, 20)]
    assert memory_growth(rss, 2000) == pytest.approx(0.02)
    assert math.isnan(memory_growth([(20, 100)], 20))


def test_multipart_is_what_a_server_reads() -> None:
    body = multipart({"directory": "d"}, "a.jpg", b"\xff\xd8")
    head, field, file, tail = body.split(f"--{BOUNDARY}".encode())
    assert head == b""
    assert field.endswith(b'name="directory"\r\n\r\nd\r\n')
    assert file.endswith(b'filename="a.jpg"\r\n\r\n\xff\xd8\r\n')
    assert tail == b"--\r\n"


def timing(batch: int, seconds: float, count: int = 10) -> Timing:
    return Timing(
        batch,
        parts=dict.fromkeys(PARTS, 0.01),
        images=[("a.jpg", seconds)] * count,
        seconds=seconds * count,
        faces=count,
    )


def load(concurrency: int, latency: float, rate: float) -> Load:
    return Load(
        concurrency, [("a.jpg", latency)] * 10, faces=10, seconds=10 / rate, client_cpu_s=0.1, rss=[(10, 10**9)]
    )


def measured(latency: float, rate: float) -> Measurements:
    bare = {1: timing(1, 0.100), 4: timing(4, 0.080)}
    loads = {1: load(1, latency, 9), 8: load(8, 0.5, rate)}
    return Measurements("bfloat16", 1, "a.jpg", PartTimes(36, 80, 150), bare, loads)


def test_the_report_compares_the_service_with_the_bare_way() -> None:
    assert best_batch(measured(0.1, 10).bare) == 4
    values = figures_of(measured(0.104, 12))
    assert values["latency_above_bare_ms"] == pytest.approx(4)
    assert values["throughput_to_bare"] == pytest.approx(12 * 0.080)
    assert find_misses(values) == []
    assert "+4.0 ms" in format_tables(values)


def test_the_report_says_what_was_missed() -> None:
    values = figures_of(measured(0.110, 9))
    assert len(find_misses(values)) == 2
    assert "MISSED: the median at concurrency 1 is 10.0 ms above bare" in format_tables(values)
    failed = measured(0.100, 12)
    failed.loads[8].errors.append("a.jpg: 503")
    assert find_misses(figures_of(failed)) == ["1 errors at concurrency 8"]
    slow = measured(0.100, 12)
    slow.parts = PartTimes(60, 80, 150)
    assert [miss.split()[0] for miss in find_misses(figures_of(slow))] == ["detect_640x480_ms"]
