"""Compares ways to set a threshold for a false positive identification rate (FPIR).

    python -m bench.accuracy.thresholds PHOTOS [--strangers .01]

It uses random galleries of LFW of different sizes, and compares the manifest's table, the similarities of the gallery's
own people as strangers, the blend of both in sink/match/thresholds.py, and others. This is done once with people of all
kinds, and once with people who look alike (the nearest to a random person), whom no table can take into account.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence

import numpy as np

from bench.accuracy import lfw
from bench.accuracy.galleries import BestSimilarities, Pool
from bench.accuracy.lfw import LfwFaces
from bench.accuracy.models import add_arguments, load_chosen
from schemas.arrays import Float32Array
from schemas.calibration import Threshold
from sink.match import thresholds
from weights.manifest import manifest

SIZES = (10, 20, 50, 100, 200, 400)
ALIKE = 0.45  # share of all people who make up gallery and strangers: the nearest to a random one

ThresholdRule = Callable[[Threshold, BestSimilarities, float], float]


def shipped_threshold(table: Threshold, found: BestSimilarities, strangers: float) -> float:
    return thresholds.threshold(table, found.people, strangers, found.others)


def table_threshold(table: Threshold, found: BestSimilarities, strangers: float) -> float:
    return table.similarity_for(found.people, strangers)


def gallery_quantile(table: Threshold, found: BestSimilarities, strangers: float) -> float:
    return float(np.quantile(found.others, 1 - strangers))


def gallery_gumbel(table: Threshold, found: BestSimilarities, strangers: float) -> float:
    scale = float(np.std(found.others)) * math.sqrt(6) / math.pi
    return float(np.mean(found.others)) - np.euler_gamma * scale - scale * math.log(-math.log(1 - strangers))


def blend_rule(weight_of_table: float) -> ThresholdRule:
    """As in sink/match/thresholds.py: the table has the weight of this many enrolled people above the threshold."""

    def way(table: Threshold, found: BestSimilarities, strangers: float) -> float:
        above = strangers * len(found.others)
        weight = above / (above + weight_of_table)
        return weight * gallery_quantile(table, found, strangers) + (1 - weight) * table.similarity_for(
            found.people, strangers
        )

    return way


def shift_rule(share: float) -> ThresholdRule:
    """The gallery's own quantile at `share`, for which it has enough people, plus the table's difference from there."""

    def way(table: Threshold, found: BestSimilarities, strangers: float) -> float:
        return (
            float(np.quantile(found.others, 1 - share))
            + table.similarity_for(found.people, strangers)
            - table.similarity_for(found.people, share)
        )

    return way


def shift_and_blend_rule(share: float, weight_of_table: float) -> ThresholdRule:
    """As `shift_rule`, but nearer to the table the smaller the gallery is."""
    shift = shift_rule(share)

    def way(table: Threshold, found: BestSimilarities, strangers: float) -> float:
        weight = len(found.others) / (len(found.others) + weight_of_table)
        return weight * shift(table, found, strangers) + (1 - weight) * table.similarity_for(found.people, strangers)

    return way


RULES: dict[str, ThresholdRule] = {
    "shipped": shipped_threshold,
    "table": table_threshold,
    "own quantile": gallery_quantile,
    "own Gumbel": gallery_gumbel,
    "blend, table 1": blend_rule(1),
    "blend, table 2": blend_rule(2),
    "blend, table 8": blend_rule(8),
    "shifted from 1 in 10": shift_rule(0.1),
    "shifted from 1 in 5": shift_rule(0.2),
    "shifted 1 in 10, table 50": shift_and_blend_rule(0.1, 50),
    "shifted 1 in 10, table 100": shift_and_blend_rule(0.1, 100),
}


def draw_galleries(
    faces: LfwFaces, people: Sequence[str], size: int, draws: int, chance: np.random.Generator, *, alike: bool
) -> list[BestSimilarities]:
    found = []
    for _ in range(draws):
        pool = Pool(faces, people, chance)
        if not alike:
            found.append(pool.gallery(size))
            continue
        nearest = np.argsort(-pool.among_learned[chance.integers(len(pool))])[: round(len(pool) * ALIKE)]
        members = chance.permutation(nearest)
        found.append(pool.gallery_of(members[:size], members[size:]))
    return [each for each in found if len(each.mated)]


def measure_rates(
    table: Threshold, found: Sequence[BestSimilarities], rule: ThresholdRule, strangers: float
) -> tuple[Float32Array, Float32Array]:
    """FPIR and TPIR of each draw."""
    limits = [rule(table, each, strangers) for each in found]
    fpir = [float((each.strangers >= limit).mean()) for each, limit in zip(found, limits, strict=True)]
    tpir = [
        float((each.mated_correct & (each.mated >= limit)).mean()) for each, limit in zip(found, limits, strict=True)
    ]
    return np.array(fpir), np.array(tpir)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--strangers", type=float, default=0.01)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    models = load_chosen(chosen)
    known = manifest()
    table = known.generation(known.default_generation).threshold
    assert table is not None
    faces = lfw.read_faces(chosen.photos, lfw.list_images(chosen.photos), models)
    people = sorted(faces.rows_by_person())

    for alike in (False, True):
        kind = "people who look alike" if alike else "people of all kinds"
        print(f"\n{kind}, strangers {chosen.strangers:g}, {chosen.draws} draws")
        print("FPIR mean, and the draws' 10 % and 90 % quantiles; TPIR mean")
        sizes = [size for size in SIZES if not alike or size <= len(people) * ALIKE * 0.6]
        samples = {
            size: draw_galleries(
                faces, people, size, chosen.draws, np.random.default_rng([chosen.seed, size]), alike=alike
            )
            for size in sizes
        }
        print(f"{'way':28}" + "".join(f"{size:>12} people     " for size in sizes))
        for name, rule in RULES.items():
            cells = []
            for size in sizes:
                fpir, tpir = measure_rates(table, samples[size], rule, chosen.strangers)
                low, high = np.quantile(fpir, [0.1, 0.9])
                cells.append(f"{fpir.mean():.4f} {low:.3f}–{high:.3f} {tpir.mean():.3f}")
            print(f"{name:28}" + "  ".join(cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
