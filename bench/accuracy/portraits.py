"""Compares rules for the similarity of a probe to several portraits: the best, the mean, or the mean of both.

    python -m bench.accuracy.portraits PHOTOS [--draws 40]

For people with ten images or more, up to nine are learned and one is the probe. The threshold of each rule is the
similarity that one stranger in a hundred reaches in the same draw, so that the rules are compared at the same FPIR.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.accuracy import lfw
from bench.accuracy.lfw import LfwFaces
from bench.accuracy.measures import quantile_reached
from bench.accuracy.models import add_arguments, load_chosen
from schemas.arrays import BoolArray, Float32Array

Rule = Callable[[Float32Array], Float32Array]  # similarities of probes to one person's faces, (n, faces) → (n,)
RULES: dict[str, Rule] = {
    "best": lambda similarities: similarities.max(1),
    "mean": lambda similarities: similarities.mean(1),
    "mean of both": lambda similarities: (similarities.max(1) + similarities.mean(1)) / 2,
}
PORTRAITS = (1, 3, 9)
SHARE_WITH_MANY = 0.28
MANY = (7, 9)  # number of portraits of people who have many
STRANGERS = 0.01


@dataclass(frozen=True)
class RuleAccuracy:
    """The accuracy of one rule on one draw. TPIR at an FPIR of one in a hundred."""

    rank_one: float
    tpir: float
    drawn_to_many: float  # share of strangers whose best match is a person with many portraits
    tpir_single: float  # of people with one portrait
    tpir_many: float


def score_people(probes: Float32Array, portraits: list[Float32Array], rule: Rule) -> Float32Array:
    """Similarities, (n, people). probes: (n, D). portraits: (k, D) of each person."""
    return np.stack([rule(probes @ some.T) for some in portraits], 1)


def measure_rule(scores: Float32Array, strangers: Float32Array, many: BoolArray) -> RuleAccuracy:
    """scores: (people, people), of each person's probe. strangers: (s, people). many: (people,), who has MANY."""
    right = scores.argmax(1) == np.arange(len(scores))
    named = right & (scores.max(1) >= quantile_reached(strangers.max(1), STRANGERS))
    return RuleAccuracy(
        rank_one=float(right.mean()),
        tpir=float(named.mean()),
        drawn_to_many=float(many[strangers.argmax(1)].mean()),
        tpir_single=float(named[~many].mean()) if (~many).any() else float("nan"),
        tpir_many=float(named[many].mean()) if many.any() else float("nan"),
    )


def compare_same_number(faces: LfwFaces, portraits: int, chance: np.random.Generator) -> dict[str, RuleAccuracy]:
    """The people with the most images, all with the same number of portraits; everybody else is a stranger."""
    rows = faces.rows_by_person()
    people = sorted(person for person, images in rows.items() if len(images) > max(PORTRAITS))
    shuffled = {person: chance.permutation(rows[person]) for person in people}
    learned = [faces.learned[shuffled[person][1 : 1 + portraits]] for person in people]
    probes = faces.probe[[int(shuffled[person][0]) for person in people]]
    outsiders = faces.probe[[int(chance.choice(images)) for person, images in rows.items() if person not in shuffled]]
    many = np.zeros(len(people), bool)
    return {
        name: measure_rule(score_people(probes, learned, rule), score_people(outsiders, learned, rule), many)
        for name, rule in RULES.items()
    }


def compare_uneven(faces: LfwFaces, chance: np.random.Generator) -> dict[str, RuleAccuracy]:
    """28 % of the people have 7 to 9 portraits, the others one."""
    rows = faces.rows_by_person()
    with_many = sorted(person for person, images in rows.items() if len(images) > max(MANY))
    with_one = sorted(person for person, images in rows.items() if 1 < len(images) <= max(MANY))
    with_one = [
        with_one[i]
        for i in chance.choice(len(with_one), round(len(with_many) * (1 / SHARE_WITH_MANY - 1)), replace=False)
    ]
    learned, probes = [], []
    for person in with_many + with_one:
        images = chance.permutation(rows[person])
        count = int(chance.integers(MANY[0], MANY[1] + 1)) if person in with_many else 1
        learned.append(faces.learned[images[1 : 1 + count]])
        probes.append(int(images[0]))
    chosen = {*with_many, *with_one}
    outsiders = faces.probe[[int(chance.choice(images)) for person, images in rows.items() if person not in chosen]]
    many = np.arange(len(learned)) < len(with_many)
    return {
        name: measure_rule(
            score_people(faces.probe[probes], learned, rule), score_people(outsiders, learned, rule), many
        )
        for name, rule in RULES.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    models = load_chosen(chosen)
    faces = lfw.read_faces(chosen.photos, lfw.list_images(chosen.photos), models)
    chance = np.random.default_rng(chosen.seed)

    print(f"{'portraits':28} {'rule':14} {'rank one':>8} {'TPIR':>6} {'one':>6} {'many':>6} {'drawn to many':>14}")
    settings = [(f"{n} each", [compare_same_number(faces, n, chance) for _ in range(chosen.draws)]) for n in PORTRAITS]
    settings.append(("28 % have 7–9, others 1", [compare_uneven(faces, chance) for _ in range(chosen.draws)]))
    for name, results in settings:
        for rule in RULES:
            columns = np.array([list(vars(each[rule]).values()) for each in results]).mean(0)
            rank_one, tpir, drawn, single, several = columns
            print(f"{name:28} {rule:14} {rank_one:8.3f} {tpir:6.3f} {single:6.3f} {several:6.3f} {drawn:14.2f}")
    print(f"TPIR at an FPIR of {STRANGERS:.0%}: overall, of people with one portrait, of those with many")
    print(f"mean of {chosen.draws} draws")
    return 0


if __name__ == "__main__":
    sys.exit(main())
