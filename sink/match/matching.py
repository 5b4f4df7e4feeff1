"""Matches the faces of photos: names, thresholds, probabilities and candidates for an answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schemas.answers import CandidatePerson, RecognizedPerson
from schemas.arrays import Float32Array
from schemas.faces import EmbeddedFace
from schemas.generation_records import Generation
from schemas.options import Options
from sink.match.gallery import Candidate, Gallery
from sink.match.thresholds import threshold


@dataclass(frozen=True, slots=True)
class Photo:
    """The faces of a photo. vectors: (n, D), of the faces whose indices are in `embedded`; the others are too small."""

    faces: Sequence[EmbeddedFace]
    vectors: Float32Array
    embedded: Sequence[int]
    options: Options


def match_photos(photos: Sequence[Photo], gallery: Gallery, generation: Generation) -> list[list[RecognizedPerson]]:
    """The `persons` of the answer to each photo, in the order of its faces. All faces are matched at once."""
    top = max(photo.options.top for photo in photos)
    found = iter(gallery.match(np.concatenate([photo.vectors for photo in photos]), top))
    return [
        _persons_of_photo(photo, [next(found)[: photo.options.top] for _ in photo.embedded], gallery, generation)
        for photo in photos
    ]


def _persons_of_photo(
    photo: Photo, found: list[list[Candidate]], gallery: Gallery, generation: Generation
) -> list[RecognizedPerson]:
    limit = threshold(generation.threshold, gallery.people, photo.options.strangers, gallery.stranger_similarities())
    candidates = dict(zip(photo.embedded, found, strict=True))
    persons = [
        _person_of_face(face, candidates.get(i), gallery.people, limit, generation)
        for i, face in enumerate(photo.faces)
    ]
    return _mark_repeats(persons)


def _person_of_face(
    face: EmbeddedFace, found: list[Candidate] | None, people: int, limit: float, generation: Generation
) -> RecognizedPerson:
    best = found[0] if found else None
    candidates = _candidates(found or [], people, generation)
    person = RecognizedPerson(
        id=best.person if best and max(best.similarity, -1.0) >= limit else None,  # rounding may give less than -1
        box=face.box,
        score=face.score,
        detection_score=face.detection_score,
        probability=candidates[0].probability if candidates else None,
        similarity=candidates[0].similarity if candidates else None,
        threshold=round(limit, 4),
        candidates=candidates,
        face_id=face.face_id,
    )
    if person.id is not None:
        return person
    reason = "too-small" if found is None else "below-threshold" if best else "empty-directory"
    return person.model_copy(update={"reason": reason})


def _candidates(found: list[Candidate], people: int, generation: Generation) -> list[CandidatePerson]:
    candidates, left = [], 1.0
    for it in found:
        probability = None
        if generation.calibration is not None:
            # a face belongs to one person: a candidate gets at most what better ones leave of 1
            probability = min(left, generation.calibration.probability(it.similarity, people))
            left -= probability
            probability = round(probability, 4)
        candidates.append(
            CandidatePerson(
                id=it.person, similarity=round(it.similarity, 4), probability=probability, face_id=it.face_id
            )
        )
    return candidates


def _mark_repeats(persons: list[RecognizedPerson]) -> list[RecognizedPerson]:
    """If a person is in a photo twice, the face that matched worse refers to the one that matched better."""
    strongest: dict[str | None, RecognizedPerson] = {}
    for person in sorted(persons, key=lambda it: -(it.similarity or 0.0)):
        strongest.setdefault(person.id, person)
    return [
        person
        if person.id is None or strongest[person.id] is person
        else person.model_copy(update={"also_matched": strongest[person.id].face_id})
        for person in persons
    ]
