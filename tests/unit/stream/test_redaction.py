"""No answer names an erased person, unless its record is after the erase command; everything else in it is kept."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.sqlite.log import SqliteLog
from schemas.answers import CandidatePerson, Problem, RecognizedBody, RecognizedPerson
from schemas.erasures import directory_erasure_key, face_erasure_key, image_erasure_key, person_erasure_key
from schemas.ids import learned_face_id
from schemas.records import Answer
from stream.erase.erasures import Erasures
from stream.erase.redaction import redact
from tests import answers as bodies
from tests.records import erasure, face_id, image_id

PEOPLE = ["anna", "bert", "carl"]
IMAGE_ID = image_id("image")
FACE_IDS = {(person, i): face_id(f"{person} {i}") for person in PEOPLE for i in range(2)}


def candidate(person: str, portrait: int = 0, similarity: float = 0.9) -> CandidatePerson:
    return bodies.candidate(
        person, face_id=FACE_IDS[person, portrait], similarity=similarity, probability=similarity / 2
    )


def face(candidates: list[CandidatePerson], *, named: bool) -> RecognizedPerson:
    """As the sink answers it: the best first, and the face's own name if it is near enough."""
    if named and candidates:
        return bodies.recognized_person(candidates[0].id, *candidates)
    reason = "below-threshold" if candidates else "empty-directory"
    return bodies.recognized_person(None, *candidates, reason=reason)


def recognized(*faces: RecognizedPerson, offset: int | None = 10, directory: str | None = "acme") -> Answer:
    body = bodies.recognized(*faces, image_id=IMAGE_ID)
    return Answer(image_id=IMAGE_ID, purpose="recognize", directory=directory, status=200, body=body, offset=offset)


def learned(person: str, portrait: int = 0, offset: int = 10) -> Answer:
    body = bodies.learned(person, image_id=IMAGE_ID, face_id=FACE_IDS[person, portrait])
    return Answer(image_id=IMAGE_ID, purpose="learn", directory="acme", status=201, body=body, offset=offset)


def erasures(marks: dict[str, int]) -> Erasures:
    """marks: the offset of the command, by key."""
    made = Erasures(SqliteLog(Path("unused")))
    for key, offset in marks.items():
        made.add(key, erasure(offset=offset))
    return made


ERASED: dict[str, tuple[set[str], set[str]]] = {  # key: the people and faces that are gone with it
    directory_erasure_key("acme"): (set(PEOPLE), set(FACE_IDS.values())),
    directory_erasure_key("other"): (set(), set()),
    **{person_erasure_key("acme", it): ({it}, {FACE_IDS[it, 0], FACE_IDS[it, 1]}) for it in PEOPLE},
    **{person_erasure_key("other", it): (set(), set()) for it in PEOPLE},
    **{face_erasure_key(it): (set(), {it}) for it in FACE_IDS.values()},
}
OFFSETS = st.integers(8, 12)
marks = st.dictionaries(st.sampled_from(sorted(ERASED)), OFFSETS, max_size=5)
similarities = st.floats(0, 1, width=16)


@st.composite
def faces(draw: st.DrawFn) -> RecognizedPerson:
    people = draw(st.lists(st.sampled_from(PEOPLE), unique=True))
    values = sorted((draw(similarities) for _ in people), reverse=True)
    found = [candidate(it, draw(st.integers(0, 1)), value) for it, value in zip(people, values, strict=True)]
    return face(found, named=draw(st.booleans()))


def gone(marks: dict[str, int], offset: int) -> tuple[set[str], set[str]]:
    """The names and faces that an answer of this offset may not show."""
    of_marks = [ERASED[key] for key, at in marks.items() if at > offset]
    return {name for names, _ in of_marks for name in names}, {it for _, found in of_marks for it in found}


@given(st.lists(faces(), max_size=4), OFFSETS, marks)
@settings(max_examples=300, deadline=None)
def test_the_answer_to_a_photo_loses_exactly_the_people_erased_after_it(
    persons: list[RecognizedPerson], offset: int, marks: dict[str, int]
) -> None:
    answer = recognized(*persons, offset=offset)
    left = redact(answer, erasures(marks))
    names, face_ids = gone(marks, offset)
    text = json.dumps(left.body.members())
    assert not [name for name in names if name in text]
    assert not [it for it in face_ids if it in text]
    if marks.get(directory_erasure_key("acme"), 0) > offset:
        assert isinstance(left.body, Problem)
        assert (left.status, left.body.code, left.body.image_id) == (409, "erased", IMAGE_ID)
        return
    assert left.status == 200
    assert isinstance(left.body, RecognizedBody)
    assert left.model_copy(update={"body": answer.body}) == answer
    assert left.body.model_copy(update={"persons": persons}) == answer.body
    for before, after in zip(persons, left.body.persons, strict=True):
        stay = [it for it in before.candidates if it.id not in names and it.face_id not in face_ids]
        assert after.candidates == stay
        if len(stay) == len(before.candidates):
            assert after == before
            continue
        still_best = bool(stay) and stay[0] == before.candidates[0]
        assert after.id == (before.id if still_best else None)
        assert after.similarity == (stay[0].similarity if stay else None)
        assert after.probability == (stay[0].probability if stay else None)
        assert after.reason == ("erased" if before.id and not still_best else before.reason)
        assert after.members().keys() >= {"id", "similarity", "probability"}  # null rather than absent


@given(st.sampled_from(PEOPLE), st.integers(0, 1), OFFSETS, marks)
@settings(max_examples=200, deadline=None)
def test_the_answer_to_a_learn_becomes_erased_with_its_person_or_face(
    person: str, portrait: int, offset: int, marks: dict[str, int]
) -> None:
    answer = learned(person, portrait, offset)
    left = redact(answer, erasures(marks))
    names, face_ids = gone(marks, offset)
    if person in names or FACE_IDS[person, portrait] in face_ids:
        assert isinstance(left.body, Problem)
        assert (left.status, left.body.code) == (409, "erased")
        assert person not in json.dumps(left.body.members())
    else:
        assert left is answer


@pytest.mark.parametrize(
    "key", [image_erasure_key(IMAGE_ID), face_erasure_key(learned_face_id(IMAGE_ID))], ids=["image", "face"]
)
@pytest.mark.parametrize(
    "answer", [recognized(face([candidate("anna")], named=True)), learned("anna")], ids=["photo", "portrait"]
)
@pytest.mark.parametrize(("command", "hidden"), [(9, False), (10, False), (11, True)])
def test_the_answer_to_an_image_becomes_erased_with_the_image(
    answer: Answer, key: str, command: int, hidden: bool
) -> None:
    left = redact(answer, erasures({key: command}))
    assert (left.status == 409) == hidden
    assert (left is answer) == (not hidden)


def test_the_answer_to_an_erase_command_is_not_redacted() -> None:
    body = {"status": "OK", "directory": "acme", "person": None, "erased": {"faces": 1, "images": 1}}
    answer = Answer(image_id=IMAGE_ID, purpose="erase", directory="acme", status=200, body=body, offset=10)
    assert (
        redact(answer, erasures({person_erasure_key("acme", "anna"): 10, directory_erasure_key("acme"): 10})) is answer
    )


def test_answers_that_name_nobody_are_not_redacted() -> None:
    """An error, a photo without a face, and a detection name nobody of a directory, and have no offset in its
    partition.
    """
    answer = recognized(offset=None)
    assert redact(answer, erasures({directory_erasure_key("acme"): 99})) is answer
    nowhere = recognized(directory=None)
    assert redact(nowhere, erasures({directory_erasure_key("acme"): 99})) is nowhere
