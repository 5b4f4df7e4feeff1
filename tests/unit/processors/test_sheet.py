"""Sheets: decoded crops equal the encoded ones, except for the loss of JPEG."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from processors.align import CROP
from processors.sheet import decode_sheet, encode_sheet

Pixels = NDArray[np.uint8]


def crop(seed: int) -> Pixels:
    """A picture of smooth spots: (240, 240, 3)."""
    small = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((CROP, CROP), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("count", [1, 2, 5, 17])
def test_each_crop_comes_out_at_its_place(count: int) -> None:
    crops = [crop(seed) for seed in range(count)]
    out = decode_sheet(encode_sheet(crops), count)
    assert len(out) == count
    for before, after in zip(crops, out, strict=True):
        assert after.shape == (CROP, CROP, 3)
        assert after.dtype == np.uint8
        assert np.abs(after.astype(int) - before.astype(int)).mean() < 1.25  # 1.1 at quality 95, 1.4 at 92


def test_neighbours_do_not_bleed_into_each_other() -> None:
    white, black = np.full((CROP, CROP, 3), 255, np.uint8), np.zeros((CROP, CROP, 3), np.uint8)
    crops = [white, black, black, white, black]
    for before, after in zip(crops, decode_sheet(encode_sheet(crops), len(crops)), strict=True):
        assert np.abs(after.astype(int) - before.astype(int)).max() <= 2


def test_colour_is_kept_at_full_resolution() -> None:
    """4:4:4, as single crops have: with subsampled colour, red lines of one pixel on blue would be violet."""
    lines = np.zeros((CROP, CROP, 3), np.uint8)
    lines[:, ::2, 0] = 255
    lines[:, 1::2, 2] = 255
    (after,) = decode_sheet(encode_sheet([lines]), 1)
    assert after[:, ::2, 0].mean() > 230
    assert after[:, 1::2, 0].mean() < 25


@pytest.mark.parametrize(("count", "size"), [(1, (1, 1)), (2, (2, 1)), (5, (3, 2)), (17, (5, 4)), (36, (6, 6))])
def test_a_sheet_is_about_square_on_a_grid_of_16_pixels(count: int, size: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(encode_sheet([crop(0)] * count))) as picture:
        assert picture.size == (size[0] * CROP, size[1] * CROP)
        assert picture.size[0] % 16 == picture.size[1] % 16 == 0
