"""The AsyncAPI document equals the committed one, is consistent, and its examples are valid records."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from schemas import asyncapi, generate
from schemas.bucket_events import BucketNotified
from schemas.cloudevents import decode_image_received
from schemas.records import Answer
from stream.topics import TOPICS

DOCUMENT: dict[str, Any] = json.loads(json.dumps(asyncapi.document()))
MESSAGES: dict[str, Any] = DOCUMENT["components"]["messages"]
EXAMPLES = [
    pytest.param(name, example, id=f"{name}-{example['name']}")
    for name, it in MESSAGES.items()
    for example in it["examples"]
]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for member in value.values():
            yield from references(member)
    elif isinstance(value, list):
        for member in value:
            yield from references(member)


def at(reference: str) -> Any:
    found: Any = DOCUMENT
    for level in reference.removeprefix("#/").split("/"):
        found = found[level]
    return found


def test_the_committed_document_is_up_to_date() -> None:
    assert generate.ASYNCAPI_FILE.read_text() == generate.text(asyncapi.document()), "run python -m schemas.generate"


def test_every_reference_leads_somewhere() -> None:
    found = set(references(DOCUMENT))
    assert len(found) > 10
    for reference in found:
        assert at(reference), reference


def test_the_document_describes_only_existing_topics() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {it["address"] for it in DOCUMENT["channels"].values()} == set(DOCUMENT["channels"])
    assert set(DOCUMENT["channels"]) <= {it.name for it in TOPICS}
    for operation in DOCUMENT["operations"].values():
        channel = at(operation["channel"]["$ref"])
        assert [at(it["$ref"]) for it in operation["messages"]] == list(channel["messages"].values())
    used = {
        it["$ref"].rpartition("/")[2]
        for channel in DOCUMENT["channels"].values()
        for it in channel["messages"].values()
    }
    assert used == set(MESSAGES)


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_examples_fit_their_schemas_and_are_read(name: str, example: dict[str, Any]) -> None:
    message = MESSAGES[name]
    for part in ("payload", "headers"):
        if part in message:
            jsonschema.Draft202012Validator(message[part] | {"components": DOCUMENT["components"]}).validate(
                example[part]
            )
    value = json.dumps(example["payload"]).encode()
    if name == "bucketNotified":
        assert BucketNotified.decode(value).records[0].s3.object.name == "incoming/acme/learn/Ann Lee/1.jpg"
    elif name == "answer":
        assert Answer.decode(value).body.members()["image_id"] == example["payload"]["image_id"]
    else:
        headers = [(key, text.encode()) for key, text in example.get("headers", {}).items()]
        assert decode_image_received(value, headers).purpose == example["name"]


@pytest.mark.parametrize(
    ("missing", "fits"),
    [("person", False), ("directory", False), ("source", False), ("image_id", False), ("options", True)],
)
def test_the_schema_refuses_what_the_records_refuse(missing: str, fits: bool) -> None:
    event = {name: value for name, value in asyncapi.LEARN.items() if name != missing}
    schema = MESSAGES["imageReceived"]["payload"] | {"components": DOCUMENT["components"]}
    assert jsonschema.Draft202012Validator(schema).is_valid(event) == fits
