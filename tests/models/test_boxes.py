"""Boxes: the heads against a naive loop, suppression, results of passes in the image's pixels, and merging them."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from processors import boxes
from processors.boxes import Detections, add_coarser_pass, decode_heads, merge_passes, to_original
from processors.passes import LARGEST, Pass, plan_passes

Maps = tuple[Tensor, Tensor, Tensor, Tensor]


def heads(batch: int = 2) -> Maps:
    chance = torch.Generator().manual_seed(0)
    heat, size, offset, points = (torch.rand(batch, channels, 6, 9, generator=chance) for channels in (1, 2, 2, 10))
    return heat, size, offset, points


def decoded(maps: Maps, threshold: float, scale: float = 1.0) -> list[Detections]:
    heat, size, offset, points = maps
    return decode_heads(heat, size, offset, points, threshold, scale)


def faces(*found: tuple[float, float, float, float, float]) -> Detections:
    """Each (left, top, right, bottom, score)."""
    values = np.array(found, np.float32).reshape(-1, 5)
    return Detections(values[:, :4], values[:, 4], np.repeat(values[:, None, :2], 5, axis=1))


def naive(
    heat: Tensor, size: Tensor, offset: Tensor, points: Tensor, threshold: float
) -> list[tuple[float, list[float], list[float]]]:
    """Decodes one image cell by cell, with quadratic NMS: (score, box, the five x and y), best first."""
    candidates = []
    for y in range(heat.shape[1]):
        for x in range(heat.shape[2]):
            score = float(heat[0, y, x])
            if score > threshold:
                high, wide = 4 * math.exp(size[0, y, x]), 4 * math.exp(size[1, y, x])
                top = (y + float(offset[0, y, x]) + 0.5) * 4 - high / 2
                left = (x + float(offset[1, y, x]) + 0.5) * 4 - wide / 2
                marks = []
                for point in range(5):
                    marks += [
                        left + float(points[2 * point + 1, y, x]) * wide,
                        top + float(points[2 * point, y, x]) * high,
                    ]
                candidates.append((score, [left, top, left + wide, top + high], marks))
    candidates.sort(key=lambda each: -each[0])
    kept: list[tuple[float, list[float], list[float]]] = []
    for candidate in candidates:
        if all(iou(candidate[1], other[1]) <= boxes.OVERLAP for other in kept):
            kept.append(candidate)
    return kept


def iou(a: list[float], b: list[float]) -> float:
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_heads_are_decoded_as_a_naive_loop_does() -> None:
    maps = heads()
    for image, found in enumerate(decoded(maps, 0.5)):
        expected = naive(maps[0][image], maps[1][image], maps[2][image], maps[3][image], 0.5)
        assert len(found) == len(expected) > 3
        np.testing.assert_allclose(found.scores, [each[0] for each in expected], rtol=1e-5)
        np.testing.assert_allclose(found.boxes, [each[1] for each in expected], atol=1e-3)
        np.testing.assert_allclose(found.landmarks.reshape(-1, 10), [each[2] for each in expected], atol=1e-3)


def test_boxes_are_scaled_to_the_pixels_of_the_original() -> None:
    maps = heads()
    for found, half_scale in zip(decoded(maps, 0.5), decoded(maps, 0.5, scale=2.0), strict=True):
        np.testing.assert_allclose(half_scale.boxes, found.boxes / 2, rtol=1e-5)
        np.testing.assert_allclose(half_scale.landmarks, found.landmarks / 2, rtol=1e-5)


def test_a_batch_of_heads_equals_each_alone() -> None:
    maps = heads(3)
    together = decoded(maps, 0.4)
    for image in range(3):
        heat, size, offset, points = (each[image : image + 1] for each in maps)
        alone = decoded((heat, size, offset, points), 0.4)[0]
        np.testing.assert_array_equal(together[image].boxes, alone.boxes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_results_are_float32(dtype: torch.dtype) -> None:
    heat, size, offset, points = (each.to(dtype) for each in heads())
    found = decoded((heat, size, offset, points), 0.5)[0]
    assert {found.boxes.dtype, found.scores.dtype, found.landmarks.dtype} == {np.dtype(np.float32)}


def test_a_hostile_map_neither_overflows_nor_takes_minutes() -> None:
    heat, size = torch.ones(1, 1, 400, 400), torch.full((1, 2, 400, 400), 900.0)
    found = decode_heads(heat, size, torch.zeros(1, 2, 400, 400), torch.zeros(1, 10, 400, 400), 0.5)[0]
    assert np.isfinite(found.boxes).all()
    found = decode_heads(heat, size * 0 - 3, torch.zeros(1, 2, 400, 400), torch.zeros(1, 10, 400, 400), 0.5)[0]
    assert len(found) <= boxes.MOST_CELLS


def test_a_pass_is_moved_into_the_image() -> None:
    half = Pass(0.5, None, 320, 240)
    moved = to_original(faces((10, 20, 30, 40, 0.9)), half, 640, 480)
    np.testing.assert_allclose(moved.boxes, [[20, 40, 60, 80]])
    np.testing.assert_allclose(moved.landmarks[0, 0], [20, 40])
    tile = Pass(1.0, (1000, 500, 2024, 1524), 1024, 1024)
    moved = to_original(faces((10, 20, 30, 40, 0.9)), tile, 4000, 3000)
    np.testing.assert_allclose(moved.boxes, [[1010, 520, 1030, 540]])


def test_a_face_too_large_for_its_pass_is_left_to_the_coarser_one() -> None:
    found = faces((0, 0, 400, 400, 0.9), (500, 500, 700, 700, 0.8))
    fine = Pass(1.0, None, 2048, 2048, largest=320)
    np.testing.assert_allclose(to_original(found, fine, 2048, 2048).scores, [0.8])
    assert len(to_original(found, Pass(1.0, None, 2048, 2048), 2048, 2048)) == 2


def test_a_face_cut_by_a_tile_is_left_to_its_neighbour() -> None:
    cut_left, cut_right, whole = (-5, 100, 40, 150, 0.9), (1000, 100, 1030, 150, 0.9), (500, 500, 550, 550, 0.9)
    inner = Pass(1.0, (900, 0, 1924, 1024), 1024, 1024)
    assert len(to_original(faces(cut_left, cut_right, whole), inner, 4000, 1024)) == 1
    first = Pass(1.0, (0, 0, 1024, 1024), 1024, 1024)  # its left edge is the image's: a face may be cut there
    assert len(to_original(faces(cut_left, cut_right, whole), first, 4000, 1024)) == 2
    last = Pass(1.0, (2976, 0, 4000, 1024), 1024, 1024)
    assert len(to_original(faces(cut_left, cut_right, whole), last, 4000, 1024)) == 2


def test_one_face_of_two_passes_is_one_with_the_better_score() -> None:
    coarse, fine = faces((100, 100, 200, 200, 0.7)), faces((105, 95, 205, 205, 0.8), (400, 100, 420, 120, 0.6))
    merged = merge_passes([coarse, fine])
    np.testing.assert_allclose(merged.scores, [0.8, 0.6])
    np.testing.assert_allclose(merged.boxes[0], [105, 95, 205, 205])


def test_a_part_of_a_face_found_in_another_pass_is_merged_into_the_face() -> None:
    whole, part = (100, 100, 300, 300, 0.9), (150, 110, 230, 200, 0.7)
    assert iou(list(whole[:4]), list(part[:4])) < boxes.OVERLAP
    np.testing.assert_allclose(merge_passes([faces(whole), faces(part)]).scores, [0.9])
    assert len(merge_passes([faces(whole, part)])) == 2, "within one pass its own NMS has decided"


def test_merging_nothing_is_nothing() -> None:
    assert len(merge_passes([faces(), faces()])) == 0
    np.testing.assert_allclose(merge_passes([faces(), faces((1, 2, 3, 4, 0.5))]).boxes, [[1, 2, 3, 4]])


def test_merged_boxes_never_overlap() -> None:
    chance = np.random.default_rng(1)

    def some(count: int) -> Detections:
        corner: NDArray[np.float64] = chance.uniform(0, 300, (count, 2))
        return faces(
            *np.hstack([corner, corner + chance.uniform(20, 90, (count, 2)), chance.uniform(0.5, 1, (count, 1))])
        )

    merged = merge_passes([some(60), some(60), some(60)])
    assert list(merged.scores) == sorted(merged.scores, reverse=True)
    for index in range(len(merged)):
        for other in range(index):
            assert iou(merged.boxes[index].tolist(), merged.boxes[other].tolist()) <= boxes.OVERLAP + 1e-6


def squares_found(*sides: float) -> Detections:
    boxes = np.array([(0, 0, side, side) for side in sides], np.float32).reshape(-1, 4)
    return Detections(boxes, np.ones(len(sides), np.float32), np.zeros((len(sides), 5, 2), np.float32))


def test_a_coarser_pass_is_added_where_a_face_is_too_large_or_none_was_found() -> None:
    passes = [(it, np.zeros((*it.shape, 3), np.uint8)) for it in plan_passes(2000, 1500)]
    for first, second, wanted in (
        (squares_found(100), squares_found(), False),
        (squares_found(), squares_found(30), False),
        (squares_found(400), squares_found(), True),
        (squares_found(), squares_found(), True),
    ):
        same, added = add_coarser_pass(passes, [first, second])
        assert len(added) == wanted
        assert same[0][0].largest == (LARGEST if wanted else math.inf)
        assert [it.scale for it, _ in added] == ([passes[0][0].scale / 2] if wanted else [])
    small = [(it, np.zeros((*it.shape, 3), np.uint8)) for it in plan_passes(200, 200)]
    assert add_coarser_pass(small, [squares_found()] * len(small)) == (small, [])
