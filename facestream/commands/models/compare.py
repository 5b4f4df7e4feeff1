"""`facestream models compare OLD NEW`: how two generations fare with the faces that are learned, and where they differ."""

import argparse
import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.vectors import VectorStore
from facestream.admin.comparison_report import print_comparison
from facestream.admin.comparison_sheet import check_target, draw_sheet
from facestream.flags import add_settings, settings_from
from facestream.progress import progress_bar
from facestream.runtime.stores import Stores, open_stores
from facestream.runtime.system_state import follow_state
from facestream.terminal import log_warnings_only
from schemas.errors import ConfigurationError, NotFound
from schemas.generation_records import Generation
from schemas.names import normalised
from sink.evaluate.comparing import Difference, Figures, Key, Outcome, common, differences, figures, outcome, read

DESCRIPTION = """\
Each learned face is looked for among all others of its directory, as if it had just come, once in each generation. People with
two portraits or more say how often the right person is found; how similar anybody else is says how strangers fare.

  facestream models compare dlib-resnet29-mirror mine
  facestream models compare dlib-resnet29-mirror mine --directory demo --sheet differences.jpg

Compared is what both have; faces that one lacks are counted. It works while the service runs, and changes nothing.
"""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Faces that only one of the two has, which were not compared."""

    only_old: int
    only_new: int


@dataclass(frozen=True, slots=True)
class Comparison:
    old: str
    new: str
    directories: Sequence[str]  # with faces that both have
    faces: int  # that both have
    left_out: LeftOut
    old_figures: Figures
    new_figures: Figures
    differences: Sequence[Difference]


def add_parser(subcommands: Any) -> None:
    parser = subcommands.add_parser(
        "compare",
        help="how two generations fare with the learned faces, and where they differ",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("old", metavar="OLD", help="a generation, see `facestream models list`")
    parser.add_argument("new", metavar="NEW", help="another one")
    parser.add_argument("--directory", metavar="D", help="only this one (default: all)")
    parser.add_argument("--sheet", type=Path, metavar="FILE.jpg", help="draw the faces where the two differ")
    parser.add_argument("--json", action="store_true", help="everything as one JSON object, every difference too")
    add_settings(parser, ("log", "objects", "vectors", "data"))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    log_warnings_only()
    return asyncio.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    directory = _directory(arguments.directory)
    if arguments.sheet is not None:
        check_target(arguments.sheet)
    if arguments.old == arguments.new:
        raise ConfigurationError(f"OLD and NEW are both '{arguments.old}': compare two generations")
    async with open_stores(settings_from(arguments)) as stores:
        async with follow_state(stores.log) as state:
            old, new = state.generations.get(arguments.old), state.generations.get(arguments.new)
        comparison = await compared(stores.vectors, old, new, directory)
        print_comparison(comparison, as_json=arguments.json)
        await _draw(stores, comparison, arguments.sheet)
    return 0


async def _draw(stores: Stores, comparison: Comparison, sheet: Path | None) -> None:
    if sheet is not None:
        await draw_sheet(stores.objects, comparison.differences, (comparison.old, comparison.new), sheet)


async def compared(vectors: VectorStore, old: Generation, new: Generation, directory: str | None) -> Comparison:
    """Raises NotFound where there is nothing to compare, Unavailable."""
    for generation in (old, new):
        if generation.state == "retired":
            raise NotFound(f"generation '{generation.name}' is retired: its vectors are deleted")
    names = {it.name: await vectors.directories(it.name) for it in (old, new)}
    for name, has in names.items():
        if not has:
            raise NotFound(f"generation '{name}' has no faces: make them with `facestream reembed {name}`")
        if directory is not None and directory not in has:
            raise NotFound(f"directory '{directory}' has no faces in generation '{name}'")
    wanted = sorted({*names[old.name], *names[new.name]}) if directory is None else [directory]
    in_both, left_out = await _listed(vectors, wanted, old.name, new.name)
    if not in_both:
        raise NotFound(
            f"'{old.name}' and '{new.name}' have no face in common, {left_out.only_old:,} and {left_out.only_new:,} of their own:"
            f" complete the replay with `facestream reembed {new.name}`"
        )
    outcomes_old: list[Outcome] = []
    outcomes_new: list[Outcome] = []
    found: list[Difference] = []
    done_directories, faces = [], 0
    with progress_bar("comparing", 2 * sum(in_both.values())) as done:
        for name in in_both:
            of_old, of_new = common(await read(vectors, name, old.name), await read(vectors, name, new.name))
            if not of_old.keys:  # erased since they were listed
                continue
            outcomes_old.append(await asyncio.to_thread(outcome, of_old, old.threshold, done))
            outcomes_new.append(await asyncio.to_thread(outcome, of_new, new.threshold, done))
            found += differences(name, of_old.keys, outcomes_old[-1], outcomes_new[-1])
            done_directories.append(name)
            faces += len(of_old.keys)
    if not faces:
        raise NotFound("all faces were erased in the meantime")
    return Comparison(
        old.name, new.name, done_directories, faces, left_out, figures(outcomes_old), figures(outcomes_new), found
    )


async def _listed(
    vectors: VectorStore, directories: Sequence[str], old: str, new: str
) -> tuple[dict[str, int], LeftOut]:
    """How many faces both have in each directory where they have any, and how many only one has."""
    in_both: dict[str, int] = {}
    only_old = only_new = 0
    for directory in directories:
        of_old = {key async for key in _keys(vectors, directory, old)}
        of_new = {key async for key in _keys(vectors, directory, new)}
        if of_old & of_new:
            in_both[directory] = len(of_old & of_new)
        only_old += len(of_old - of_new)
        only_new += len(of_new - of_old)
    return in_both, LeftOut(only_old, only_new)


async def _keys(vectors: VectorStore, directory: str, generation: str) -> AsyncIterator[Key]:
    async for page in vectors.read_faces(directory, generation):
        for face in page:
            yield face.person, face.face_id


def _directory(name: str | None) -> str | None:
    """Raises ConfigurationError."""
    try:
        return None if name is None else normalised(name)
    except ValueError as error:
        raise ConfigurationError(f"--directory: {error}") from None
