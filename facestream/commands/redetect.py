"""`facestream redetect`: makes a generation with another detector, from the originals of learned faces."""

import argparse
from typing import Any

from facestream.admin.generation_changes import check_generation_name, find_generation
from facestream.admin.replay import add_replay_flags, replay
from facestream.config import Settings
from facestream.flags import settings_from
from facestream.interrupt import run_interruptibly
from facestream.runtime.stores import open_stores
from facestream.runtime.system_state import follow_state
from facestream.terminal import log_warnings_only
from schemas.errors import ConfigurationError
from schemas.generation_records import Generation
from stream.generations import Generations, generation_record
from weights.manifest import manifest

DESCRIPTION = """\
Find every learned face again in its original, with another detector, and embed it as the active generation
does, while the service goes on. DETECTOR is one of: {detectors}.

It makes a generation as `facestream reembed` does: from its start on, both detectors find new faces.
Interrupted, it continues when it is started again. A face that the detector does not find keeps its crop, so
that no person is lost. The thresholds are those of the active generation. When it is complete: facestream
models compare OLD NEW, then facestream models activate NEW.
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "redetect",
        help="find every learned face again with another detector",
        description=DESCRIPTION.format(detectors=", ".join(manifest().detectors)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("detector", metavar="DETECTOR", help="a detector of the list above")
    parser.add_argument(
        "--name", help="name of the generation (default: the name of the active one, a dot, and the detector)"
    )
    add_replay_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    log_warnings_only()
    return run_interruptibly(_run(settings_from(arguments), arguments.detector, arguments.name, arguments.rate))


async def _run(settings: Settings, detector: str, name: str | None, rate: float) -> int:
    manifest().detector(detector)  # raises NotFound
    async with open_stores(settings) as stores, follow_state(stores.log) as state:
        generation = make_generation(state.generations, detector, name)
        if generation.name not in {it.name for it in state.generations.all}:
            await stores.log.append([generation_record(generation)])
    return await replay(settings, generation.name, rate)


def make_generation(generations: Generations, detector: str, name: str | None) -> Generation:
    """The active generation with another detector, as it would be added. Raises ConfigurationError."""
    active = generations.active
    if active.detector == detector:
        raise ConfigurationError(f"the active generation '{active.name}' has the detector '{detector}' already")
    name = check_generation_name(f"{active.name}.{detector}" if name is None else name)
    if name in {it.name for it in generations.all} | manifest().generations.keys():
        existing = find_generation(generations, name)
        if (existing.detector, existing.embedder, existing.mirror) != (detector, active.embedder, active.mirror):
            raise ConfigurationError(f"'{name}' is another generation: give a --name that is new")
    return active.model_copy(update={"name": name, "detector": detector, "state": "added", "faces": None})
