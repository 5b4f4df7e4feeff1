"""What of an answer may be shown or kept: nobody who was erased after it (rule 6 of the design).

It goes by the place in the directory's partition, not by time: whoever answers a record behind the erase command has
carried that out before, and a zombie has nothing from behind it.
"""

from typing import Any

from schemas.errors import Erased
from schemas.records import Answer, problem
from stream.erase.marks import Erasures


def redacted(answer: Answer, erasures: Erasures) -> Answer:
    """The answer itself, or what is left of it: without the name, or 409 `erased` for an image that is erased itself."""
    if answer.offset is None or answer.directory is None or erasures.empty:
        return answer
    offset, directory = answer.offset, answer.directory
    persons = answer.body.get("persons", [])
    gone = erasures.of_image(directory, None, answer.image_id).offset > offset
    if answer.purpose == "learn":
        gone = gone or any(erasures.of_person(directory, it["id"], it["face_id"]).offset > offset for it in persons)
    if gone:
        error = Erased("this was erased", image_id=answer.image_id)
        body = problem(error, image_id=answer.image_id)
        return answer.model_copy(
            update={"status": error.status, "body": body, "offset": None}
        )  # there is nothing more to hide
    left = [_without_erased(it, directory, offset, erasures) for it in persons]
    return answer if left == persons else answer.model_copy(update={"body": answer.body | {"persons": left}})


def _without_erased(person: dict[str, Any], directory: str, offset: int, erasures: Erasures) -> dict[str, Any]:
    candidates = person.get("candidates", [])
    left = [it for it in candidates if erasures.of_person(directory, it["id"], it["face_id"]).offset <= offset]
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
