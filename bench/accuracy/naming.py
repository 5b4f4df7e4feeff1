"""Naming on LFW: 200 people with one image each learned, another image of each recognized, who has a single image is a
stranger.

    python -m bench.accuracy.naming PHOTOS [--draws 100] [--pixels] [--enlarge 8] [--http | --url http://127.0.0.1:8080]

PHOTOS holds lfw/, a folder a person. Through the library over many random draws of people and images; with --http once
through a service of its own, with --url through one that runs. Ends with 1 where a figure misses its requirement.
"""

import argparse
import sys
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends.vectors import FaceBlock
from bench.accuracy import lfw
from bench.accuracy.lfw import Faces
from bench.accuracy.measures import calibration_error, spread
from bench.accuracy.models import add_arguments, load_chosen
from schemas.answers import RecognizedPerson
from schemas.arrays import Float32Array
from schemas.faces import EmbeddedFace
from schemas.generation_records import Generation
from schemas.records import Options
from sink.match.gallery import Gallery
from sink.match.matching import Photo, matched
from weights.manifest import manifest

PEOPLE = 200
RANK_ONE, TPIR, FPIR, CALIBRATION = 0.95, 0.75, 0.025, 0.05  # what is wanted
ENLARGED_LOSS = 0.005


@dataclass(frozen=True)
class Draw:
    """Rows of Faces: one image of each person is learned, another one recognized; strangers are not in the gallery."""

    people: list[str]
    learned: list[int]
    probes: list[int]
    strangers: list[int]


@dataclass(frozen=True)
class Figures:
    rank_one: float  # share of the people whose best candidate is right
    tpir: float  # share of the people who get their own name
    fpir: float  # share of strangers who get a name
    calibration: float  # expected calibration error of `probability`, over all probes
    threshold: float


def draw(faces: Faces, chance: np.random.Generator, people: int = PEOPLE) -> Draw:
    rows = faces.rows_by_person()
    several = sorted(person for person, images in rows.items() if len(images) > 1)
    chosen = [several[i] for i in chance.choice(len(several), people, replace=False)]
    pairs = [chance.choice(rows[person], 2, replace=False) for person in chosen]
    strangers = [images[0] for _, images in sorted(rows.items()) if len(images) == 1]
    return Draw(chosen, [int(a) for a, _ in pairs], [int(b) for _, b in pairs], strangers)


def gallery_of(people: Sequence[str], vectors: Float32Array, keys: Sequence[str]) -> Gallery:
    """vectors: (n, D), one a face. keys: of each face, for its id."""
    gallery = Gallery(vectors.shape[1])
    ids = [str(uuid.uuid5(uuid.NAMESPACE_URL, key)) for key in keys]
    gallery.load(FaceBlock(people, ids, vectors))
    return gallery


def answers(
    gallery: Gallery, probes: Float32Array, generation: Generation, strangers: float = 0.01
) -> list[RecognizedPerson]:
    """The `persons` of the sink, as if all probes were faces of one photo."""
    none = "00000000-0000-0000-0000-000000000000"
    points = [(0.0, 0.0)] * 5
    faces = [
        EmbeddedFace(face_id=none, box=[0, 0, 100, 100], landmarks=points, score=1, detection_score=0.9) for _ in probes
    ]
    return matched([Photo(faces, probes, list(range(len(probes))), Options(strangers=strangers))], gallery, generation)[
        0
    ]


def figures(people: Sequence[str], mates: list[RecognizedPerson], strangers: list[RecognizedPerson]) -> Figures:
    """mates: the answers for the probes of `people`, in their order."""
    right = [answer.candidates[0].id == person for answer, person in zip(mates, people, strict=True)]
    named = [answer.id == person for answer, person in zip(mates, people, strict=True)]
    everybody = [*mates, *strangers]
    probability = np.array([answer.candidates[0].probability for answer in everybody], np.float64)
    truth = np.array([*right, *[False] * len(strangers)])
    return Figures(
        rank_one=float(np.mean(right)),
        tpir=float(np.mean(named)),
        fpir=float(np.mean([answer.id is not None for answer in strangers])) if strangers else float("nan"),
        calibration=calibration_error(probability, truth),
        threshold=mates[0].threshold,
    )


def measured(faces: Faces, one: Draw, generation: Generation, *, pixels: bool = False) -> Figures:
    """pixels: learned faces out of the photo's pixels, not out of the crop that is kept."""
    vectors = (faces.probe if pixels else faces.learned)[one.learned]
    gallery = gallery_of(one.people, vectors, [faces.paths[row] for row in one.learned])
    found = answers(gallery, faces.probe[one.probes + one.strangers], generation)
    return figures(one.people, found[: len(one.people)], found[len(one.people) :])


def over_draws(faces: Faces, generation: Generation, draws: int, seed: int, *, pixels: bool = False) -> list[Figures]:
    chance = np.random.default_rng(seed)
    return [measured(faces, draw(faces, chance), generation, pixels=pixels) for _ in range(draws)]


def report(name: str, all_figures: list[Figures]) -> bool:
    """Prints a table; whether the means hold what is wanted."""
    wanted = {"rank_one": (RANK_ONE, 1), "tpir": (TPIR, 1), "fpir": (FPIR, -1), "calibration": (CALIBRATION, -1)}
    print(f"{name}: {len(all_figures)} draw{'s' * (len(all_figures) > 1)}, mean ± deviation (worst and best)")
    holds = True
    for key, (limit, sign) in wanted.items():
        values = [float(getattr(each, key)) for each in all_figures]
        good = (float(np.mean(values)) - limit) * sign >= 0
        holds &= good
        inside = np.mean([(value - limit) * sign >= 0 for value in values])
        verdict = "" if good else "   MISSED"
        print(f"  {key:12} {spread(values)}   {'≥' if sign > 0 else '≤'} {limit:g} in {inside:.0%} of draws{verdict}")
    print(f"  {'threshold':12} {spread([each.threshold for each in all_figures])}")
    return holds


def enlarged(photos: Path, models: Any, faces: Faces, generation: Generation, times: int, seed: int) -> bool:
    """The people and images of the first draw, enlarged, against the same at their own size."""
    one = draw(faces, np.random.default_rng(seed))
    paths = [faces.paths[row] for row in one.learned + one.probes]
    results = {}
    for scale in (1, times):
        some = lfw.faces(photos, paths, models, enlarge=scale)
        missed = int((~some.found).sum())
        count = len(one.people)
        gallery = gallery_of(one.people, some.learned[:count], paths[:count])
        found = answers(gallery, np.nan_to_num(some.probe[count:]), generation)
        results[scale] = figures(one.people, found, []).rank_one
        print(f"  ×{scale}: {missed} of {len(paths)} without a face, rank one {results[scale]:.4f}")
    loss = results[1] - results[times]
    holds = loss <= ENLARGED_LOSS + 1e-9
    print(f"  loss {loss:+.4f}, at most {ENLARGED_LOSS}{'' if holds else '   MISSED'}")
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--pixels", action="store_true", help="learned faces out of the photos' pixels, not out of their crops"
    )
    parser.add_argument("--enlarge", type=int, metavar="N", help="also compare with the images enlarged N times")
    parser.add_argument("--http", action="store_true", help="the first draw through a service that is started for it")
    parser.add_argument(
        "--url", help="the first draw through a service that runs; its directories get names that nobody uses"
    )
    chosen = parser.parse_args()

    models = load_chosen(chosen)
    known = manifest()
    generation = known.generation(known.default_generation)
    faces = lfw.faces(chosen.photos, lfw.images(chosen.photos), models)
    missed = [path for path, found in zip(faces.paths, faces.found, strict=True) if not found]
    print(f"{len(faces.paths):,} images, {models.dtype}; without a face: {', '.join(missed) or 'none'}")
    holds = not missed
    holds &= report("library", over_draws(faces, generation, chosen.draws, chosen.seed, pixels=chosen.pixels))
    if chosen.enlarge:
        print("enlarged:")
        holds &= enlarged(chosen.photos, models, faces, generation, chosen.enlarge, chosen.seed)
    if chosen.http or chosen.url:
        from bench.accuracy.naming_http import through, through_own

        one = draw(faces, np.random.default_rng(chosen.seed))
        if chosen.url:
            result = through(chosen.url, chosen.photos / "lfw", faces.paths, one)
        else:
            with tempfile.TemporaryDirectory() as folder:
                result = through_own(
                    Path(folder), chosen.weights, models.dtype, chosen.photos / "lfw", faces.paths, one
                )
        holds &= report("over HTTP, the first draw", [result])
        holds &= report("library, the same draw", [measured(faces, one, generation)])
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
