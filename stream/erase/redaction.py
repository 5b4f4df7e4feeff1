"""Takes the people who were erased after an answer out of it, before it is shown or kept (rule 6 of
docs/architecture.md).

The order is that of the directory's partition, not of a clock: a sink that answers a record behind an erase command
has carried the command out before, and a worker that has lost its partition has no records from behind it.
"""

from typing import Any

from schemas.errors import Erased
from schemas.records import Answer, problem
from stream.erase.marks import Erasures


def redacted(answer: Answer, erasures: Erasures) -> Answer:
    """The answer itself where nobody in it was erased; else without the names, or 409 `erased` where the image was."""
    if answer.offset is None or answer.directory is None or erasures.empty:
        return answer
    offset, directory = answer.offset, answer.directory
    persons = answer.body.get("persons", [])
    gone = erasures.mark_of_image(directory, None, answer.image_id).offset > offset
    if answer.purpose == "learn":
        gone = gone or any(erasures.mark_of_face(directory, it["id"], it["face_id"]).offset > offset for it in persons)
    if gone:
        error = Erased("this was erased", image_id=answer.image_id)
        body = problem(error, image_id=answer.image_id)
        # without an offset: there is nothing more to hide in it
        return answer.model_copy(update={"status": error.status, "body": body, "offset": None})
    left = [_without_erased(it, directory, offset, erasures) for it in persons]
    return answer if left == persons else answer.model_copy(update={"body": answer.body | {"persons": left}})


def _without_erased(person: dict[str, Any], directory: str, offset: int, erasures: Erasures) -> dict[str, Any]:
    candidates = person.get("candidates", [])
    left = [it for it in candidates if erasures.mark_of_face(directory, it["id"], it["face_id"]).offset <= offset]
    if len(left) == len(candidates):
        return person
    best: dict[str, Any] = left[0] if left else {}
    without = person | {
        "candidates": left,
        "probability": best.get("probability"),
        "similarity": best.get("similarity"),
    }
    if person["id"] is not None and best.get("id") != person["id"]:
        without |= {"id": None, "reason": "erased"}
    return without
