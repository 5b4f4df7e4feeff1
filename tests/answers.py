"""Complete bodies of answers, for tests that set only the members that matter to them."""

import uuid
from typing import Any

from schemas.answers import (
    CandidatePerson,
    DetectedBody,
    LearnedBody,
    LearnedPerson,
    Models,
    Problem,
    RecognizedBody,
    RecognizedPerson,
)

IMAGE_ID, FACE_ID = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
MODELS = Models(detector="centerface", embedder="dlib-resnet29", generation="dlib-resnet29-mirror")


def _image(image_id: str, members: dict[str, Any]) -> dict[str, Any]:
    common = {"status": "OK", "image_id": image_id, "url": f"/files/{image_id}.jpg", "filename": "photo.jpg"}
    return common | {"directory": "acme", "models": MODELS} | members


def learned(person: str = "Ann", *, image_id: str = IMAGE_ID, face_id: str = FACE_ID, **members: Any) -> LearnedBody:
    face = LearnedPerson(id=person, box=[1, 2, 3, 4], score=0.9, detection_score=0.8, face_id=face_id)
    return LearnedBody(**_image(image_id, {"persons": [face], "ignored": []} | members))


def candidate(person: str, *, similarity: float = 0.99, face_id: str = FACE_ID, **members: Any) -> CandidatePerson:
    return CandidatePerson(
        **({"id": person, "similarity": similarity, "probability": similarity, "face_id": face_id} | members)
    )


def recognized_person(person: str | None, *candidates: CandidatePerson, **members: Any) -> RecognizedPerson:
    """A face with the similarity and the probability of its first candidate."""
    best = candidates[0] if candidates else None
    return RecognizedPerson(
        **(
            {
                "id": person,
                "box": [1, 2, 3, 4],
                "score": 0.9,
                "detection_score": 0.8,
                "probability": best and best.probability,
                "similarity": best and best.similarity,
                "threshold": 0.9,
                "candidates": list(candidates),
                "face_id": FACE_ID,
            }
            | members
        )
    )


def recognized(*persons: RecognizedPerson, image_id: str = IMAGE_ID, **members: Any) -> RecognizedBody:
    return RecognizedBody(**_image(image_id, {"persons": list(persons)} | members))


def detected(*, image_id: str = IMAGE_ID, **members: Any) -> DetectedBody:
    return DetectedBody(**_image(image_id, {"persons": []} | members))


def refused(status: int, code: str = "some_code", detail: str = "some detail", **members: Any) -> Problem:
    return Problem(
        **({"type": "about:blank", "title": "title", "status": status, "code": code, "detail": detail} | members)
    )
