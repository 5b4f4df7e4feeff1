"""The four kinds of erasure: the record of a command has not changed, and gives the same kind when it is decoded."""

import pytest

from schemas.erasures import (
    AnyErasure,
    DirectoryErasure,
    FaceErasure,
    ImageErasure,
    PersonErasure,
    directory_erasure_key,
    erase_command,
    erasure_of,
    face_erasure_key,
    image_erasure_key,
    person_erasure_key,
)
from schemas.errors import UnreadableRecord
from schemas.ids import learned_face_id
from schemas.origins import Cut
from schemas.records import EraseRequested

REQUEST_ID = "8d9e4c1e-5d2b-4a57-9d6d-0a2a4f0f3b11"
IMAGE_ID = "0b1f1f43-5d0c-4a8c-8a6f-6e1f1c0d9a77"
FACE_ID = learned_face_id(IMAGE_ID)

KINDS: dict[str, tuple[AnyErasure, bytes, tuple[str, ...]]] = {  # with its command's record, and its keys
    "directory": (
        DirectoryErasure("acme"),
        b'"directory":"acme"',
        (directory_erasure_key("acme"),),
    ),
    "person": (
        PersonErasure("acme", "Ann"),
        b'"directory":"acme","person":"Ann"',
        (person_erasure_key("acme", "Ann"),),
    ),
    "face": (
        FaceErasure("acme", "Ann", FACE_ID, IMAGE_ID),
        f'"directory":"acme","person":"Ann","face_id":"{FACE_ID}","erased_image_id":"{IMAGE_ID}"'.encode(),
        (image_erasure_key(IMAGE_ID), face_erasure_key(FACE_ID)),
    ),
    "image": (
        ImageErasure("acme", IMAGE_ID),
        f'"directory":"acme","erased_image_id":"{IMAGE_ID}"'.encode(),
        (image_erasure_key(IMAGE_ID),),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_comes_back_from_its_record(kind: str) -> None:
    erasure, members, keys = KINDS[kind]
    value = erase_command(erasure, REQUEST_ID, Cut(next_offsets={"images.received": [5, 7]}), "ingest-1").encode()
    head = f'{{"version":1,"kind":"erase","purpose":"erase","image_id":"{REQUEST_ID}",'.encode()
    cut = b',"cut":{"next_offsets":{"images.received":[5,7]}}'
    assert value == head + members + cut + b',"reply_to":"ingest-1"}'
    assert erasure_of(EraseRequested.decode(value)) == erasure
    assert erasure.keys == keys


@pytest.mark.parametrize(
    "fields",
    [
        {"face_id": FACE_ID},
        {"person": "Ann", "face_id": FACE_ID},
        {"person": "Ann", "erased_image_id": IMAGE_ID},
        {"face_id": FACE_ID, "erased_image_id": IMAGE_ID},
    ],
    ids="+".join,
)
def test_fields_that_fit_none_of_the_four_kinds_are_refused(fields: dict[str, str]) -> None:
    with pytest.raises(UnreadableRecord):
        erasure_of(EraseRequested(image_id=REQUEST_ID, directory="acme", **fields))
