"""Fits the probabilities of the default generation in weights/manifest.toml, and prints them.

    python -m bench.accuracy.calibrate PHOTOS

`probability` is the probability that the best match is the right person. It is fitted to the best similarities in
random galleries of LFW of different sizes, with one portrait per person. A share MATED_SHARE of the probes is of
enrolled people. A fit on half of the people is checked on the other half, and the fit on all is printed.
bench/accuracy/calibrate_scores.py fits the detector's scores.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from bench.accuracy import lfw
from bench.accuracy.galleries import BestSimilarities, Pool, split_people
from bench.accuracy.lfw import LfwFaces
from bench.accuracy.measures import calibration_error
from bench.accuracy.models import add_arguments, load_chosen
from bench.accuracy.naming import CALIBRATION
from bench.accuracy.naming_trials import run_trials
from schemas.arrays import BoolArray, FloatArray
from schemas.calibration import Calibration
from sink.evaluate.fitting import MATED_SHARE, fit_curve, probe_weights
from weights.manifest import manifest

SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 350, 700)
PROBES = 40_000  # approximate number of mated probes for each size, over all galleries
GALLERIES = (20, 400)  # number of galleries of one size, at least and at most


def score_galleries(faces: LfwFaces, people: Sequence[str], size: int, seed: int) -> list[BestSimilarities]:
    """Scores random galleries of one size. The images of the people change every few galleries."""
    chance = np.random.default_rng([seed, size])
    count = int(np.clip(PROBES / size, *GALLERIES))
    found: list[BestSimilarities] = []
    while len(found) < count:
        pool = Pool(faces, people, chance)
        found += [pool.gallery(size) for _ in range(max(1, count // 20) if size > 5 else 40)]
    return found


def pool_scores(found: Sequence[BestSimilarities], mated_share: float) -> tuple[FloatArray, BoolArray, FloatArray]:
    """The best similarities, whether each is right, and weights that give enrolled people the share `mated_share`. (n,)
    each.
    """
    enrolled = np.concatenate([each.mated for each in found])
    strangers = np.concatenate([each.strangers for each in found])
    right = np.concatenate([each.mated_correct for each in found])
    scores = np.concatenate([enrolled, strangers])
    truth = np.concatenate([right, np.zeros(len(strangers), bool)])
    return scores, truth, probe_weights(len(enrolled), len(strangers), mated_share)


def fit_calibration(
    faces: LfwFaces, people: Sequence[str], sizes: Sequence[int], mated_share: float, seed: int
) -> Calibration:
    midpoints, slopes = [], []
    for size in sizes:
        found = score_galleries(faces, people, size, seed)
        midpoint, slope = fit_curve(
            np.concatenate([it.mated for it in found]),
            np.concatenate([it.mated_correct for it in found]),
            np.concatenate([it.strangers for it in found]),
            mated_share,
        )
        midpoints.append(round(midpoint, 4))
        slopes.append(round(slope))
    return Calibration(people=list(sizes), midpoint=midpoints, slope=slopes)


def error_of(
    calibration: Calibration, faces: LfwFaces, people: Sequence[str], size: int, mated_share: float, seed: int
) -> float:
    """The expected calibration error among `people`, if a share `mated_share` of the probes is of enrolled people."""
    scores, truth, weight = pool_scores(score_galleries(faces, people, size, seed), mated_share)
    probability = np.array([calibration.probability(float(score), size) for score in scores])
    return calibration_error(probability, truth, weight=weight)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument(
        "--mates",
        type=float,
        default=MATED_SHARE,
        help=f"share of probes that are of enrolled people (default: {MATED_SHARE})",
    )
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    models = load_chosen(chosen)
    known = manifest()
    generation = known.generation(known.default_generation)
    shipped = generation.calibration
    assert shipped is not None
    faces = lfw.read_faces(chosen.photos, lfw.list_images(chosen.photos), models)

    one, other = split_people(faces, chosen.seed)
    sizes = [size for size in SIZES if size <= len(one) * 0.75]
    by_half = fit_calibration(faces, one, sizes, chosen.mates, chosen.seed)
    print(f"expected calibration error, {chosen.mates:.0%} of the probes are of enrolled people; then other shares:")
    shares = f"{'30 %':>6} {'50 %':>6} {'70 %':>6}"
    print(f"{'people':>8} {'fitted half':>12} {'other half':>11} {shares}   shipped, {chosen.mates:.0%}")
    for size in sizes:
        figures = [
            error_of(by_half, faces, one, size, chosen.mates, chosen.seed + 1),
            *(error_of(by_half, faces, other, size, share, chosen.seed + 1) for share in (chosen.mates, 0.3, 0.5, 0.7)),
            error_of(shipped, faces, other, size, chosen.mates, chosen.seed + 1),
        ]
        print(f"{size:8} {figures[0]:12.3f} {figures[1]:11.3f}" + "".join(f"{it:7.3f}" for it in figures[2:]))

    whole = fit_calibration(faces, one + other, SIZES, chosen.mates, chosen.seed)
    errors = []
    for label, it in (("fitted on all", whole), ("fitted on half", by_half), ("shipped", shipped)):
        found = run_trials(faces, generation.model_copy(update={"calibration": it}), 30, chosen.seed)
        errors.append((label, [each.calibration for each in found]))
    print("\nin 30 draws of bench/accuracy/naming.py, 200 people and all strangers:")
    for label, values in errors:
        good = np.mean(values) <= CALIBRATION
        verdict = "" if good else "   MISSED"
        print(f"  {label:16} mean {np.mean(values):.4f}, worst {max(values):.4f}   ≤ {CALIBRATION}{verdict}")
    print(f"\n# fitted by bench/accuracy/calibrate.py, {models.dtype}, share of mates {chosen.mates:.0%}")
    print(f"[generations.{generation.name}.calibration]\npeople = {whole.people}\nmidpoint = {whole.midpoint}")
    print(f"slope = {[int(slope) for slope in whole.slope]}")
    return 0 if np.mean(errors[0][1]) <= CALIBRATION else 1


if __name__ == "__main__":
    sys.exit(main())
