"""Passes: the plan for each size of image, padding, tiles, and that torch is not loaded."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from processors.passes import (
    COARSE,
    FINE,
    TILE_OVERLAP,
    Detail,
    Pass,
    halve_pass,
    padded_side,
    plan_passes,
    render_pass,
    whole_image,
)

sides = st.integers(1, 12_000)


@pytest.mark.parametrize(
    ("size", "contents"),
    [
        ((400, 267), [(400, 267), (600, 400)]),
        ((250, 250), [(250, 250), (375, 375)]),
        ((640, 480), [(640, 480)]),
        ((1024, 768), [(1024, 768)]),
        ((1100, 800), [(1024, 745)]),
        ((1600, 1200), [(1024, 768), (1600, 1200)]),
        ((3000, 4000), [(768, 1024), (1536, 2048)]),
    ],
)
def test_the_plan_of_common_sizes(size: tuple[int, int], contents: list[tuple[int, int]]) -> None:
    assert [(each.width, each.height) for each in plan_passes(*size)] == contents


@given(sides, sides, st.sampled_from(["normal", "high"]))
def test_every_plan_holds_its_promises(width: int, height: int, detail: Detail) -> None:
    passes = plan_passes(width, height, detail)
    assert passes[0].tile is None
    assert passes[0].largest == float("inf"), "the coarsest pass is believed about a face of any size"
    assert max(passes[0].width, passes[0].height) <= COARSE
    for each in passes:
        assert 1 <= each.width <= FINE
        assert 1 <= each.height <= FINE
        assert all(side % 32 == 0 for side in each.shape)
        assert each.height <= each.shape[0] < each.height + 64
        assert each.width <= each.shape[1] < each.width + 64


@given(st.integers(FINE + 1, 9_000), st.integers(1, 9_000))
def test_tiles_cover_the_image_and_overlap(width: int, height: int) -> None:
    tiles = [each.tile for each in plan_passes(width, height, "high") if each.tile is not None]
    for low, high, length in ((0, 2, width), (1, 3, height)):
        spans = sorted({(tile[low], tile[high]) for tile in tiles})
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        assert all(after[0] <= before[1] - TILE_OVERLAP for before, after in pairwise(spans))


def test_only_high_detail_of_a_large_image_has_tiles() -> None:
    assert all(each.tile is None for each in plan_passes(4000, 3000) + plan_passes(2000, 1500, "high"))
    assert len(plan_passes(4000, 3000, "high")) == 2 + 5 * 4


def test_images_of_like_size_share_a_shape() -> None:
    assert {plan_passes(1024, height)[0].shape for height in range(705, 769)} == {(768, 1024)}
    assert padded_side(1) == 32
    assert padded_side(512) == 512
    assert padded_side(513) == 576


def test_a_picture_is_the_tile_resized_in_the_top_left() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    picture = render_pass(image, Pass(1.0, None, 120, 90))
    np.testing.assert_array_equal(picture[:90, :120], np.asarray(image))
    assert picture.shape == (96, 128, 3)
    assert not picture[90:].any()
    assert not picture[:, 120:].any()
    tile = render_pass(image, Pass(1.0, (20, 10, 60, 50), 40, 40))
    np.testing.assert_array_equal(tile[:40, :40], np.asarray(image)[10:50, 20:60])
    flat = Image.new("RGB", (100, 50), (10, 20, 30))
    half = render_pass(flat, Pass(0.5, None, 50, 25))
    assert (half[:25, :50] == (10, 20, 30)).all()


def test_planning_loads_no_torch() -> None:
    code = "import sys, processors.passes; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("width", "height"), [(1024, 768), (701, 1023), (333, 64)])
def test_half_a_pass_is_the_mean_of_four_pixels(width: int, height: int) -> None:
    each = whole_image(width, height, 1.0)
    picture = np.zeros((*each.shape, 3), np.uint8)
    picture[:height, :width] = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    half, padded = halve_pass(each, picture)
    assert (half.scale, half.width, half.height) == (0.5, width // 2, height // 2)
    assert padded.shape == (*half.shape, 3)
    for y, x in ((0, 0), (height // 2 - 1, width // 2 - 1), (height // 4, width // 4)):
        expected = picture[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].reshape(4, 3).astype(float).mean(0)
        assert np.abs(padded[y, x] - expected).max() <= 0.5
    assert not padded[half.height :].any()
    assert not padded[:, half.width :].any()
