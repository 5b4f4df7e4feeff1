"""Alignment: the fit against known similarities, pictures against a naive loop, crops and the chips inside them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from processors import align
from processors.align import DLIB, TEMPLATES, SimilarityTransform
from schemas.errors import ConfigurationError

Pixels = NDArray[np.uint8]


def placed(square: SimilarityTransform, template: align.Template = DLIB) -> NDArray[np.float64]:
    """The template's landmarks in a square of an image."""
    cos, sin = math.cos(square.angle) * square.half, math.sin(square.angle) * square.half
    landmarks: NDArray[np.float64] = np.array(template.points) @ np.array([[cos, sin], [-sin, cos]]) + np.array(
        square.centre
    )
    return landmarks


def photo(height: int = 200, width: int = 260) -> Pixels:
    """A smooth picture, so that resampling it twice gives nearly the same as once."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 10, width // 10, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def naive(pixels: Pixels, square: SimilarityTransform, side: int) -> NDArray[np.float64]:
    """The picture, sample by sample: bilinear, zeros outside, two samples each way above 1.5 source pixels."""
    over = 2 if 2 * square.half > 225 else 1
    height, width = pixels.shape[:2]
    cos, sin = math.cos(square.angle), math.sin(square.angle)
    samples = np.zeros((side * over, side * over, 3))
    for row in range(side * over):
        for column in range(side * over):
            u = ((column + 0.5) / over - 0.5 - (side - 1) / 2) / 74.5 * square.half
            v = ((row + 0.5) / over - 0.5 - (side - 1) / 2) / 74.5 * square.half
            x, y = square.centre[0] + cos * u - sin * v, square.centre[1] + sin * u + cos * v
            for dx in (0, 1):
                for dy in (0, 1):
                    i, j = math.floor(x) + dx, math.floor(y) + dy
                    if 0 <= i < width and 0 <= j < height:
                        samples[row, column] += (1 - abs(x - i)) * (1 - abs(y - j)) * pixels[j, i].astype(np.float64)
    picture: NDArray[np.float64] = samples.reshape(side, over, side, over, 3).mean((1, 3))
    return picture


@given(st.floats(-500, 500), st.floats(-500, 500), st.floats(1, 900), st.floats(-3.1, 3.1))
def test_the_fit_finds_a_known_similarity(x: float, y: float, half: float, angle: float) -> None:
    found = align.fit_landmarks(placed(SimilarityTransform((x, y), half, angle)))
    assert found.centre == pytest.approx((x, y), abs=1e-6)
    assert found.half == pytest.approx(half)
    assert found.angle == pytest.approx(angle, abs=1e-6)


def test_the_fit_is_the_best_similarity() -> None:
    chance = np.random.default_rng(0)
    landmarks = placed(SimilarityTransform((100, 90), 60, 0.3)) + chance.normal(0, 3, (5, 2))
    found = align.fit_landmarks(landmarks)
    best = ((placed(found) - landmarks) ** 2).sum()
    for _ in range(200):
        other = SimilarityTransform(
            (found.centre[0] + chance.normal(), found.centre[1] + chance.normal()),
            found.half + chance.normal(),
            found.angle + chance.normal(0, 0.05),
        )
        assert ((placed(other) - landmarks) ** 2).sum() >= best


@pytest.mark.parametrize(
    "square",
    [
        SimilarityTransform((130, 100), 60, 0.0),
        SimilarityTransform((120.3, 90.8), 47.5, 0.4),
        SimilarityTransform((20, 180), 70, -2.0),  # over the corner of the image
        SimilarityTransform((130, 100), 130, 0.2),  # two samples a pixel
    ],
)
def test_a_chip_is_what_a_naive_loop_samples(square: SimilarityTransform) -> None:
    chip = align.cut_upright(photo(), placed(square))
    assert chip.dtype == np.float32
    assert chip.shape == (150, 150, 3)
    np.testing.assert_allclose(chip, naive(photo(), square, 150), atol=0.02)


def test_a_crop_agrees_with_a_naive_loop_and_has_the_chip_in_its_middle() -> None:
    square = SimilarityTransform((130, 100), 52, 0.25)
    picture = align.cut_upright(photo(), placed(square), align.CROP)
    np.testing.assert_allclose(picture, naive(photo(), square, 240), atol=0.02)
    np.testing.assert_allclose(picture[45:195, 45:195], align.cut_upright(photo(), placed(square)), atol=0.01)
    crop = align.cut_crop(photo(), placed(square))
    assert crop.dtype == np.uint8
    assert crop.shape == (240, 240, 3)
    np.testing.assert_array_equal(align.chip_of_crop(crop), np.rint(picture[45:195, 45:195]))


def test_landmarks_of_a_crop_lie_where_the_template_says() -> None:
    square = SimilarityTransform((310, 95), 33, -0.7)
    inside = align.landmarks_in_crop(placed(square), square)
    np.testing.assert_allclose(inside, np.array(DLIB.points) * 74.5 + 119.5, atol=1e-3)
    again = align.fit_landmarks(inside)
    assert again.centre == pytest.approx((119.5, 119.5), abs=1e-3)
    assert again.half == pytest.approx(74.5, abs=1e-3)


def test_a_very_large_face_is_averaged_not_picked() -> None:
    stripes = np.zeros((3000, 3000, 3), np.uint8)
    stripes[:, ::2] = 200  # stripes that are finer than the chip's pixels: their mean is left
    chip = align.cut_upright(stripes, placed(SimilarityTransform((1500, 1500), 1050, 0.3)))
    assert abs(chip[5:-5, 5:-5] - 100).max() < 8


def test_a_very_large_face_is_the_same_chip_as_its_smaller_photo() -> None:
    small = photo(260, 300)
    large = np.asarray(Image.fromarray(small).resize((300 * 8, 260 * 8), Image.Resampling.BICUBIC))
    landmarks = placed(SimilarityTransform((150, 130), 70, 0.2))
    chip, other = align.cut_upright(small, landmarks), align.cut_upright(large, (landmarks + 0.5) * 8 - 0.5)
    assert abs(chip - other).mean() < 1.5


@pytest.mark.parametrize("centre", [(-900.0, 50.0), (50.0, 9000.0)])
def test_a_face_outside_the_image_is_black(centre: tuple[float, float]) -> None:
    assert not align.cut_upright(photo(), placed(SimilarityTransform(centre, 60, 0.0))).any()


def test_landmarks_in_one_point_give_a_flat_picture() -> None:
    chip = align.cut_upright(photo(), np.full((5, 2), 100.0))
    np.testing.assert_allclose(chip, np.broadcast_to(chip[0, 0], chip.shape), atol=1e-3)
    assert np.isfinite(
        align.landmarks_in_crop(np.full((5, 2), 100.0), align.fit_landmarks(np.full((5, 2), 100.0)))
    ).all()


@pytest.mark.parametrize("name", ["dlib-150", "dlib-64", "arcface-112", "arcface-128", "arcface-224"])
def test_every_template_fits_inside_the_crop(name: str) -> None:
    square = SimilarityTransform((130, 100), 60, 0.15)
    crop, inside = align.cut_crop(photo(), placed(square)), align.landmarks_in_crop(placed(square), square)
    from_crop, from_photo = align.warp_chip(crop, inside, name), align.warp_chip(photo(), placed(square), name)
    assert from_crop.shape == from_photo.shape == (int(name[-3:].strip("-")),) * 2 + (3,)
    assert abs(from_crop - from_photo).mean() < 1.5
    filled = align.warp_chip(np.full((240, 240, 3), 255, np.uint8), inside, name)
    assert filled.min() > 250, "no corner of the chip lies outside the crop"


def test_landmarks_lie_on_the_template_in_a_warped_chip() -> None:
    template = TEMPLATES["arcface"]
    square = align.fit_landmarks(placed(SimilarityTransform((90, 80), 56, 0.1), template), template)
    assert square.half == pytest.approx(56)
    marked = np.zeros((200, 260, 3), np.uint8)
    x, y = np.rint(placed(square, template)[2]).astype(int)
    marked[y - 1 : y + 2, x - 1 : x + 2] = 255
    chip = align.warp_chip(marked, placed(square, template), "arcface-112")[..., 0]
    centre = np.array([(chip.sum(axis) * np.arange(112)).sum() / chip.sum() for axis in (0, 1)])
    np.testing.assert_allclose(centre, (56.0252, 71.7366), atol=0.6)


@pytest.mark.parametrize("side", [112, 128, 224])
def test_landmarks_of_arcface_grow_with_the_side(side: int) -> None:
    """They scale from the centre of the first pixel, as in insightface's estimate_norm."""
    template = align.parse_template(f"arcface-{side}")
    inside = np.array(template.points) * template.half + template.half
    arcface_dst = [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
    np.testing.assert_allclose(inside, np.array(arcface_dst) * side / 112, atol=1e-6)


def test_a_larger_chip_has_the_pixels_of_the_smaller_one_and_those_between() -> None:
    landmarks = placed(SimilarityTransform((130, 100), 50, 0.2))
    small, large = (align.warp_chip(photo(), landmarks, name) for name in ("arcface-112", "arcface-224"))
    np.testing.assert_allclose(large[::2, ::2], small, atol=0.05)


@pytest.mark.parametrize(
    "name", ["arcface", "arcface-", "arcface-1", "arcface--112", "arcface-1e3", "arcface-²", "retina-112", ""]
)
def test_an_unknown_template_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"no template '{name}'"):
        align.parse_template(name)
