"""`facestream models`: the generations of models, one module a subcommand."""

import argparse
from typing import Any

from facestream.commands.models import activate, add, compare, list_, retire

DESCRIPTION = """\
A generation is a detector and an embedder, with every learned face embedded by them. A better generation
replaces the active one without downtime:

  facestream models add mine model.onnx --input 112 --template arcface --range=-1..1
  facestream reembed mine
  facestream models compare dlib-resnet29-mirror mine
  facestream models activate mine
  facestream models activate dlib-resnet29-mirror     back at once, nothing lost
  facestream models retire dlib-resnet29-mirror       deletes its vectors
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "models",
        help="list, add, compare, activate and retire generations of models",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subcommands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for subcommand in (list_, add, compare, activate, retire):
        subcommand.add_parser(subcommands)
