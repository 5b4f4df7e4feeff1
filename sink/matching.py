"""From similarities to an answer: names, thresholds, probabilities and candidates of the faces of one photo."""

from typing import Any

from schemas.records import EmbeddedFace, Options
from sink.gallery import Candidate, Floats, Gallery
from sink.thresholds import threshold
from weights.manifest import EmbedderModel


def matched(
    faces: list[EmbeddedFace], vectors: Floats, embedded: list[int], gallery: Gallery, model: EmbedderModel, options: Options
) -> list[dict[str, Any]]:
    """The `persons` of an answer, in the order of `faces`.

    vectors: (n, D), of the faces whose indices `embedded` holds; the others are too small to be told apart.
    """
    limit = threshold(model.threshold, gallery.people, options.strangers, gallery.best_of_others())
    candidates: dict[int, list[Candidate]] = {}
    if embedded:
        candidates = dict(zip(embedded, gallery.match(vectors, options.top), strict=True))
    persons = [_person(face, candidates.get(i), gallery.people, limit, model) for i, face in enumerate(faces)]
    _mark_twice(persons)
    return persons


def _person(face: EmbeddedFace, found: list[Candidate] | None, people: int, limit: float, model: EmbedderModel) -> dict[str, Any]:
    best = found[0] if found else None
    shown, left = [], 1.0
    for candidate in found or ():
        # a face is one person's: what the better ones take is not left for the others
        probability = min(left, model.calibration.probability(candidate.similarity, people))
        left -= probability
        shown.append(
            {
                "id": candidate.person,
                "similarity": round(candidate.similarity, 4),
                "probability": round(probability, 4),
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
