"""Fits the detector's `calibration` in weights/manifest.toml, and prints it: raw score → share of boxes that are faces.

    python -m bench.accuracy.calibrate_scores PHOTOS [--sheet OUT.png]

PHOTOS has street/labels.json with the photos that it names, and lfw/NAME/NAME_0001.jpg. A box that matches no label is
often a face that was not labelled (in a crowd, turned away, on a poster). The share of such faces was judged by eye, on
the sheet that --sheet draws: FACES_AMONG_UNMATCHED below.
"""

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from torchvision.ops import box_iou

from bench.accuracy import lfw
from bench.accuracy.measures import calibration_error, isotonic, one_to_one
from bench.accuracy.models import LFW, STREET, add_arguments, load_chosen
from bench.speed.bare import find
from facestream.progress import progress_bar
from processors.networks import Detector
from schemas.arrays import BoolArray, FloatArray
from weights.manifest import ScoreCalibration, manifest

MATCH = 0.35  # IoU with a label, as in bench/accuracy/detection.py
LOWEST = 0.45
# Lower edge of a range of scores → share of its unmatched boxes that are faces. Judged by eye: 134 boxes of 284 street
# photos. Above the last edge all 30 were faces.
FACES_AMONG_UNMATCHED = {0.45: 0.5, 0.50: 0.63, 0.55: 0.80, 0.60: 0.90, 0.65: 1.0}
EDGES = (*FACES_AMONG_UNMATCHED, 1.0)
# Above the scores at which a wrong box was found, the log-odds rise half as steeply, up to MOST.
TAIL = (0.70, 0.75, 0.80, 0.85, 0.90)
MOST = 0.9999
SHEET_CELL, SHEET_COLUMNS = 160, 10

Box = tuple[float, str, FloatArray]  # score, photo, xyxy


def detect_street_boxes(detector: Detector, folder: Path) -> tuple[FloatArray, BoolArray, list[Box]]:
    """All boxes of the street photos: their scores, whether each matches a label, and the boxes that match none, best
    first.

    (n,), (n,), and a list.
    """
    labels = sorted(json.loads((folder / "labels.json").read_text()).items())
    scores: list[float] = []
    hits: list[bool] = []
    unmatched: list[Box] = []
    with progress_bar("street", len(labels)) as done:
        for name, label in labels:
            with Image.open(folder / name) as file:
                found = find(detector, ImageOps.exif_transpose(file).convert("RGB"))
            truth = np.array([face["box_xyxy"] for face in label["faces"]], np.float64).reshape(-1, 4)
            overlap = box_iou(torch.from_numpy(found.boxes).double(), torch.from_numpy(truth)).numpy()  # (found, true)
            matching = {box for box, _ in one_to_one(overlap, MATCH)}
            for i in range(len(found)):
                scores.append(float(found.scores[i]))
                hits.append(i in matching)
                if i not in matching:
                    unmatched.append((float(found.scores[i]), name, found.boxes[i]))
            done(1)
    return np.array(scores), np.array(hits), sorted(unmatched, key=lambda box: -box[0])


def face_probabilities(scores: FloatArray, hits: BoolArray) -> FloatArray:
    """The probability that each box is a face: 1 if it matches a label, else as judged by eye. (n,)."""
    lower = np.array(list(FACES_AMONG_UNMATCHED))
    share = np.array(list(FACES_AMONG_UNMATCHED.values()))
    by_eye = share[np.clip(np.searchsorted(lower, scores, side="right") - 1, 0, None)]
    likely: FloatArray = np.where(hits, 1.0, by_eye)
    return likely


def fit_scores(scores: FloatArray, likely: FloatArray) -> ScoreCalibration:
    """A monotone fit over the ranges in which wrong boxes were found, then the tail."""
    middles, shares, counts = [], [], []
    for low, high in list(pairwise(EDGES))[:-1]:
        inside = (scores >= low) & (scores < high)
        middles.append((low + high) / 2)
        shares.append(float(likely[inside].mean()))
        counts.append(int(inside.sum()))
    _, pooled = isotonic(np.repeat(middles, counts), np.repeat(shares, counts))
    levels = [float(pooled[sum(counts[:i])]) for i in range(len(counts))]
    odds = np.log(np.array(levels) / (1 - np.array(levels)))
    rise = (odds[-1] - odds[-2]) / (middles[-1] - middles[-2]) / 2
    tail = [min(MOST, 1 / (1 + float(np.exp(-(odds[-1] + rise * (score - middles[-1])))))) for score in TAIL]
    return ScoreCalibration(
        scores=[round(score, 3) for score in [*middles, *TAIL]],
        precision=[*(round(level, 3) for level in levels), *(round(level, 4) for level in tail)],
    )


def draw_sheet(boxes: list[Box], folder: Path, out: Path) -> None:
    """Draws the unmatched boxes with their surroundings, best first, to be judged by eye."""
    rows = -(-len(boxes) // SHEET_COLUMNS)
    picture = Image.new("RGB", (SHEET_COLUMNS * SHEET_CELL, rows * (SHEET_CELL + 14)))
    for i, (score, name, (left, top, right, bottom)) in enumerate(boxes):
        reach = max(right - left, bottom - top) * 1.1
        x, y = (left + right) / 2 - reach, (top + bottom) / 2 - reach
        with Image.open(folder / name) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
        area = (x, y, x + 2 * reach, y + 2 * reach)
        cell = image.transform((SHEET_CELL, SHEET_CELL), Image.Transform.EXTENT, area, Image.Resampling.BICUBIC)
        scale = SHEET_CELL / (2 * reach)
        outline = [(left - x) * scale, (top - y) * scale, (right - x) * scale, (bottom - y) * scale]
        ImageDraw.Draw(cell).rectangle(outline, outline="lime")
        corner = (i % SHEET_COLUMNS * SHEET_CELL, i // SHEET_COLUMNS * (SHEET_CELL + 14))
        picture.paste(cell, (corner[0], corner[1] + 14))
        ImageDraw.Draw(picture).text((corner[0] + 2, corner[1] + 1), f"{i} {score:.2f}", fill="white")
    picture.save(out)


def error_of(calibration: ScoreCalibration, scores: FloatArray, likely: FloatArray) -> float:
    """The expected calibration error; a box counts as a face with its probability."""
    stated = np.array([calibration.probability(float(score)) for score in scores])
    right = np.repeat([True, False], len(scores))
    return calibration_error(np.tile(stated, 2), right, weight=np.concatenate([likely, 1 - likely]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, f"{STREET}; and {LFW}")
    parser.add_argument("--sheet", type=Path, metavar="OUT.png", help="draw the boxes that match no label")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    models = load_chosen(chosen)
    known = manifest()
    name = known.generation(known.default_generation).detector
    shipped = known.detector(name)
    # before the score threshold is lowered, because the cached faces are for the shipped one
    portraits = lfw.read_faces(chosen.photos, lfw.list_images(chosen.photos), models)
    models.detector.score_threshold = LOWEST
    scores, hits, unmatched = detect_street_boxes(models.detector, chosen.photos / "street")
    if chosen.sheet:
        draw_sheet(unmatched, chosen.photos / "street", chosen.sheet)
    likely = face_probabilities(scores, hits)

    print(f"{'score':>11} {'boxes':>6} {'unmatched':>10} {'matched':>8} {'faces, by eye':>14} {'shipped says':>13}")
    for low, high in [(x / 100, x / 100 + 0.05) for x in range(45, 100, 5)]:
        inside = (scores >= low) & (scores < high)
        if inside.any():
            stated = np.mean([shipped.calibration.probability(float(score)) for score in scores[inside]])
            print(
                f"{low:.2f} – {high:.2f} {inside.sum():6} {(~hits[inside]).sum():10} {hits[inside].mean():8.3f} "
                f"{likely[inside].mean():14.3f} {stated:13.4f}"
            )
    low, *middle, high = np.nanquantile(portraits.score, [0, 0.01, 0.5, 0.99, 1])
    print(
        f"portraits (LFW, the largest face): lowest {low:.3f}, 1 % {middle[0]:.3f},"
        f" median {middle[1]:.3f}, highest {high:.3f}"
    )

    first = np.random.default_rng(chosen.seed).random(len(scores)) < 0.5
    half = fit_scores(scores[first], likely[first])
    whole = fit_scores(scores, likely)
    above = scores > shipped.score_threshold
    print(f"expected calibration error, boxes above {shipped.score_threshold}:")
    print(f"  fitted on a half, on the other: {error_of(half, scores[~first & above], likely[~first & above]):.4f}")
    print(f"  fitted on all: {error_of(whole, scores[above], likely[above]):.4f}")
    print(f"  shipped: {error_of(shipped.calibration, scores[above], likely[above]):.4f}")
    print(
        "a portrait's median says", [round(it.probability(float(middle[1])), 4) for it in (whole, shipped.calibration)]
    )
    print(f"\n# fitted by bench/accuracy/calibrate_scores.py, {models.dtype}")
    print(f"[detectors.{name}.calibration]\nscores = {whole.scores}\nprecision = {whole.precision}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
