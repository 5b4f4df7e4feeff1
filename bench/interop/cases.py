"""The events that each SDK writes, in every way that it can, and the comparison with what facestream has read."""

import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from typing import Any

from backends.log import Record
from bench.soak.foreign_plan import LEARNING, RECOGNIZING, picture_keys
from schemas.cloudevents import decode_image_received
from schemas.errors import UnreadableRecord
from schemas.ids import image_id_of_event
from schemas.records import ImageReceived
from stream.topics import IMAGES_RECEIVED, IMAGES_RECEIVED_BULK

MODES = ("binary", "structured")
# Go's SDK writes a text as a JSON string, and Java's has no data of text.
KINDS = {"go": ("object", "bytes"), "java": ("object", "bytes"), "javascript": ("object", "bytes", "text")}
MEDIA_TYPES = (
    None,
    "application/json",
    "application/json; charset=utf-8",
    "text/json",
    "application/vnd.acme.image+json",
)
EXTENSIONS: tuple[dict[str, str | int | bool], ...] = (
    {},
    {"partitionkey": "acme", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
    {"sampledrate": 5, "urgent": True},
)


@dataclass(frozen=True, slots=True)
class Case:
    """An event as a line for a program, see sdk_programs/__init__.py, and as it must be read."""

    event: dict[str, Any]
    image: ImageReceived

    @property
    def name(self) -> str:
        return " ".join(str(self.event[name]) for name in ("source", "mode", "kind", "datacontenttype", "extensions"))


def make_cases(sdk: str, bucket: str, prefix: str) -> list[Case]:
    """bucket: where the pictures are. prefix: of the topics."""
    topics = cycle((IMAGES_RECEIVED, IMAGES_RECEIVED_BULK))
    return [
        _case(sdk, number, next(topics), bucket, prefix, *how)
        for number, how in enumerate(product(MODES, KINDS[sdk], MEDIA_TYPES, EXTENSIONS))
    ]


def _case(
    sdk: str,
    number: int,
    topic: str,
    bucket: str,
    prefix: str,
    mode: str,
    kind: str,
    media_type: str | None,
    extensions: Mapping[str, str | int | bool],
) -> Case:
    """Every other event is a learn, and every third has a UUID for its id."""
    learns, source = number % 2 == 0, f"/interop/{sdk}?a=b%20c"
    event_id = str(uuid.uuid4()) if number % 3 == 0 else f"{sdk} {number}/%2F"
    directory = (LEARNING if learns else RECOGNIZING)[0]
    data: dict[str, Any] = {
        "directory": directory,
        "source": {"bucket": bucket, "key": picture_keys(directory)[0]},
        "options": {"force": True} if learns else {"top": 1, "min_score": 0.25},
    }
    if learns:
        data["person"] = f"Zoë {sdk} {number}"
    purpose = "learn" if learns else "recognize"
    image_id = event_id if number % 3 == 0 else image_id_of_event(source, event_id)
    event = {
        "topic": prefix + topic,
        "mode": mode,
        "id": event_id,
        "source": source,
        "type": f"facestream.image.{purpose}",
        "datacontenttype": media_type,
        "extensions": extensions,
        "data": data,
        "kind": kind,
    }
    return Case(event, ImageReceived.model_validate(data | {"image_id": image_id, "purpose": purpose}))


def wrong_records(cases: Sequence[Case], records: Iterable[Record]) -> list[str]:
    """What is wrong: each event must be in one record, which is read as that event."""
    read: dict[str, list[ImageReceived]] = defaultdict(list)
    wrong: list[str] = []
    for record in records:
        try:
            image = decode_image_received(record.value, record.headers)
        except UnreadableRecord as error:
            wrong.append(f"{error.message}: {record.headers} {record.value!r}")
        else:
            read[image.image_id].append(image)
    found = [(case, read.pop(case.image.image_id, [])) for case in cases]
    wrong += [f"{case.name} is read as {images}" for case, images in found if images != [case.image]]
    return wrong + [f"nobody sent {images}" for images in read.values()]


def wrong_answers(cases: Sequence[Case], answers: Mapping[str, Collection[str]]) -> list[str]:
    """What is wrong: each event must have one answer, a 201 or 200. answers: by image_id, as of read_answers."""
    wrong = []
    for case in cases:
        found, wanted = answers.get(case.image.image_id, ()), "201 " if case.image.purpose == "learn" else "200 "
        if len(found) != 1 or not next(iter(found)).startswith(wanted):
            wrong.append(f"{case.name} is answered {sorted(found)}")
    return wrong


def table_of(cases: Sequence[Case]) -> str:
    """How many events each SDK has sent in each mode."""
    counts = Counter((case.event["source"], case.event["mode"]) for case in cases)
    return "\n".join(f"{source:32}{mode:12}{count:4}" for (source, mode), count in counts.items())
