"""Faces as boxes: decodes the detector's heads, and merges the faces of several passes over one image.

Boxes are xyxy in pixels. A pass is a resized or cut version of an image, see processors/passes.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from processors.models.centerface import STRIDE
from processors.nms import nms
from processors.passes import LARGEST, Pass, halve_pass

OVERLAP = 0.3  # IoU above which two boxes are one face; as in the reference implementation of CenterFace
CONTAINED = 0.7  # share of a box inside a box of another pass above which the two are one face
MOST_CELLS = 10_000  # cells of one image that become boxes: NMS is quadratic, and a hostile image must not take minutes
LARGEST_LOGARITHM = 7.0  # of the size head, 4,386 pixels: keeps a degenerate map from overflowing


@dataclass(frozen=True)
class Detections:
    """The faces of one image or pass, best first."""

    boxes: NDArray[np.float32]  # (N, 4), xyxy, pixels
    scores: NDArray[np.float32]  # (N,), raw detection scores, 0..1
    landmarks: NDArray[np.float32]  # (N, 5, 2): eyes, nose tip, mouth corners; x, y, pixels

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, index: NDArray[np.intp] | NDArray[np.bool_] | np.bool_) -> "Detections":
        return Detections(self.boxes[index], self.scores[index], self.landmarks[index])

    def to_frame(self, scale: tuple[float, float], origin: tuple[float, float]) -> "Detections":
        """The same detections in another coordinate frame: position * scale + origin, each (x, y)."""
        factor, offset = np.array(scale, np.float32), np.array(origin, np.float32)
        boxes = self.boxes.reshape(-1, 2, 2) * factor + offset
        return Detections(boxes.reshape(-1, 4), self.scores, self.landmarks * factor + offset)


def decode_heads(
    heat: Tensor, size: Tensor, offset: Tensor, points: Tensor, score_threshold: float, scale: float = 1.0
) -> list[Detections]:
    """Boxes and landmarks from CenterFace's heads (arXiv 1911.03599, section 3), after NMS.

    heat: (B, 1, h, w). size, offset: (B, 2, h, w), the logarithm in cells and the shift in cells, y before x. points:
    (B, 10, h, w), y before x, in box heights and widths from the top left. scale: pixels of the batch per pixel of the
    result. Returns the faces of each image.
    """
    found = []
    cells_per_row = heat.shape[-1]
    for scores, sizes, offsets, pairs in zip(
        heat.flatten(1), size.flatten(2), offset.flatten(2), points.flatten(2), strict=True
    ):
        cells = torch.where(scores > score_threshold)[0]  # (N,)
        if len(cells) > MOST_CELLS:
            cells = cells[scores[cells].topk(MOST_CELLS).indices]
        rows, columns = cells // cells_per_row, cells % cells_per_row
        height, width = sizes[:, cells].float().clamp(max=LARGEST_LOGARITHM).exp() * STRIDE  # (N,) each
        y_shift, x_shift = offsets[:, cells].float()
        top = (rows + y_shift + 0.5) * STRIDE - height / 2
        left = (columns + x_shift + 0.5) * STRIDE - width / 2
        boxes = torch.stack([left, top, left + width, top + height], 1)  # (N, 4)
        y, x = pairs[:, cells].float().view(5, 2, -1).unbind(1)  # (5, N) each
        landmarks = torch.stack([x * width + left, y * height + top], 2).transpose(0, 1)  # (N, 5, 2)

        chosen = scores[cells].float()
        keep = nms(boxes, chosen, OVERLAP)
        found.append(
            Detections(
                (boxes[keep] / scale).cpu().numpy(),
                chosen[keep].cpu().numpy(),
                (landmarks[keep] / scale).cpu().numpy(),
            )
        )
    return found


def index_of_closest(found: Detections, box: Sequence[int]) -> int | None:
    """The index of the face at `box`, xyxy in the same pixels; None if there is none."""
    if not len(found):
        return None
    boxes = np.concatenate([found.boxes, np.array([box], np.float32)])  # (N + 1, 4)
    areas = _areas(boxes)
    shared = _intersections(boxes[-1], boxes[:-1])  # (N,)
    overlaps = shared / (areas[:-1] + areas[-1] - shared)
    best = int(overlaps.argmax())
    return best if overlaps[best] > OVERLAP else None


RenderedPass = tuple[Pass, NDArray[np.uint8]]  # a pass and its padded picture


def add_coarser_pass(
    passes: Sequence[RenderedPass], found: Sequence[Detections]
) -> tuple[list[RenderedPass], list[RenderedPass]]:
    """Adds a pass if the coarsest is not coarse enough: it has a face that is too large, or no pass has a face.

    passes: the coarsest first. found: the faces of each, in its pixels. Returns the same passes, each with the largest
    size of face that it finds well, and the additional passes to run, none or one.
    """
    (coarsest, picture), *finer = passes
    largest = float(np.prod(found[0].boxes[:, 2:] - found[0].boxes[:, :2], axis=1).max(initial=0)) ** 0.5
    if max(coarsest.width, coarsest.height) <= LARGEST or (largest <= LARGEST and any(len(it) for it in found)):
        return list(passes), []
    return [(replace(coarsest, largest=LARGEST), picture), *finer], [halve_pass(coarsest, picture)]


def to_original(found: Detections, image_pass: Pass, width: int, height: int) -> Detections:
    """The faces of a pass over an image of width × height pixels, in the image's pixels.

    Faces that other passes find better are left out: those that are too large for the pass and, in a tile, those that
    are cut by an edge inside the image, because the neighbouring tile contains them completely.
    """
    left, top, right, bottom = image_pass.tile or (0, 0, width, height)
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    found = found.select(np.prod(sides, axis=1) <= image_pass.largest**2)
    moved = found.to_frame(((right - left) / image_pass.width, (bottom - top) / image_pass.height), (left, top))
    low = [left if left > 0 else -np.inf, top if top > 0 else -np.inf]
    high = [right if right < width else np.inf, bottom if bottom < height else np.inf]
    return moved.select((moved.boxes[:, :2] >= low).all(1) & (moved.boxes[:, 2:] <= high).all(1))


def merge_passes(passes: Sequence[Detections]) -> Detections:
    """Merges the faces of an image's passes, all in the image's pixels. Of several boxes of a face, the one with the
    best score is kept.

    Boxes of two passes are also one face if one is mostly inside the other: a coarse pass finds the whole of a large
    face, a fine pass or a tile only a part. Boxes of the same pass are not merged: NMS has done that.
    """
    boxes = np.concatenate([each.boxes for each in passes])  # (N, 4)
    unmerged = Detections(
        boxes, np.concatenate([each.scores for each in passes]), np.concatenate([each.landmarks for each in passes])
    )
    origin = np.concatenate([np.full(len(each), index) for index, each in enumerate(passes)])  # (N,)
    areas = _areas(boxes)

    left = np.argsort(-unmerged.scores, kind="stable")
    keep = []
    while len(left):
        best, left = left[0], left[1:]
        keep.append(best)
        shared = _intersections(boxes[best], boxes[left])
        same = shared > OVERLAP * (areas[best] + areas[left] - shared)
        same |= (origin[best] != origin[left]) & (shared > CONTAINED * np.minimum(areas[best], areas[left]))
        left = left[~same]
    return unmerged.select(np.array(keep, np.intp))


def _intersections(box: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The areas, (N,), that a box, (4,), shares with each of `boxes`, (N, 4)."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])  # (N, 2)
    areas: NDArray[np.float32] = np.prod(sides.clip(0), axis=1)
    return areas


def _areas(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) of (N, 4)."""
    areas: NDArray[np.float32] = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return areas
