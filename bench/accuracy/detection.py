"""Measures the detector with the passes of processors/passes.py: on street photos, montages and enlarged portraits.

    python -m bench.accuracy.detection PHOTOS [--score .51] [--only street montage portrait] [--count 100]

PHOTOS has street/labels.json with the photos that it names, and lfw/NAME/NAME_0001.jpg. Exit code 1: a figure misses
its requirement.
"""

import argparse
import json
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torchvision.ops import box_iou

from bench.accuracy.measures import one_to_one
from bench.accuracy.models import LFW, STREET, add_arguments
from bench.speed.bare import find
from processors.boxes import Detections
from processors.networks import Detector
from processors.passes import Detail, plan_passes, render_pass
from weights.load import choose_device, choose_dtype, load_detector
from weights.manifest import manifest

MATCH = 0.35  # IoU
# Required recall by size, the root of the box's area in pixels.
STREET_RECALL = {(8, 16): 0.0, (16, 32): 0.82, (32, 64): 0.90, (64, 10_000): 0.96}
MONTAGE_RECALL = {48: 0.90, 64: 0.95, 120: 0.98}
PORTRAIT_RECALL = {2400: 0.99, 4000: 0.99}  # by pixels of the portrait's long side
UNMATCHED = 100  # boxes on 284 street photos, at most

Boxes = NDArray[np.float64]


@dataclass
class RequiredFigure:
    """A figure and its requirement."""

    label: str
    figure: float
    required: float
    at_most: bool = False

    @property
    def is_met(self) -> bool:
        return self.figure <= self.required if self.at_most else self.figure >= self.required


def sizes(boxes: Boxes) -> Boxes:
    """The roots of the areas. boxes: (N, 4), xyxy. Returns (N,)."""
    root: Boxes = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    return root


def match_boxes(found: Detections, truth: Boxes) -> set[int]:
    """The indices of the true boxes that were found: one-to-one at IoU ≥ MATCH, the best pair first."""
    overlap = box_iou(torch.from_numpy(found.boxes).double(), torch.from_numpy(truth)).numpy()  # (found, true)
    return {face for _, face in one_to_one(overlap, MATCH)}


def measure_street(detector: Detector, photos: Path, count: int | None, detail: Detail) -> list[RequiredFigure]:
    labels = sorted(json.loads((photos / "street" / "labels.json").read_text()).items())[:count]
    hits, unmatched = [], 0
    for name, label in labels:
        image = ImageOps.exif_transpose(Image.open(photos / "street" / name)).convert("RGB")
        truth = np.array([face["box_xyxy"] for face in label["faces"]], np.float64).reshape(-1, 4)
        found = find(detector, image, detail)
        faces = match_boxes(found, truth)
        unmatched += len(found) - len(faces)
        hits += [(size, index in faces) for index, size in enumerate(sizes(truth))]
    rows = []
    for (low, high), wanted in STREET_RECALL.items():
        hits_of_size = [hit for size, hit in hits if low <= size < high]
        rows.append(
            RequiredFigure(
                f"street: recall {low}–{high} px ({len(hits_of_size)})", float(np.mean(hits_of_size)), wanted
            )
        )
    return [
        *rows,
        RequiredFigure(
            f"street: unmatched boxes, {len(labels)} photos", unmatched, UNMATCHED * len(labels) / 284, at_most=True
        ),
    ]


def find_portraits(detector: Detector, photos: Path, seed: int) -> list[tuple[Image.Image, Boxes]]:
    """LFW portraits in random order, each with the box of its largest face, as found at the original size."""
    paths = sorted((photos / "lfw").glob("*/*.jpg"))
    random.Random(seed).shuffle(paths)
    chosen = []
    for path in paths:
        image = Image.open(path).convert("RGB")
        found = detector.detect([render_pass(image, plan_passes(*image.size)[0])])[0]
        if len(found):
            boxes = found.boxes.astype(np.float64)
            chosen.append((image, boxes[sizes(boxes).argmax()]))
        if len(chosen) == 200:
            break
    return chosen


def measure_montage(
    detector: Detector, faces: list[tuple[Image.Image, Boxes]], size: int, detail: Detail
) -> RequiredFigure:
    """Measures a montage of 4,000 × 3,000 pixels, full of faces whose boxes have `size` pixels a side."""
    sheet, cell = Image.new("RGB", (4000, 3000), (96, 96, 96)), int(size * 2.2)
    truth = []
    corners = [(x, y) for y in range(0, 3000 - cell + 1, cell) for x in range(0, 4000 - cell + 1, cell)]
    for index, (x, y) in enumerate(corners):
        image, box = faces[index % len(faces)]
        scale = size / float(sizes(box[None])[0])
        side, centre = cell / scale, (box[:2] + box[2:]) / 2
        area = (*(centre - side / 2), *(centre + side / 2))
        sheet.paste(image.transform((cell, cell), Image.Transform.EXTENT, area, Image.Resampling.BICUBIC), (x, y))
        corner = np.array([x, y, x, y])
        truth.append((box - np.tile(centre - side / 2, 2)) * scale + corner)
    found = match_boxes(find(detector, sheet, detail), np.array(truth))
    return RequiredFigure(
        f"montage 4000 × 3000: recall {size} px ({len(truth)})", len(found) / len(truth), MONTAGE_RECALL[size]
    )


def measure_enlarged(
    detector: Detector, faces: list[tuple[Image.Image, Boxes]], side: int, detail: Detail
) -> RequiredFigure:
    hits = 0
    for image, box in faces:
        scale = side / max(image.size)
        large = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        hits += len(match_boxes(find(detector, large, detail), (box * scale)[None]))
    return RequiredFigure(f"portraits of {side} px: found ({len(faces)})", hits / len(faces), PORTRAIT_RECALL[side])


def main() -> int:
    shipped = manifest().detector("centerface").score_threshold
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, f"{STREET}; and {LFW}")
    parser.add_argument("--detail", choices=["normal", "high"], default="normal")
    parser.add_argument("--score", type=float, default=shipped)
    parser.add_argument(
        "--only", nargs="*", choices=["street", "montage", "portrait"], default=["street", "montage", "portrait"]
    )
    parser.add_argument("--count", type=int, help="street photos and portraits, at most")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()

    device = choose_device(chosen.device)
    dtype = choose_dtype(device, chosen.dtype)
    detector = Detector(
        load_detector(chosen.weights, "centerface", device, dtype), device, dtype, score_threshold=chosen.score
    )
    start = time.perf_counter()
    rows: list[RequiredFigure] = []
    if "street" in chosen.only:
        rows += measure_street(detector, chosen.photos, chosen.count, chosen.detail)
    if {"montage", "portrait"} & set(chosen.only):
        faces = find_portraits(detector, chosen.photos, chosen.seed)
        if "montage" in chosen.only:
            rows += [measure_montage(detector, faces, size, chosen.detail) for size in MONTAGE_RECALL]
        if "portrait" in chosen.only:
            rows += [
                measure_enlarged(detector, faces[: chosen.count or 100], side, chosen.detail)
                for side in PORTRAIT_RECALL
            ]
    for row in rows:
        sign, verdict = "≤" if row.at_most else "≥", "" if row.is_met else "   MISSED"
        print(f"{row.label:45} {row.figure:8.3f}   {sign} {row.required:g}{verdict}")
    print(f"score > {chosen.score}, {dtype}, {device}, detail {chosen.detail}: {time.perf_counter() - start:.0f} s")
    return 0 if all(row.is_met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
