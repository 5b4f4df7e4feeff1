"""Fits the probabilities of the default generation in weights/manifest.toml, and prints them.

    python -m bench.accuracy.calibrate PHOTOS

 `probability` is that the best match is that person. It is fitted on best scores in galleries of different sizes, drawn
from LFW, one portrait a person, with a prior that is stated: MATES of the probes are of enrolled people. Fitted on half
of the people it is checked on the other half; what is printed is fitted on all. The detector's scores are
bench/calibrate_scores.py's.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from bench.accuracy import lfw
from bench.accuracy.galleries import Best, Pool, halves
from bench.accuracy.lfw import Faces
from bench.accuracy.measures import Flags, FloatArray, calibration_error
from bench.accuracy.models import add_arguments, load_chosen
from bench.accuracy.naming import CALIBRATION, over_draws
from schemas.calibration import Calibration
from sink.evaluate.fitting import MATES, curve, weights
from weights.manifest import manifest

SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 350, 700)
PROBES = 40_000  # about so many mates for each size, over all draws
DRAWS = (20, 400)  # galleries of one size, at least and at most


def best_scores(faces: Faces, people: Sequence[str], size: int, seed: int) -> list[Best]:
    """Galleries of one size, drawn from `people`, with new images of everybody now and then."""
    chance = np.random.default_rng([seed, size])
    count = int(np.clip(PROBES / size, *DRAWS))
    found: list[Best] = []
    while len(found) < count:
        pool = Pool(faces, people, chance)
        found += [pool.gallery(size) for _ in range(max(1, count // 20) if size > 5 else 40)]
    return found


def pooled(found: Sequence[Best], mates: float) -> tuple[FloatArray, Flags, FloatArray]:
    """Best scores, which are right, and weights that give enrolled people the share `mates`. (n,) each."""
    enrolled = np.concatenate([each.mates for each in found])
    strangers = np.concatenate([each.strangers for each in found])
    right = np.concatenate([each.right for each in found])
    scores = np.concatenate([enrolled, strangers])
    truth = np.concatenate([right, np.zeros(len(strangers), bool)])
    return scores, truth, weights(len(enrolled), len(strangers), mates)


def fitted(faces: Faces, people: Sequence[str], sizes: Sequence[int], mates: float, seed: int) -> Calibration:
    midpoints, slopes = [], []
    for size in sizes:
        found = best_scores(faces, people, size, seed)
        midpoint, slope = curve(
            np.concatenate([it.mates for it in found]),
            np.concatenate([it.right for it in found]),
            np.concatenate([it.strangers for it in found]),
            mates,
        )
        midpoints.append(round(midpoint, 4))
        slopes.append(round(slope))
    return Calibration(people=list(sizes), midpoint=midpoints, slope=slopes)


def checked(calibration: Calibration, faces: Faces, people: Sequence[str], size: int, mates: float, seed: int) -> float:
    """The expected calibration error among `people`, with that share of enrolled people among the probes."""
    scores, truth, weight = pooled(best_scores(faces, people, size, seed), mates)
    probability = np.array([calibration.probability(float(score), size) for score in scores])
    return calibration_error(probability, truth, weight=weight)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument(
        "--mates", type=float, default=MATES, help=f"share of probes that are of enrolled people (default: {MATES})"
    )
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    models = load_chosen(chosen)
    known = manifest()
    generation = known.generation(known.default_generation)
    shipped = generation.calibration
    assert shipped is not None
    faces = lfw.faces(chosen.photos, lfw.images(chosen.photos), models)

    one, other = halves(faces, chosen.seed)
    sizes = [size for size in SIZES if size <= len(one) * 0.75]
    by_half = fitted(faces, one, sizes, chosen.mates, chosen.seed)
    print(
        f"expected calibration error on the half that was not fitted, mates {chosen.mates:.0%} of the probes, and other shares:"
    )
    print(
        f"{'people':>8} {'fitted half':>12} {'other half':>11} {'30 %':>6} {'50 %':>6} {'70 %':>6}   shipped, {chosen.mates:.0%}"
    )
    for size in sizes:
        figures = [
            checked(by_half, faces, one, size, chosen.mates, chosen.seed + 1),
            *(checked(by_half, faces, other, size, mates, chosen.seed + 1) for mates in (chosen.mates, 0.3, 0.5, 0.7)),
            checked(shipped, faces, other, size, chosen.mates, chosen.seed + 1),
        ]
        print(f"{size:8} {figures[0]:12.3f} {figures[1]:11.3f}" + "".join(f"{it:7.3f}" for it in figures[2:]))

    whole = fitted(faces, one + other, SIZES, chosen.mates, chosen.seed)
    errors = []
    for label, it in (("fitted on all", whole), ("fitted on half", by_half), ("shipped", shipped)):
        found = over_draws(faces, generation.model_copy(update={"calibration": it}), 30, chosen.seed)
        errors.append((label, [each.calibration for each in found]))
    print("\non the run of bench/naming.py, 200 people and 468 strangers, 30 draws:")
    for label, values in errors:
        good = np.mean(values) <= CALIBRATION
        print(
            f"  {label:16} mean {np.mean(values):.4f}, worst {max(values):.4f}   ≤ {CALIBRATION}{'' if good else '   MISSED'}"
        )
    print(f"\n# fitted by bench/calibrate.py: {chosen.mates:.0%} of the probes are of enrolled people, {models.dtype}")
    print(f"[generations.{generation.name}.calibration]\npeople = {whole.people}\nmidpoint = {whole.midpoint}")
    print(f"slope = {[int(slope) for slope in whole.slope]}")
    return 0 if np.mean(errors[0][1]) <= CALIBRATION else 1


if __name__ == "__main__":
    sys.exit(main())
