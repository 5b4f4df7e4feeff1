"""Measures how well the stored crop of a learned face replaces its photo.

    python -m bench.accuracy.fidelity PHOTOS [--faces 200]

It embeds a crop again, alone and in a batch, as a replay does; compares naming by crops with naming by the photos' own
pixels; and compares the chip for another model (ArcFace's 112 pixels) cut from the crop and from the photo. Exit code
1: a figure misses its requirement.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from bench.accuracy import lfw
from bench.accuracy.lfw import LfwFaces
from bench.accuracy.models import add_arguments, load_chosen
from bench.accuracy.naming_trials import run_trials
from bench.speed.bare import ShippedNetworks
from facestream.progress import progress_bar
from processors import align, embed
from schemas.arrays import Float32Array
from schemas.generation_records import Generation
from weights.manifest import manifest

COSINE, LOSS, GREY = 0.9999, 0.005, 3.0  # required
BATCH_SIZES = (1, 7, 32)  # chips in one forward


def cut_crops(photos: Path, faces: LfwFaces, rows: Sequence[int]) -> list[tuple[bytes, Float32Array]]:
    """The stored crop of each face and the landmarks in it."""
    found = []
    for row in rows:
        with Image.open(photos / "lfw" / faces.paths[row]) as image:
            cut = embed.cut_face(np.asarray(image.convert("RGB")), faces.landmarks[row])
            found.append((embed.encode_crop(cut.pixels), cut.landmarks))
    return found


def embed_again(models: ShippedNetworks, crops: Sequence[bytes]) -> list[tuple[str, float, float]]:
    """Lowest and mean cosine between a crop's vector computed alone, as in a learn, and in a batch."""
    chips = [align.chip_of_crop(embed.decode_crop(data)) for data in crops]
    live = lfw.to_unit_length(np.concatenate([models.embedder.embed([chip]) for chip in chips]))
    rows = []
    for size in BATCH_SIZES:
        replayed = np.concatenate([models.embedder.embed(chips[at : at + size]) for at in range(0, len(chips), size)])
        cosines = (live.astype(float) * lfw.to_unit_length(replayed)).sum(1)
        rows.append((f"cosine, embedded again {size} at a time", float(cosines.min()), float(cosines.mean())))
    return rows


def arcface_differences(
    photos: Path, faces: LfwFaces, rows: Sequence[int], kept: Sequence[tuple[bytes, Float32Array]], enlarge: int
) -> list[float]:
    """Mean absolute difference in grey levels of the chip from the crop and from the original, of each face."""
    differences = []
    for row, (data, landmarks) in zip(rows, kept, strict=True):
        with Image.open(photos / "lfw" / faces.paths[row]) as file:
            image = file.convert("RGB")
        image = image.resize((image.width * enlarge, image.height * enlarge), Image.Resampling.BICUBIC)
        points = faces.landmarks[row] * np.float32(enlarge)
        if enlarge > 1:
            cut = embed.cut_face(np.asarray(image), points)
            data, landmarks = embed.encode_crop(cut.pixels), cut.landmarks
        direct = align.warp_chip(np.asarray(image), points, "arcface-112")
        kept_chip = align.warp_chip(embed.decode_crop(data), landmarks.round(2), "arcface-112")
        differences.append(float(np.abs(direct - kept_chip).mean()))
    return differences


def naming_by_source(faces: LfwFaces, generation: Generation, draws: int, seed: int) -> dict[str, tuple[float, float]]:
    """Rank one, TPIR and FPIR: from uncompressed pixels, and from crops."""
    by_crops = run_trials(faces, generation, draws, seed)
    by_pixels = run_trials(faces, generation, draws, seed, pixels=True)
    return {
        name: (
            float(np.mean([getattr(it, name) for it in by_pixels])),
            float(np.mean([getattr(it, name) for it in by_crops])),
        )
        for name in ("rank_one", "tpir", "fpir")
    }


def verdict(holds: bool) -> str:
    return "" if holds else "   MISSED"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--faces", type=int, default=200, help="random faces to compare crops and chips of")
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    models = load_chosen(chosen)
    known = manifest()
    generation = known.generation(known.default_generation)
    faces = lfw.read_faces(chosen.photos, lfw.list_images(chosen.photos), models)
    rows_with_face = np.flatnonzero(faces.found)
    rows = (
        np.random.default_rng(chosen.seed)
        .choice(rows_with_face, min(chosen.faces, len(rows_with_face)), replace=False)
        .tolist()
    )

    with progress_bar("crops", len(rows)) as done:
        kept = cut_crops(chosen.photos, faces, rows)
        done(len(rows))
    size = np.mean([len(data) for data, _ in kept]) / 1024
    print(f"{len(rows)} faces of LFW, {models.dtype}; a crop has {size:.1f} KiB on average")
    holds = True
    for name, lowest, mean in embed_again(models, [data for data, _ in kept]):
        good = lowest >= COSINE
        holds &= good
        print(f"{name:48} lowest {lowest:.6f}, mean {mean:.6f}   ≥ {COSINE}{verdict(good)}")
    against = (faces.learned[rows_with_face] * faces.probe[rows_with_face]).sum(1)
    print(f"{'cosine, crop against uncompressed pixels':48} lowest {against.min():.6f}, mean {against.mean():.6f}")
    for name, (pixels, crop) in naming_by_source(faces, generation, chosen.draws, chosen.seed).items():
        loss = crop - pixels if name == "fpir" else pixels - crop
        good = loss <= LOSS
        holds &= good
        rates = f"pixels {pixels:.4f}, crops {crop:.4f}, loss {loss:+.4f}"
        print(f"{'naming: ' + name:48} {rates}   ≤ {LOSS}{verdict(good)}")
    for enlarge in (1, 4):
        differences = arcface_differences(chosen.photos, faces, rows, kept, enlarge)
        good = float(np.mean(differences)) <= GREY
        holds &= good
        name = "ArcFace chip, grey levels" + (f", photos enlarged {enlarge} times" if enlarge > 1 else "")
        levels = f"mean {np.mean(differences):.3f}, largest {max(differences):.3f}"
        print(f"{name:48} {levels}   ≤ {GREY:g}{verdict(good)}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
