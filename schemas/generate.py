"""Writes the JSON Schema of every topic's records: `python -m schemas.generate`. A test fails when the committed file differs."""

import json
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from schemas.records import RECORDS

SCHEMA_FILE = Path(__file__).with_name("records.schema.json")


def schema() -> dict[str, Any]:
    """One JSON Schema document; `topics` says which definition a topic's records follow."""
    models = sorted(set(RECORDS.values()), key=lambda model: model.__name__)
    _, document = models_json_schema([(model, "validation") for model in models], title="The records of facestream's topics")
    topics = {topic: {"$ref": f"#/$defs/{model.__name__}"} for topic, model in RECORDS.items()}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "topics": topics} | document


def text() -> str:
    return json.dumps(schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(text())
