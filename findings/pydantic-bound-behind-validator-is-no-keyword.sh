#!/usr/bin/env bash
# pydantic 2.14.3: a bound that stands behind a BeforeValidator in Annotated comes into the JSON Schema as `ge`, which is
# no keyword of JSON Schema, in place of `minimum`. Validators ignore it: the published schema has no bound.
#
# One would guess: the schema has `minimum`, as it has if the same Field is the default of the member, or stands in front
# of the validator. The model itself refuses what is out of bounds in all three cases.
#
# Seen:
#
#   behind:  {'ge': 0, 'title': 'Behind', 'type': 'integer'}
#   front:   {'minimum': 0, 'title': 'Front', 'type': 'integer'}
#   default: {'type': 'integer', 'minimum': 0, 'title': 'Default'}
#   refused: ['behind', 'front', 'default']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pydantic==2.14.3
"$folder/venv/bin/python" - <<'PYTHON'
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

Same = BeforeValidator(lambda value: value)


class Record(BaseModel):
    behind: Annotated[int, Same, Field(ge=0)]
    front: Annotated[int, Field(ge=0), Same]
    default: Annotated[int, Same] = Field(ge=0)


members = Record.model_json_schema()["properties"]
for name, schema in members.items():
    print(f"{name + ':':8} {schema}")
try:
    Record(behind=-1, front=-1, default=-1)
except ValidationError as error:
    refused = [it["loc"][0] for it in error.errors()]
print("refused:", refused)
assert refused == list(members)
assert ["minimum" in it for it in members.values()] == [False, True, True]
PYTHON
