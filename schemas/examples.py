"""Examples of answers for the OpenAPI and AsyncAPI documents."""

from schemas.answers import (
    CandidatePerson,
    DetectedBody,
    DetectedPerson,
    ErasedBody,
    ErasedCounts,
    LearnedBody,
    LearnedPerson,
    Models,
    Problem,
    RecognizedBody,
    RecognizedPerson,
    problem,
)
from schemas.errors import ObjectMissing

IMAGE_ID, FACE_ID = "8b0ccb5c-5b0f-4d4c-9d3c-3f3a2f0a7f11", "9c0d7b0a-3a69-5f0a-9d07-5f2b1a0e6d55"
SEEN_FACE_ID = "22fa6d2d-f555-51e2-a022-cb8aa6f4dbe3"
DIRECTORY, PERSON = "acme", "Ann Lee"
BOX = [301, 62, 640, 401]
LANDMARKS = [(380.5, 190.25), (548.0, 188.5), (463.75, 262.0), (395.25, 325.5), (532.0, 324.0)]
MODELS = Models(detector="centerface", embedder="dlib-resnet29", generation="dlib-resnet29-mirror")

LEARNED = LearnedBody(
    status="OK",
    image_id=IMAGE_ID,
    url=f"/files/{IMAGE_ID}.jpg",
    filename="ann.jpg",
    directory=DIRECTORY,
    persons=[LearnedPerson(id=PERSON, box=BOX, score=0.999, detection_score=0.98, face_id=FACE_ID)],
    ignored=[],
    models=MODELS,
)
RECOGNIZED = RecognizedBody(
    status="OK",
    image_id=IMAGE_ID,
    url=f"/files/{IMAGE_ID}.jpg",
    filename="party.jpg",
    directory=DIRECTORY,
    persons=[
        RecognizedPerson(
            id=PERSON,
            box=BOX,
            score=0.999,
            detection_score=0.87,
            probability=0.9991,
            similarity=0.9636,
            threshold=0.911,
            candidates=[CandidatePerson(id=PERSON, similarity=0.9636, probability=0.9991, face_id=FACE_ID)],
            face_id=SEEN_FACE_ID,
        )
    ],
    models=MODELS,
)
DETECTED = DetectedBody(
    status="OK",
    image_id=IMAGE_ID,
    url=f"/files/{IMAGE_ID}.jpg",
    filename="party.jpg",
    directory=None,
    persons=[DetectedPerson(face_id=SEEN_FACE_ID, box=BOX, landmarks=LANDMARKS, score=0.999, detection_score=0.87)],
    models=Models(detector=MODELS.detector),
)
ERASED = ErasedBody(status="OK", directory=DIRECTORY, person=PERSON, erased=ErasedCounts(faces=2, images=2))
REFUSED: Problem = problem(
    ObjectMissing("there is no object 'incoming/acme/ann.jpg' in the bucket 'facestream'"), image_id=IMAGE_ID
)
