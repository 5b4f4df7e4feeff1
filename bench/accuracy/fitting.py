"""Measures the threshold and the calibration that a replay fits.

    python -m bench.accuracy.fitting PHOTOS [--halves 3]

They are fitted, as a replay does, on half of the people of LFW with two portraits or more. They are checked in
galleries of the other half, together with those of weights/manifest.toml. Exit code 1: the mean false positive
identification rate is more than a hundredth too high, or probabilities are off by more than .05.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from bench.accuracy import lfw
from bench.accuracy.lfw import LfwFaces
from bench.accuracy.measures import calibration_error
from bench.accuracy.models import add_arguments, load_chosen
from schemas.calibration import Calibration, Threshold
from sink.evaluate.fitting import SIZES, fit_generation, probe_weights
from sink.evaluate.samples import GalleryScores, LabelledVectors, populations_of, score_galleries
from weights.manifest import manifest

STRANGERS, TOLERANCE, CALIBRATION = 0.01, 0.01, 0.05  # the chosen FPIR, and the allowed errors


def labelled_vectors(faces: LfwFaces, people: Sequence[str]) -> LabelledVectors:
    rows = faces.rows_by_person()
    chosen = [(person, row) for person in people for row in rows[person]]
    return [person for person, _ in chosen], faces.learned[[row for _, row in chosen]]


def measure_rates(threshold: Threshold, calibration: Calibration, found: GalleryScores) -> tuple[float, float, float]:
    """FPIR, TPIR and the expected calibration error."""
    limit = threshold.similarity_for(found.people, STRANGERS)
    similarity = np.concatenate([found.mated, found.strangers])
    truth = np.concatenate([found.mated_correct, np.zeros(len(found.strangers), bool)])
    probability = np.array([calibration.probability(float(each), found.people) for each in similarity])
    return (
        float((found.strangers >= limit).mean()),
        float((found.mated_correct & (found.mated >= limit)).mean()),
        calibration_error(probability, truth, weight=probe_weights(len(found.mated), len(found.strangers))),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--halves", type=int, default=3, help="how often the people are halved anew")
    chosen = parser.parse_args()
    models = load_chosen(chosen)
    faces = lfw.read_faces(chosen.photos, lfw.list_images(chosen.photos), models)
    return 0 if report(faces, chosen.halves) else 1


def report(faces: LfwFaces, halves: int) -> bool:
    shipped = manifest().generation(manifest().default_generation)
    assert shipped.threshold is not None
    assert shipped.calibration is not None
    people = sorted(person for person, rows in faces.rows_by_person().items() if len(rows) > 1)
    figures: dict[int, list[tuple[float, ...]]] = {}
    for seed in range(halves):
        chance = np.random.default_rng(seed)
        order = [people[i] for i in chance.permutation(len(people))]
        one, other = order[: len(order) // 2], order[len(order) // 2 :]
        fitted = fit_generation([labelled_vectors(faces, one)], seed)
        assert fitted.threshold is not None, fitted.reason
        assert fitted.calibration is not None, fitted.reason
        populations = populations_of([labelled_vectors(faces, other)], chance)
        for size in SIZES:
            if (found := score_galleries(populations, size, chance)) is not None:
                ours = measure_rates(fitted.threshold, fitted.calibration, found)
                theirs = measure_rates(shipped.threshold, shipped.calibration, found)
                limits = (
                    fitted.threshold.similarity_for(size, STRANGERS),
                    shipped.threshold.similarity_for(size, STRANGERS),
                )
                figures.setdefault(size, []).append((*ours, *theirs, *limits))
    print(f"fitted on half of {len(people)} people, checked on the other half, {halves} times: mean (worst)")
    print(f"{'people':>8} {'FPIR':>18} {'TPIR':>12} {'calibration error':>18} {'threshold':>10}   shipped")
    good = True
    for size, rows in figures.items():
        mean, worst = np.mean(rows, 0), np.max(rows, 0)
        good &= mean[0] <= STRANGERS + TOLERANCE and mean[2] <= CALIBRATION
        print(
            f"{size:8} {mean[0]:9.4f} ({worst[0]:.4f}) {mean[1]:12.3f} {mean[2]:9.4f} ({worst[2]:.4f}) {mean[6]:10.4f}"
            f"   {mean[3]:.4f} ({worst[3]:.4f}) {mean[4]:.3f} {mean[5]:.4f} ({worst[5]:.4f}) {mean[7]:.4f}"
        )
    return bool(good)


if __name__ == "__main__":
    sys.exit(main())
