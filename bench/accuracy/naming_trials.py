"""Trials of naming on LFW: in each, some people are enrolled with one image and matched with another one."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backends.vectors import FaceBlock
from bench.accuracy.lfw import LfwFaces
from bench.accuracy.measures import calibration_error
from schemas.answers import RecognizedPerson
from schemas.arrays import Float32Array
from schemas.faces import EmbeddedFace
from schemas.generation_records import Generation
from schemas.options import Options
from sink.match.gallery import Gallery
from sink.match.matching import Photo, match_photos

PEOPLE = 200


@dataclass(frozen=True)
class NamingTrial:
    """One random choice. The images are rows of Faces."""

    people: list[str]
    learned: list[int]  # the enrolled image of each person
    probes: list[int]  # another image of each
    strangers: list[int]  # images of people who are not enrolled


@dataclass(frozen=True)
class NamingRates:
    """The accuracy of one trial."""

    rank_one: float  # share of the people whose best candidate is right
    tpir: float  # true positive identification rate: the share of the people who get their own name
    fpir: float  # false positive identification rate: the share of strangers that get a name
    calibration: float  # expected calibration error of `probability`, over all probes
    threshold: float


def draw_trial(faces: LfwFaces, chance: np.random.Generator, people: int = PEOPLE) -> NamingTrial:
    rows = faces.rows_by_person()
    several = sorted(person for person, images in rows.items() if len(images) > 1)
    chosen = [several[i] for i in chance.choice(len(several), people, replace=False)]
    pairs = [chance.choice(rows[person], 2, replace=False) for person in chosen]
    strangers = [images[0] for _, images in sorted(rows.items()) if len(images) == 1]
    return NamingTrial(chosen, [int(a) for a, _ in pairs], [int(b) for _, b in pairs], strangers)


def gallery_of(people: Sequence[str], vectors: Float32Array, keys: Sequence[str]) -> Gallery:
    """A gallery with one face each of `people`. vectors: (n, D). keys: (n,), from which the ids are made."""
    gallery = Gallery(vectors.shape[1])
    ids = [str(uuid.uuid5(uuid.NAMESPACE_URL, key)) for key in keys]
    gallery.load(FaceBlock(people, ids, vectors))
    return gallery


def answer_probes(
    gallery: Gallery, probes: Float32Array, generation: Generation, strangers: float = 0.01
) -> list[RecognizedPerson]:
    """The `persons` of the sink's answer, as if all probes were faces of one photo."""
    face_id = "00000000-0000-0000-0000-000000000000"
    points = [(0.0, 0.0)] * 5
    faces = [
        EmbeddedFace(face_id=face_id, box=[0, 0, 100, 100], landmarks=points, score=1, detection_score=0.9)
        for _ in probes
    ]
    photo = Photo(faces, probes, list(range(len(probes))), Options(strangers=strangers))
    return match_photos([photo], gallery, generation)[0]


def naming_rates(
    people: Sequence[str], mated: list[RecognizedPerson], strangers: list[RecognizedPerson]
) -> NamingRates:
    """mated: the answers for the probes of `people`, in their order."""
    right = [answer.candidates[0].id == person for answer, person in zip(mated, people, strict=True)]
    named = [answer.id == person for answer, person in zip(mated, people, strict=True)]
    everybody = [*mated, *strangers]
    probability = np.array([answer.candidates[0].probability for answer in everybody], np.float64)
    truth = np.array([*right, *[False] * len(strangers)])
    return NamingRates(
        rank_one=float(np.mean(right)),
        tpir=float(np.mean(named)),
        fpir=float(np.mean([answer.id is not None for answer in strangers])) if strangers else float("nan"),
        calibration=calibration_error(probability, truth),
        threshold=mated[0].threshold,
    )


def run_trial(faces: LfwFaces, trial: NamingTrial, generation: Generation, *, pixels: bool = False) -> NamingRates:
    """Runs a trial with the library. pixels: take learned faces from the photo's pixels, not from the stored crop."""
    vectors = (faces.probe if pixels else faces.learned)[trial.learned]
    gallery = gallery_of(trial.people, vectors, [faces.paths[row] for row in trial.learned])
    found = answer_probes(gallery, faces.probe[trial.probes + trial.strangers], generation)
    return naming_rates(trial.people, found[: len(trial.people)], found[len(trial.people) :])


def run_trials(
    faces: LfwFaces, generation: Generation, trials: int, seed: int, *, pixels: bool = False
) -> list[NamingRates]:
    chance = np.random.default_rng(seed)
    return [run_trial(faces, draw_trial(faces, chance), generation, pixels=pixels) for _ in range(trials)]
