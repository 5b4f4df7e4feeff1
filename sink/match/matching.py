"""Matches the faces of photos: names, thresholds, probabilities and candidates for an answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.arrays import Float32Array
from schemas.generation_records import Generation
from schemas.records import EmbeddedFace, Options
from sink.match.gallery import Candidate, Gallery
from sink.match.thresholds import threshold


@dataclass(frozen=True, slots=True)
class Photo:
    """The faces of a photo. vectors: (n, D), of the faces whose indices are in `embedded`; the others are too small."""

    faces: Sequence[EmbeddedFace]
    vectors: Float32Array
    embedded: Sequence[int]
    options: Options


def matched(photos: Sequence[Photo], gallery: Gallery, generation: Generation) -> list[list[dict[str, Any]]]:
    """The `persons` of the answer to each photo, in the order of its faces. All faces are matched at once."""
    top = max(photo.options.top for photo in photos)
    found = iter(gallery.match(np.concatenate([photo.vectors for photo in photos]), top))
    return [
        _persons(photo, [next(found)[: photo.options.top] for _ in photo.embedded], gallery, generation)
        for photo in photos
    ]


def _persons(
    photo: Photo, found: list[list[Candidate]], gallery: Gallery, generation: Generation
) -> list[dict[str, Any]]:
    limit = threshold(generation.threshold, gallery.people, photo.options.strangers, gallery.stranger_similarities())
    candidates = dict(zip(photo.embedded, found, strict=True))
    persons = [
        _person(face, candidates.get(i), gallery.people, limit, generation) for i, face in enumerate(photo.faces)
    ]
    _mark_twice(persons)
    return persons


def _person(
    face: EmbeddedFace, found: list[Candidate] | None, people: int, limit: float, generation: Generation
) -> dict[str, Any]:
    best = found[0] if found else None
    shown, left = [], 1.0
    for candidate in found or ():
        probability = None
        if generation.calibration is not None:
            # a face is one person's: what the better ones take is not left for the others
            probability = min(left, generation.calibration.probability(candidate.similarity, people))
            left -= probability
            probability = round(probability, 4)
        shown.append(
            {
                "id": candidate.person,
                "similarity": round(candidate.similarity, 4),
                "probability": probability,
                "face_id": candidate.face_id,
            }
        )
    person: dict[str, Any] = {
        "id": best.person if best and max(best.similarity, -1.0) >= limit else None,  # rounding may leave less than -1
        "box": face.box,
        "score": face.score,
        "detection_score": face.detection_score,
        "probability": shown[0]["probability"] if shown else None,
        "similarity": shown[0]["similarity"] if shown else None,
        "threshold": round(limit, 4),
        "candidates": shown,
        "face_id": face.face_id,
    }
    if person["id"] is None:
        person["reason"] = "too-small" if found is None else "below-threshold" if best else "empty-directory"
    return person


def _mark_twice(persons: list[dict[str, Any]]) -> None:
    """One person twice in a photo: both stand, the weaker says which face matched better."""
    strongest: dict[str, dict[str, Any]] = {}
    named = [person for person in persons if person["id"] is not None]
    for person in sorted(named, key=lambda it: -float(it["similarity"])):
        first = strongest.setdefault(person["id"], person)
        if first is not person:
            person["also_matched"] = first["face_id"]
