"""Finds the faces of a decoded image, in pixels of the upright original, and chooses the face to learn."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from processors.boxes import Detections, add_coarser_pass, merge_passes, to_original
from processors.decoding.pool import DecodedImage
from processors.inference import Inference
from schemas.errors import FaceTooSmall, NoFace, NotOneFace
from schemas.faces import Detection
from schemas.ids import probe_face_id
from schemas.options import Options
from schemas.records import ImageReceived
from weights.manifest import ShippedDetector

SMALLEST_LEARNED = 40  # pixels a side
IGNORED_BELOW = 1 / 3  # of the largest side: a face in the background of a portrait


async def find_faces(image: DecodedImage, detector: str, inference: Inference, since: float) -> Detections:
    """All faces of an image, best first, in pixels of the upright original. since: as in Inference.detect."""
    passes = image.passes
    found = await inference.detect(detector, [picture for _, picture in passes], since)
    passes, added = add_coarser_pass(passes, found)
    if added:
        found += await inference.detect(detector, [picture for _, picture in added], since)
    passes += added
    return merge_passes(
        [to_original(it, each, image.width, image.height) for (each, _), it in zip(passes, found, strict=True)]
    )


def detection_records(
    found: Detections, received: ImageReceived, image: DecodedImage, model: ShippedDetector
) -> list[Detection]:
    """The faces as records, best first, without those that the options exclude."""
    options = received.options
    faces: list[Detection] = []
    for box, score, landmarks in zip(found.boxes, found.scores, found.landmarks, strict=True):
        face = Detection(
            face_id=probe_face_id(received.image_id, len(faces)),
            box=_whole_pixels(box, image),
            landmarks=[(round(float(x), 2), round(float(y), 2)) for x, y in landmarks],
            score=round(model.calibration.probability(float(score)), 4),
            detection_score=round(float(score), 4),
        )
        if face.score >= options.min_score and face.side >= max(options.min_face, 1):
            faces.append(face)
    return faces[: options.limit]


def choose_face(
    faces: Sequence[Detection], options: Options, model: ShippedDetector
) -> tuple[Detection, list[Detection]]:
    """The face to learn, and the faces that are ignored. Raises NoFace, NotOneFace, FaceTooSmall."""
    if not faces:
        raise NoFace("no face was found: send a picture that shows the face from the front, at least 40 pixels wide")
    largest = max(faces, key=lambda face: face.side)
    if options.face == "largest":
        chosen = largest
    elif options.face is not None:
        chosen = _face_at(faces, options.face)
    else:
        chosen = _single_face(faces, largest, model)
    if chosen.side < SMALLEST_LEARNED and not options.force:
        raise FaceTooSmall(
            f"the face is {chosen.side:.0f} pixels a side, {SMALLEST_LEARNED} are needed to tell people apart: "
            "send a larger picture, or force=true",
            box=chosen.box,
        )
    return chosen, [face for face in faces if face is not chosen]


def _single_face(faces: Sequence[Detection], largest: Detection, model: ShippedDetector) -> Detection:
    candidates = [
        face
        for face in faces
        if face.side >= largest.side * IGNORED_BELOW and face.detection_score >= model.enrolment_score
    ]
    if len(candidates) == 1:
        return candidates[0]
    boxes = [{"box": face.box, "score": face.score} for face in faces]
    if not candidates:
        raise NoFace(
            "no face is clear enough to be learned: send a sharper picture, or choose one with face=largest",
            faces=boxes,
        )
    raise NotOneFace(
        f"{len(candidates)} faces were found: choose one with face=largest or face=x,y (a point inside it)", faces=boxes
    )


def _face_at(faces: Sequence[Detection], point: str) -> Detection:
    x, y = (float(part) for part in point.split(","))
    inside = [face for face in faces if face.box[0] <= x <= face.box[2] and face.box[1] <= y <= face.box[3]]
    if not inside:
        raise NotOneFace(f"no face is at {point}", faces=[{"box": face.box, "score": face.score} for face in faces])
    return min(inside, key=lambda face: face.side)


def _whole_pixels(box: NDArray[np.float32], image: DecodedImage) -> list[int]:
    """The box in whole pixels of the upright original, inside it."""
    limits = (image.width, image.height) * 2
    return [int(np.clip(round(float(value)), 0, limit)) for value, limit in zip(box, limits, strict=True)]
