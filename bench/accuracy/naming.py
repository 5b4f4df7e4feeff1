"""Measures naming on LFW: 200 people are learned with one image and recognized with another one.

    python -m bench.accuracy.naming PHOTOS [--draws 100] [--pixels] [--enlarge 8] [--http | --url http://127.0.0.1:8080]

People with a single image are the strangers. Many random draws of people and images are made with the library. With
--http the first draw is also made through a service that is started for it, with --url through a running one. Exit code
1: a figure misses its requirement.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from bench.accuracy import lfw
from bench.accuracy.lfw import LfwFaces
from bench.accuracy.measures import spread
from bench.accuracy.models import add_arguments, load_chosen
from bench.accuracy.naming_http import run_trial_on_own_service, run_trial_over_http
from bench.accuracy.naming_trials import (
    NamingRates,
    answer_probes,
    draw_trial,
    gallery_of,
    naming_rates,
    run_trial,
    run_trials,
)
from bench.speed.bare import ShippedNetworks
from schemas.generation_records import Generation
from weights.manifest import manifest

RANK_ONE, TPIR, FPIR, CALIBRATION = 0.95, 0.75, 0.025, 0.05  # required
ENLARGED_LOSS = 0.005  # of rank one, allowed


def report(name: str, rates: list[NamingRates]) -> bool:
    """Prints a table. Returns whether the means meet the requirements."""
    wanted = {"rank_one": (RANK_ONE, 1), "tpir": (TPIR, 1), "fpir": (FPIR, -1), "calibration": (CALIBRATION, -1)}
    print(f"{name}: {len(rates)} draw{'s' * (len(rates) > 1)}, mean ± deviation (worst and best)")
    holds = True
    for key, (limit, sign) in wanted.items():
        values = [float(getattr(each, key)) for each in rates]
        good = (float(np.mean(values)) - limit) * sign >= 0
        holds &= good
        inside = np.mean([(value - limit) * sign >= 0 for value in values])
        verdict = "" if good else "   MISSED"
        print(f"  {key:12} {spread(values)}   {'≥' if sign > 0 else '≤'} {limit:g} in {inside:.0%} of draws{verdict}")
    print(f"  {'threshold':12} {spread([each.threshold for each in rates])}")
    return holds


def compare_enlarged(
    photos: Path, models: ShippedNetworks, faces: LfwFaces, generation: Generation, times: int, seed: int
) -> bool:
    """Compares the images of the first draw, enlarged, with the same images at their original size."""
    trial = draw_trial(faces, np.random.default_rng(seed))
    paths = [faces.paths[row] for row in trial.learned + trial.probes]
    results = {}
    for scale in (1, times):
        some = lfw.read_faces(photos, paths, models, enlarge=scale)
        missed = int((~some.found).sum())
        count = len(trial.people)
        gallery = gallery_of(trial.people, some.learned[:count], paths[:count])
        found = answer_probes(gallery, np.nan_to_num(some.probe[count:]), generation)
        results[scale] = naming_rates(trial.people, found, []).rank_one
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
        "--pixels", action="store_true", help="take learned faces out of the photos' pixels, not out of the kept crops"
    )
    parser.add_argument("--enlarge", type=int, metavar="N", help="also compare with the images enlarged N times")
    parser.add_argument("--http", action="store_true", help="the first draw through a service that is started for it")
    parser.add_argument("--url", help="the first draw through a service that runs, in a directory with a new name")
    chosen = parser.parse_args()

    models = load_chosen(chosen)
    known = manifest()
    generation = known.generation(known.default_generation)
    faces = lfw.read_faces(chosen.photos, lfw.list_images(chosen.photos), models)
    missed = [path for path, found in zip(faces.paths, faces.found, strict=True) if not found]
    print(f"{len(faces.paths):,} images, {models.dtype}; without a face: {', '.join(missed) or 'none'}")
    holds = not missed
    holds &= report("library", run_trials(faces, generation, chosen.draws, chosen.seed, pixels=chosen.pixels))
    if chosen.enlarge:
        print("enlarged:")
        holds &= compare_enlarged(chosen.photos, models, faces, generation, chosen.enlarge, chosen.seed)
    if chosen.http or chosen.url:
        trial = draw_trial(faces, np.random.default_rng(chosen.seed))
        if chosen.url:
            result = run_trial_over_http(chosen.url, chosen.photos / "lfw", faces.paths, trial)
        else:
            with tempfile.TemporaryDirectory() as folder:
                result = run_trial_on_own_service(
                    Path(folder), chosen.weights, models.dtype, chosen.photos / "lfw", faces.paths, trial
                )
        holds &= report("over HTTP, the first draw", [result])
        holds &= report("library, the same draw", [run_trial(faces, trial, generation)])
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
