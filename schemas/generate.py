"""Writes the documents that are generated from the models: the JSON Schema of every topic's records, the AsyncAPI and
the OpenAPI document. `python -m schemas.generate`; a test fails when a committed file differs.
"""

import json
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from schemas import asyncapi, openapi
from schemas.records import RECORDS

SCHEMA_FILE = Path(__file__).with_name("records.schema.json")
ASYNCAPI_FILE = Path(__file__).with_name("asyncapi.json")


def schema() -> dict[str, Any]:
    """One JSON Schema document; `topics` says which definitions a topic's records follow."""
    models = sorted({model for of_topic in RECORDS.values() for model in of_topic}, key=lambda model: model.__name__)
    _, document = models_json_schema(
        [(model, "validation") for model in models], title="The records of facestream's topics"
    )
    topics = {
        topic: {"oneOf": [{"$ref": f"#/$defs/{model.__name__}"} for model in models]}
        for topic, models in RECORDS.items()
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "topics": topics} | document


def text(document: dict[str, Any]) -> str:
    """The document in ASCII, because its patterns have characters that no editor shows."""
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(text(schema()))
    ASYNCAPI_FILE.write_text(text(asyncapi.document()))
    openapi.FILE.write_text(text(openapi.document()))
