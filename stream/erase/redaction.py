"""Redaction: removes the people from an answer who were erased after it (rule 6 in docs/architecture.md).

It compares offsets in the directory's partition, not times. A sink carries out an erase command before it answers later
records, so an answer with a later offset than the erasure needs no redaction. A worker that has lost its partition
answers only records with earlier offsets.
"""

from schemas.answers import Body, LearnedBody, RecognizedBody, RecognizedPerson, problem
from schemas.errors import Erased
from schemas.records import Answer
from stream.erase.erasures import Erasures, last_offset


def redact(answer: Answer, erasures: Erasures) -> Answer:
    """The answer as it may be returned: without the names of erased people, or 409 `erased` for an erased image."""
    if answer.offset is None or answer.directory is None or erasures.empty:
        return answer
    offset, directory = answer.offset, answer.directory
    if _is_erased(answer.body, answer.image_id, directory, offset, erasures):
        error = Erased("this was erased", image_id=answer.image_id)
        body = problem(error)
        # no offset: there is nothing left to redact
        return answer.model_copy(update={"status": error.status, "body": body, "offset": None})
    if not isinstance(answer.body, RecognizedBody):
        return answer
    persons = [_without_erased(it, directory, offset, erasures) for it in answer.body.persons]
    if persons == answer.body.persons:
        return answer
    return answer.model_copy(update={"body": answer.body.model_copy(update={"persons": persons})})


def _is_erased(body: Body, image_id: str, directory: str, offset: int, erasures: Erasures) -> bool:
    """Whether the image itself, or the face that was learned from it, was erased after the answer."""
    if last_offset(erasures.of_image(directory, None, image_id)) > offset:
        return True
    return isinstance(body, LearnedBody) and any(
        last_offset(erasures.of_face(directory, it.id, it.face_id)) > offset for it in body.persons
    )


def _without_erased(person: RecognizedPerson, directory: str, offset: int, erasures: Erasures) -> RecognizedPerson:
    left = [it for it in person.candidates if last_offset(erasures.of_face(directory, it.id, it.face_id)) <= offset]
    if len(left) == len(person.candidates):
        return person
    best = left[0] if left else None
    without: dict[str, object] = {
        "candidates": left,
        "probability": best.probability if best else None,
        "similarity": best.similarity if best else None,
    }
    if person.id is not None and (best is None or best.id != person.id):
        without |= {"id": None, "reason": "erased"}
    return person.model_copy(update=without)
