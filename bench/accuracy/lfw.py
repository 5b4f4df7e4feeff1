"""LFW for the accuracy scripts: the largest face of each image, with two vectors.

One vector is that of a learned face, from its decoded JPEG crop; the other is that of a probe, from the photo's pixels.
Both are cached under .cache/bench until the models or the code change.
"""

import ast
import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.speed.bare import ShippedNetworks, find, side
from facestream.progress import progress_bar
from processors import align, boxes, embed, networks, passes
from schemas.arrays import Float32Array
from weights.manifest import manifest

CACHE = Path(".cache/bench")
SAVE_EVERY = 100  # images, so that an interrupted run can continue
COLUMNS = {"score": (), "size": (), "count": (), "landmarks": (5, 2), "learned": (128,), "probe": (128,)}


@dataclass(frozen=True)
class LfwFaces:
    """The largest face of each of n images. score is NaN if there is none."""

    paths: list[str]  # PERSON/FILE.jpg
    score: Float32Array  # (n,), raw detection score
    size: Float32Array  # (n,), root of the box's area, pixels
    count: Float32Array  # (n,), faces found in the image
    landmarks: Float32Array  # (n, 5, 2), pixels
    learned: Float32Array  # (n, D), unit length, from the decoded crop
    probe: Float32Array  # (n, D), unit length, from the photo's pixels

    @property
    def found(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.score)

    def rows_by_person(self) -> dict[str, list[int]]:
        """The images of each person with a face in them."""
        rows: dict[str, list[int]] = {}
        for row, (path, found) in enumerate(zip(self.paths, self.found, strict=True)):
            if found:
                rows.setdefault(path.split("/")[0], []).append(row)
        return rows


def list_images(photos: Path) -> list[str]:
    """The images of LFW below `photos`: PERSON/FILE.jpg."""
    folder = photos / "lfw"
    return sorted(str(path.relative_to(folder)) for path in folder.glob("*/*.jpg"))


def read_faces(photos: Path, paths: Sequence[str], models: ShippedNetworks, *, enlarge: int = 1) -> LfwFaces:
    """Detects and embeds the images that are not in the cache. enlarge: the factor by which each side is enlarged
    before.
    """
    file = CACHE / f"lfw-x{enlarge}-{models.dtype}-{_version()}.npz"
    rows = _read(file)
    missing = [path for path in paths if path not in rows]
    if missing:
        with progress_bar(f"LFW ×{enlarge}, {models.dtype}", len(missing)) as done:
            for number, path in enumerate(missing, 1):
                rows[path] = _embed_image(photos / "lfw" / path, models, enlarge)
                if number % SAVE_EVERY == 0 or number == len(missing):
                    _write(file, rows)
                done(1)
    columns = {name: np.stack([rows[path][name] for path in paths]) for name in COLUMNS}
    return LfwFaces(list(paths), **columns)


def _embed_image(path: Path, models: ShippedNetworks, enlarge: int) -> dict[str, Float32Array]:
    with Image.open(path) as file:
        image = file.convert("RGB")
    if enlarge > 1:
        image = image.resize((image.width * enlarge, image.height * enlarge), Image.Resampling.BICUBIC)
    found = find(models.detector, image)
    row = {name: np.full(shape, np.nan, np.float32) for name, shape in COLUMNS.items()}
    row["count"] = np.float32(len(found)) + np.zeros((), np.float32)
    if len(found):
        sizes = np.array([side(box) for box in found.boxes], np.float32)
        largest = int(sizes.argmax())
        landmarks = found.landmarks[largest].round(2)  # as in the records
        pixels = np.asarray(image)
        crop = embed.jpeg_round_trip(embed.cut_face(pixels, landmarks))
        learned = align.chip_of_crop(crop.pixels).astype(np.float32)
        vectors = to_unit_length(models.embedder.embed([learned, align.cut_upright(pixels, landmarks)]))
        row |= {
            "score": found.scores[largest],
            "size": sizes[largest],
            "landmarks": landmarks,
            "learned": vectors[0],
            "probe": vectors[1],
        }
    return row


def to_unit_length(vectors: Float32Array) -> Float32Array:
    """(n, D) of unit length."""
    units: Float32Array = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return units


def _version() -> str:
    """A hash of the weights and of the code that the vectors depend on."""
    known = manifest()
    detector = known.detector(known.generation(known.default_generation).detector)
    parts = [*(model.sha256 for model in known.models.values()), str(detector.score_threshold)]
    parts += [ast.dump(ast.parse(inspect.getsource(module))) for module in (align, boxes, embed, networks, passes)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _read(file: Path) -> dict[str, dict[str, Float32Array]]:
    if not file.exists():
        return {}
    with np.load(file, allow_pickle=False) as stored:
        columns = {name: stored[name] for name in COLUMNS}
        return {str(path): {name: columns[name][i] for name in COLUMNS} for i, path in enumerate(stored["paths"])}


def _write(file: Path, rows: dict[str, dict[str, Float32Array]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {
        name: np.stack([row[name] for row in rows.values()]).astype(np.float32) for name in COLUMNS
    }
    part = file.with_suffix(".part.npz")
    np.savez(part, paths=np.array(list(rows)), **columns)
    part.replace(file)
