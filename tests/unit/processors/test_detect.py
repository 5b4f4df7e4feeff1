"""The choice of the face to learn, ignored faces, and faces in records."""

from typing import Any

import numpy as np
import pytest

from processors.boxes import Detections, index_of_closest
from processors.decoding.pool import DecodedImage
from processors.detect import SMALLEST_LEARNED, choose_face, detection_records
from schemas.errors import FacestreamError, FaceTooSmall, NoFace, NotOneFace
from schemas.faces import Detection
from schemas.ids import probe_face_id
from schemas.options import Options
from tests.records import face_id, image_id, image_received
from weights.manifest import manifest

MODEL = manifest().detector("centerface")
CLEAR, WEAK = MODEL.enrolment_score, MODEL.enrolment_score - 0.01
IMAGE_ID = image_id("photo")


def face(left: int, side: int, *, detection_score: float = 0.9) -> Detection:
    return Detection(
        face_id=face_id(f"{left} {side}"),
        box=[left, 0, left + side, side],
        landmarks=[(0, 0)] * 5,
        score=0.99,
        detection_score=detection_score,
    )


def chosen(*faces: Detection, **options: Any) -> tuple[Detection, list[Detection]]:
    return choose_face(faces, Options(**options), MODEL)


def boxes(error: FacestreamError) -> list[list[int]]:
    return [it["box"] for it in error.details["faces"]]


# choose


@pytest.mark.parametrize("wish", [None, "largest", "10,10"])
def test_no_face_is_an_error_whatever_the_option_face_says(wish: str | None) -> None:
    with pytest.raises(NoFace):
        chosen(face=wish)


def test_one_face_is_learned() -> None:
    only = face(0, 100)
    assert chosen(only) == (only, [])


def test_two_faces_are_refused_and_all_found_faces_are_listed() -> None:
    one, other, tiny = face(0, 100), face(200, 90), face(400, 10)
    with pytest.raises(NotOneFace) as raised:
        chosen(one, other, tiny)
    assert raised.value.status == 422
    assert boxes(raised.value) == [one.box, other.box, tiny.box]
    assert "2 faces" in raised.value.message


@pytest.mark.parametrize("position", [0, 1, 2])
def test_faces_in_the_background_are_ignored_and_listed(position: int) -> None:
    large, small, smaller = face(0, 120), face(200, 39), face(300, 12)
    faces = [small, smaller]
    faces.insert(position, large)
    found, ignored = chosen(*faces)
    assert found == large
    assert ignored == [small, smaller]


def test_a_face_of_a_third_of_the_largest_is_not_ignored() -> None:
    with pytest.raises(NotOneFace):
        chosen(face(0, 120), face(200, 40))


def test_faces_below_the_enrolment_score_are_ignored_however_large() -> None:
    clear, weak = face(0, 100, detection_score=CLEAR), face(200, 150, detection_score=WEAK)
    assert chosen(weak, clear) == (clear, [weak])


def test_a_face_below_the_enrolment_score_is_learned_only_if_it_is_chosen() -> None:
    weak = face(0, 100, detection_score=WEAK)
    with pytest.raises(NoFace) as raised:
        chosen(weak)
    assert boxes(raised.value) == [weak.box]
    assert chosen(weak, face="largest") == (weak, [])


def test_the_largest_is_chosen_on_wish() -> None:
    one, largest, other = face(0, 100), face(200, 101), face(400, 99)
    assert chosen(one, largest, other, face="largest") == (largest, [one, other])


def test_a_point_chooses_the_face_around_it() -> None:
    one, other = face(0, 100), face(200, 100)
    assert chosen(one, other, face="250,50") == (other, [one])
    assert chosen(one, other, face="100,100") == (one, [other])  # on the edge
    assert chosen(one, other, face="0.5,99.5") == (one, [other])


def test_a_point_inside_several_faces_chooses_the_smallest() -> None:
    outer, inner = face(0, 300), face(100, 50)
    assert chosen(outer, inner, face="120,20") == (inner, [outer])


def test_a_point_outside_all_faces_is_an_error_that_lists_them() -> None:
    with pytest.raises(NotOneFace, match="150,50") as raised:
        chosen(face(0, 100), face(200, 100), face="150,50")
    assert len(boxes(raised.value)) == 2


@pytest.mark.parametrize("wish", [None, "largest", "10,10"])
def test_a_face_below_forty_pixels_is_learned_only_by_force(wish: str | None) -> None:
    small = face(0, SMALLEST_LEARNED - 1)
    with pytest.raises(FaceTooSmall) as raised:
        chosen(small, face=wish)
    assert raised.value.details["box"] == small.box
    assert chosen(small, face=wish, force=True) == (small, [])
    enough = face(0, SMALLEST_LEARNED)
    assert chosen(enough, face=wish) == (enough, [])


def test_force_does_not_choose_between_two() -> None:
    with pytest.raises(NotOneFace):
        chosen(face(0, 100), face(200, 100), force=True)


# detection_records


class Frame:
    """The part of a decoded image that `detection_records` needs."""

    width, height = 200, 100


def reported(sides: list[float], scores: list[float], **options: Any) -> list[Detection]:
    received = image_received("photo", "detect", options=Options(**options))
    found = Detections(
        np.array([[10, 10, 10 + side, 10 + side] for side in sides], np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.full((len(sides), 5, 2), 12.3456, np.float32),
    )
    frame: DecodedImage = Frame()  # type: ignore[assignment]
    return detection_records(found, received, frame, MODEL)


def test_faces_are_reported_in_whole_pixels_inside_the_image() -> None:
    (inside, outside) = reported([20.4, 500], [0.9, 0.8])
    assert inside.box == [10, 10, 30, 30]
    assert outside.box == [10, 10, 200, 100]
    assert inside.landmarks == [(12.35, 12.35)] * 5
    assert [it.detection_score for it in (inside, outside)] == pytest.approx([0.9, 0.8])
    assert inside.score == pytest.approx(MODEL.calibration.probability(0.9), abs=1e-4)


def test_the_options_leave_out_small_and_weak_faces_and_those_beyond_the_limit() -> None:
    sides, scores = [50.0, 10, 40, 30], [0.9, 0.85, 0.7, 0.52]
    low = MODEL.calibration.probability(0.6)
    assert [it.box[2] - 10 for it in reported(sides, scores)] == [50, 10, 40, 30]
    assert [it.box[2] - 10 for it in reported(sides, scores, min_face=30)] == [50, 40, 30]
    assert [it.box[2] - 10 for it in reported(sides, scores, min_score=low)] == [50, 10, 40]
    assert [it.box[2] - 10 for it in reported(sides, scores, limit=2)] == [50, 10]
    assert [it.box[2] - 10 for it in reported(sides, scores, limit=2, min_face=30)] == [50, 40]


def test_a_face_id_follows_from_the_place_in_the_answer() -> None:
    found = reported([50, 10, 40], [0.9, 0.85, 0.8], min_face=30)
    assert [it.face_id for it in found] == [probe_face_id(IMAGE_ID, 0), probe_face_id(IMAGE_ID, 1)]


def test_a_box_without_area_is_no_face() -> None:
    assert reported([0.2], [0.9]) == []
    assert reported([], []) == []


@pytest.mark.parametrize(
    ("box", "which"),
    [
        ([100, 100, 200, 200], 1),
        ([110, 95, 205, 190], 1),  # not quite where it was
        ([300, 300, 360, 360], 2),
        ([145, 145, 155, 155], None),  # overlaps two faces, neither of them enough
        ([600, 600, 700, 700], None),
    ],
)
def test_the_same_face_of_another_detector_is_found_by_its_position(box: list[int], which: int | None) -> None:
    theirs = np.array([[0, 0, 90, 90], [100, 100, 200, 200], [290, 310, 350, 370], [150, 150, 400, 400]], np.float32)
    found = Detections(theirs, np.full(4, 0.9, np.float32), np.zeros((4, 5, 2), np.float32))
    assert index_of_closest(found, box) == which
    assert index_of_closest(found.select(np.zeros(4, bool)), box) is None
