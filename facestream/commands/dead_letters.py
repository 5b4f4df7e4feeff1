"""`facestream dead-letters`: what could not be processed, to look at, to try again, or to take off the list."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from backends.log import EventLog
from facestream.admin.dead_letter_report import count_of, print_list, print_one
from facestream.flags import add_settings, settings_from
from facestream.runtime.stores import open_stores
from facestream.terminal import print_message, printable
from schemas.errors import ConfigurationError, Erased, FacestreamError, InvalidRequest, NotFound
from schemas.names import normalised
from stream.dead_letters import Letter, drop, open_letters, retry
from stream.erase.marks import Erasures, is_erased
from stream.topics import TOPICS

DESCRIPTION = """\
What could not be processed is a dead letter: the event, why, and how often it was tried. Its caller was told, and other images go
on. Once the cause is gone, try it again, or drop what is not worth it:

  facestream dead-letters list
  facestream dead-letters show 17-3
  facestream dead-letters retry 17-3
  facestream dead-letters retry --all --code unavailable
  facestream dead-letters drop --all --directory demo

Letters are kept for 14 days. It works beside running roles, on the same log. Exit code: 0 done, 1 some could not be, 2 the
command line or the settings are wrong.
"""
RETRY = """\
Lets images go through the stream again, as of the time when they first came: what was erased since then stays erased. The answer
is at GET /results/IMAGE_ID; one that fails again is a new dead letter. An image whose picture is gone by then is answered
object_missing: pictures of recognize and detect are kept for FACESTREAM_KEEP_PROBES days.

  facestream dead-letters retry 17-3 40-0
  facestream dead-letters retry --all --code unavailable
"""
DROP = """\
Takes dead letters off the list; no picture, face or answer is deleted. They cannot be tried again.

  facestream dead-letters drop 17-3
  facestream dead-letters drop --all --code unreadable_record --yes
"""
ID = "as the list has it; an image_id, or how it begins, where that is of one dead letter only"
AT_ONCE = 100


def add_parser(commands: Any) -> None:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(
        "dead-letters",
        help="what could not be processed: look, retry, drop",
        description=DESCRIPTION,
        formatter_class=as_written,
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="show them, oldest first")
    listing.add_argument("--json", action="store_true", help="a line of JSON for each")
    listing.set_defaults(act=_list)
    show = actions.add_parser("show", help="show one with its event")
    show.add_argument("id", metavar="ID", help=ID)
    show.add_argument("--json", action="store_true", help="as one line of JSON")
    show.set_defaults(act=_show)
    again = actions.add_parser("retry", help="process them again", description=RETRY, formatter_class=as_written)
    again.set_defaults(act=_retry)
    dropping = actions.add_parser("drop", help="take them off the list", description=DROP, formatter_class=as_written)
    dropping.add_argument("--yes", action="store_true", help="do not ask before --all")
    dropping.set_defaults(act=_drop)
    for action in (again, dropping):
        action.add_argument("ids", nargs="*", metavar="ID", help=ID)
        action.add_argument("--all", action="store_true", help="all of them, or all of a --code and a --directory")
    for action in (listing, again, dropping):
        action.add_argument("--code", metavar="C", help="only those with this code")
        action.add_argument("--directory", metavar="D", help="only those of this directory")
    for action in (listing, show, again, dropping):
        add_settings(action, ("log", "data"))
        action.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    return asyncio.run(_run(arguments))


def _check(arguments: argparse.Namespace) -> None:
    """Raises ConfigurationError."""
    if getattr(arguments, "directory", None) is not None:
        try:
            arguments.directory = normalised(arguments.directory)
        except ValueError as error:
            raise ConfigurationError(f"--directory: {error}") from None
    if not hasattr(arguments, "ids"):
        return
    if bool(arguments.ids) == arguments.all:
        raise ConfigurationError("say which: one or more IDs of `facestream dead-letters list`, or --all")
    if arguments.ids and (arguments.code is not None or arguments.directory is not None):
        raise ConfigurationError("--code and --directory choose among all: give them with --all, not with IDs")


async def _run(arguments: argparse.Namespace) -> int:
    async with open_stores(settings_from(arguments)) as stores:
        await stores.log.require_topics(TOPICS)
        code: int = await arguments.act(stores.log, await open_letters(stores.log), arguments)
    return code


async def _list(log: EventLog, letters: list[Letter], arguments: argparse.Namespace) -> int:
    letters = _chosen(letters, arguments)
    if letters:
        print_list(letters, as_json=arguments.json)
    _say(count_of(len(letters), arguments.code, arguments.directory))
    return 0


async def _show(log: EventLog, letters: list[Letter], arguments: argparse.Namespace) -> int:
    print_one(_find(letters, arguments.id), as_json=arguments.json)
    return 0


async def _retry(log: EventLog, letters: list[Letter], arguments: argparse.Namespace) -> int:
    letters = _meant(letters, arguments)
    erasures = await _erasures(log)
    again, gone, failed = [], [], 0
    for letter in letters:
        try:
            _check_retry(letter, erasures)
            again.append(letter)
        except Erased as error:
            print_message(f"{letter.id}: {error.code}: {error.message}")
            gone.append(letter)
        except FacestreamError as error:
            print_message(f"{letter.id}: {error.message}")
            failed += 1
    for some in _batches(again):
        await retry(log, some)
        for letter in some:
            print(f"retried\t{letter.id}\t{printable(letter.record.key)}", flush=True)
    for some in _batches(gone):
        await drop(log, some)
    if arguments.all:
        _say(
            f"{len(again)} retried, {len(gone)} dropped, {failed} left"
            if letters
            else count_of(0, arguments.code, arguments.directory)
        )
    return 1 if gone or failed else 0


async def _drop(log: EventLog, letters: list[Letter], arguments: argparse.Namespace) -> int:
    letters = _meant(letters, arguments)
    if arguments.all and letters and not arguments.yes and not _agreed(len(letters)):
        _say("nothing was dropped")
        return 1
    for some in _batches(letters):
        await drop(log, some)
        for letter in some:
            print(f"dropped\t{letter.id}\t{printable(letter.record.key)}", flush=True)
    if arguments.all:
        _say(f"{len(letters)} dropped" if letters else count_of(0, arguments.code, arguments.directory))
    return 0


async def _erasures(log: EventLog) -> Erasures:
    """As of now; a command ends before there is anything to follow."""
    erasures = Erasures(log)
    try:
        await erasures.start()
    finally:
        await erasures.close()
    return erasures


def _check_retry(letter: Letter, erasures: Erasures) -> None:
    """Raises Erased, InvalidRequest. An erasure that comes right after this is met by the roles, as for any event."""
    event = letter.event
    if event is None:
        raise InvalidRequest(
            f"there is no image in it to try again, its record in {letter.content.topic} cannot be read or is a command: let its"
            f" sender send it anew, then `facestream dead-letters drop {letter.id}`"
        )
    if is_erased(event, event.came_at(letter.record.timestamp), erasures):
        raise Erased("it was erased after it had come, and is not processed again: the dead letter is dropped")


def _chosen(letters: Sequence[Letter], arguments: argparse.Namespace) -> list[Letter]:
    def fits(letter: Letter) -> bool:
        event = letter.content.event
        return (arguments.code is None or letter.content.code == arguments.code) and (
            arguments.directory is None or (event is not None and event.directory == arguments.directory)
        )

    return [letter for letter in letters if fits(letter)]


def _meant(letters: Sequence[Letter], arguments: argparse.Namespace) -> list[Letter]:
    """Raises NotFound, InvalidRequest; nothing is done to any then."""
    if arguments.all:
        return _chosen(letters, arguments)
    found = {letter.id: letter for letter in (_find(letters, text) for text in arguments.ids)}
    return list(found.values())


def _find(letters: Sequence[Letter], text: str) -> Letter:
    found = [letter for letter in letters if letter.id == text]
    found = found or [letter for letter in letters if text and letter.record.key.startswith(text)]
    if not found:
        raise NotFound(f"there is no dead letter '{printable(text)}', or no more: see `facestream dead-letters list`")
    if len(found) > 1:
        some = ", ".join(letter.id for letter in found[:3])
        raise InvalidRequest(
            f"'{printable(text)}' may be any of {len(found)} dead letters ({some} ...): give an ID of the list"
        )
    return found[0]


def _agreed(count: int) -> bool:
    if not sys.stdin.isatty():
        raise ConfigurationError(f"drop --all takes {count} off the list for good: add --yes where nobody can be asked")
    print(f"Drop {count_of(count)}? They cannot be tried again. [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _batches(letters: Sequence[Letter]) -> list[Sequence[Letter]]:
    return [letters[i : i + AT_ONCE] for i in range(0, len(letters), AT_ONCE)]


def _say(text: str) -> None:
    """Not a part of what a pipe is for."""
    print(text, file=sys.stderr)
