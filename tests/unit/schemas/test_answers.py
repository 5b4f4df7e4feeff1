"""Answers of every release are decoded and encoded byte for byte, and members of a later release are passed on."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from schemas.answers import (
    LOWEST_FAILURE,
    AnswerPart,
    DetectedBody,
    ErasedBody,
    LearnedBody,
    Problem,
    RecognizedBody,
    problem,
)
from schemas.errors import NotOneFace, UnreadableRecord
from schemas.event import EventRecord
from schemas.examples import DETECTED, ERASED, LEARNED, MODELS, RECOGNIZED, REFUSED
from schemas.http_bodies import DirectoriesBody, FacesBody, PersonsBody
from schemas.records import Answer
from tests.answers import IMAGE_ID, recognized, recognized_person
from weights.manifest import manifest

GOLDEN = Path(__file__).parent / "golden"
ANSWERS = GOLDEN.joinpath("answers.jsonl").read_bytes().splitlines()
BODIES = [json.loads(line) for line in GOLDEN.joinpath("bodies.jsonl").read_text().splitlines()]
MODELS_OF_PATHS: dict[str, type[AnswerPart]] = {  # of good answers, by method and pattern of the path
    "POST /learn": LearnedBody,
    "POST /recognize|GET /results/.*": RecognizedBody,
    "POST /detect": DetectedBody,
    "DELETE .*": ErasedBody,
    "GET /directories": DirectoriesBody,
    "GET /directories/[^/]*/persons(\\?.*)?": PersonsBody,
    "GET /directories/.*/faces": FacesBody,
}
EXAMPLES = {"learn": LEARNED, "recognize": RECOGNIZED, "detect": DETECTED, "erase": ERASED}


def compact(members: Any) -> str:
    return json.dumps(members, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize("line", ANSWERS, ids=range(len(ANSWERS)))
def test_an_answer_of_an_earlier_release_is_encoded_as_it_was(line: bytes) -> None:
    answer = Answer.decode(line)
    assert answer.encode() == line
    assert compact(answer.body.members()) == compact(json.loads(line)["body"])


def test_the_golden_answers_are_of_every_kind() -> None:
    kinds = {type(Answer.decode(line).body) for line in ANSWERS}
    assert kinds == {LearnedBody, RecognizedBody, DetectedBody, ErasedBody, Problem}


@pytest.mark.parametrize("said", BODIES, ids=lambda it: it["path"])
def test_a_body_over_http_of_an_earlier_release_is_encoded_as_it_was(said: dict[str, Any]) -> None:
    request = f"{said['method']} {said['path']}"
    good = [model for pattern, model in MODELS_OF_PATHS.items() if re.fullmatch(pattern, request)]
    model = Problem if said["status"] >= LOWEST_FAILURE else good[0]
    assert compact(model.model_validate_json(said["body"]).members()) == said["body"]


@pytest.mark.parametrize("purpose", EXAMPLES)
def test_members_of_a_later_release_are_passed_on_at_every_level(purpose: str) -> None:
    def grown(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: grown(it) for name, it in value.items()} | {"later": {"x": [None, 1.5]}}
        return [grown(it) for it in value] if isinstance(value, list) else value

    record = {"version": 1, "image_id": IMAGE_ID, "purpose": purpose, "status": 200}
    body = grown(json.loads(compact(EXAMPLES[purpose].members())))
    answer = Answer.decode(json.dumps(record | {"body": body}).encode())
    assert json.loads(answer.encode())["body"] == body


def test_null_and_absent_members_are_distinguished() -> None:
    person = recognized_person(None)
    assert person.members()["probability"] is None
    assert "reason" not in person.members()
    assert person.model_copy(update={"reason": "erased"}).members()["reason"] == "erased"
    answer = Answer(image_id=IMAGE_ID, purpose="recognize", status=200, body=recognized(person))
    (encoded,) = json.loads(answer.encode())["body"]["persons"]
    assert encoded == json.loads(compact(person.members()))


@pytest.mark.parametrize(
    ("purpose", "status", "body", "said"),
    [
        ("learn", 201, RECOGNIZED, "body: ignored"),
        ("detect", 200, REFUSED, "body: status"),
        ("recognize", 422, RECOGNIZED, "body: type"),
        ("recognize", 200, RECOGNIZED.model_copy(update={"image_id": "a secret"}), "body: image_id"),
    ],
)
def test_a_body_that_is_not_of_its_purpose_and_status_is_unreadable(
    purpose: str, status: int, body: Any, said: str
) -> None:
    record = {"image_id": IMAGE_ID, "purpose": purpose, "status": status, "body": body.members()}
    with pytest.raises(UnreadableRecord, match=said) as raised:
        Answer.decode(json.dumps(record).encode())
    assert "a secret" not in raised.value.message


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"purpose": "look"}, "purpose"), ({"status": "x"}, "status"), ({"purpose": None}, "body: .* no purpose")],
)
def test_without_purpose_or_status_there_is_no_body(wrong: dict[str, Any], said: str) -> None:
    record = {"image_id": IMAGE_ID, "purpose": "detect", "status": 200, "body": DETECTED.members()} | wrong
    with pytest.raises(UnreadableRecord, match=f"Answer: {said}"):
        Answer.decode(json.dumps(record).encode())


def test_a_problem_has_the_details_of_its_error() -> None:
    error = NotOneFace("two faces", faces=[{"box": [1, 2, 3, 4], "score": 0.5}])
    said = problem(error, image_id=IMAGE_ID)
    assert said.faces is not None
    assert (said.status, said.code, said.faces[0].box, said.image_id) == (422, "not_one_face", [1, 2, 3, 4], IMAGE_ID)


def test_examples_name_models_of_the_manifest() -> None:
    shipped = manifest()
    assert MODELS.generation is not None
    generation = shipped.generations[MODELS.generation]
    assert (MODELS.detector, MODELS.embedder) == (generation.detector, generation.embedder)
    assert LEARNED.models == RECOGNIZED.models == MODELS
    assert DETECTED.models.detector == MODELS.detector


def test_a_thousand_faces_fit_into_a_record() -> None:
    body = RECOGNIZED.model_copy(update={"persons": RECOGNIZED.persons * 1_000})
    record: EventRecord = Answer(image_id=IMAGE_ID, purpose="recognize", status=200, body=body)
    assert Answer.decode(record.encode()) == record
