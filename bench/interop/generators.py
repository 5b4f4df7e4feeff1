"""Generators of code read the contracts: `make interop`, or

    python -m bench.interop.generators

Modelina reads the AsyncAPI document, and datamodel-code-generator the JSON Schema. Each must make exactly one class of
an event, with all of its members.
"""

import ast
import json
import os
import subprocess
import tempfile
from pathlib import Path

from bench.clients import verdict
from bench.interop.sdks import SOURCES
from bench.programs import Program, node_program, python_program
from schemas.generate import ASYNCAPI_FILE, SCHEMA_FILE
from schemas.records import ImageReceived

MODELINA = "@asyncapi/modelina@5.10.1"
DATAMODEL_CODE_GENERATOR = "datamodel-code-generator==0.89.0"
CLASS = ImageReceived.__name__
OTHER_MEMBERS = "additionalProperties"  # Modelina has a member for those that the schema does not name


def run(program: Program, *arguments: str, reads: Path) -> str:
    with open(reads) as document:
        done = subprocess.run(
            [*program.command, *arguments],
            env=os.environ | program.environment,
            stdin=document,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return done.stdout


def made_by_modelina() -> dict[str, list[list[str]]]:
    """The members of each class of that name, by language."""
    program = node_program(SOURCES / "modelina.js", MODELINA)
    found: dict[str, list[list[str]]] = json.loads(run(program, CLASS, reads=ASYNCAPI_FILE))
    return {f"Modelina, {language}": it for language, it in found.items()}


def made_by_datamodel_code_generator() -> dict[str, list[list[str]]]:
    program = python_program("datamodel_code_generator", DATAMODEL_CODE_GENERATOR)
    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder) / "models.py"
        options = ["--input-file-type", "jsonschema", "--output-model-type", "pydantic_v2.BaseModel"]
        run(program, *options, "--formatters", "builtin", "--output", str(module), reads=SCHEMA_FILE)
        tree = ast.parse(module.read_text())
    classes = [it for it in tree.body if isinstance(it, ast.ClassDef) and it.name.startswith(CLASS)]
    return {"datamodel-code-generator": [_members(it) for it in classes]}


def _members(made: ast.ClassDef) -> list[str]:
    return [it.target.id for it in made.body if isinstance(it, ast.AnnAssign) and isinstance(it.target, ast.Name)]


def main() -> int:
    wanted, wrong = set(ImageReceived.model_fields), []
    for generator, classes in (made_by_modelina() | made_by_datamodel_code_generator()).items():
        print(f"{generator}: {len(classes)} class with {len(classes[0]) if classes else 0} members")
        if [set(members) - {OTHER_MEMBERS} for members in classes] != [wanted]:
            wrong.append(f"{generator} does not make one class {CLASS} with all members: {classes}")
    return verdict(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
