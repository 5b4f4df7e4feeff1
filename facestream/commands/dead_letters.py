"""`facestream dead-letters`: lists events that could not be processed, retries or drops them."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from backends.log import EventLog
from facestream.admin.dead_letter_report import describe_count, print_list, print_one, was_erased
from facestream.flags import add_settings, argument_type, settings_from
from facestream.interrupt import run_interruptibly
from facestream.runtime.stores import Stores, open_stores
from facestream.terminal import confirm, print_message, printable
from schemas.errors import ConfigurationError, Erased, FacestreamError, InvalidRequest, NotFound
from schemas.names import normalise_name
from stream.dead_letters import Letter, drop, open_letters, read_contents, retry
from stream.erase.erasures import Erasures
from stream.topics import TOPICS

DESCRIPTION = """\
A record that could not be processed is a dead letter: its bytes or its event, the reason, and the number of
attempts. Its caller got an error, and other images go on. When the cause is removed, retry it, or drop it:

  facestream dead-letters list
  facestream dead-letters show 17-3
  facestream dead-letters retry 17-3
  facestream dead-letters retry --all --code unavailable
  facestream dead-letters drop --all --directory demo

Dead letters are kept for 14 days. It works beside running roles, on the same log. Exit code 1: some could not
be retried.
"""
RETRY = """\
Send images through the stream again: the bytes of their records, in the same topic. They keep the time when they
were first received: what was erased since then stays erased. The answer is at GET /results/IMAGE_ID, which says
202 until then; an image that fails again is a new dead letter. One whose picture is gone by then is answered
object_missing: pictures of recognize and detect are kept for FACESTREAM_KEEP_PROBES days.

Prints a line for each: what was done, ID and image_id, between tabs.

  facestream dead-letters retry 17-3 40-0
  facestream dead-letters retry --all --code unavailable
"""
DROP = """\
Take dead letters off the list. No picture, face or answer is deleted. They cannot be retried any more.

Prints a line for each: what was done, ID and image_id, between tabs.

  facestream dead-letters drop 17-3
  facestream dead-letters drop --all --code unreadable_record --yes
"""
ID = "the ID of the list, or the image_id or its beginning, where only one dead letter has it"
LETTERS_PER_APPEND = 100
BYTES_PER_APPEND = 16_000_000


def add_parser(commands: Any) -> None:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(
        "dead-letters",
        help="list, retry or drop what could not be processed",
        description=DESCRIPTION,
        formatter_class=as_written,
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    listing = actions.add_parser(
        "list",
        help="list them, oldest first",
        description="List dead letters, oldest first. On a pipe: id, time, code, attempts, topic partition/offset,"
        " purpose, directory and reason, between tabs.",
    )
    listing.add_argument("--json", action="store_true", help="JSON Lines")
    listing.set_defaults(act=_list)
    show = actions.add_parser("show", help="show one with its event")
    show.add_argument("id", metavar="ID", help=ID)
    show.add_argument("--json", action="store_true", help="one JSON object")
    show.set_defaults(act=_show)
    retrying = actions.add_parser("retry", help="process them again", description=RETRY, formatter_class=as_written)
    retrying.set_defaults(act=_retry)
    dropping = actions.add_parser("drop", help="take them off the list", description=DROP, formatter_class=as_written)
    dropping.add_argument("--yes", action="store_true", help="do not ask before --all")
    dropping.set_defaults(act=_drop)
    for action in (retrying, dropping):
        action.add_argument("ids", nargs="*", metavar="ID", help=ID)
        action.add_argument("--all", action="store_true", help="all of them, or all of a --code and a --directory")
        action.add_argument("--json", action="store_true", help="JSON Lines")
    for action in (listing, retrying, dropping):
        action.add_argument("--code", metavar="C", help="only those with this code")
        action.add_argument(
            "--directory",
            metavar="D",
            type=argument_type("--directory", normalise_name),
            help="only those of this directory",
        )
    for action in (listing, show, retrying, dropping):
        add_settings(action, ("log", "vectors", "data") if action is retrying else ("log", "data"))
        action.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    return run_interruptibly(_run(arguments))


def _check(arguments: argparse.Namespace) -> None:
    """Raises ConfigurationError."""
    if not hasattr(arguments, "ids"):
        return
    if bool(arguments.ids) == arguments.all:
        raise ConfigurationError("say which: one or more IDs of `facestream dead-letters list`, or --all")
    if arguments.ids and (arguments.code is not None or arguments.directory is not None):
        raise ConfigurationError("--code and --directory choose among all: give them with --all, not with IDs")


async def _run(arguments: argparse.Namespace) -> int:
    async with open_stores(settings_from(arguments)) as stores:
        await stores.log.require_topics(TOPICS)
        code: int = await arguments.act(stores, await open_letters(stores.log), arguments)
    return code


async def _list(stores: Stores, letters: list[Letter], arguments: argparse.Namespace) -> int:
    letters = _filter_letters(letters, arguments)
    print_list(letters, await _read_erasures(stores.log), as_json=arguments.json)
    _print_note(describe_count(len(letters), arguments.code, arguments.directory))
    return 0


async def _show(stores: Stores, letters: list[Letter], arguments: argparse.Namespace) -> int:
    letter = _find(letters, arguments.id)
    (content,) = await read_contents(stores.log, [letter])
    print_one(letter, content, await _read_erasures(stores.log), as_json=arguments.json)
    return 0


async def _retry(stores: Stores, letters: list[Letter], arguments: argparse.Namespace) -> int:
    letters = _select_letters(letters, arguments)
    erasures = await _read_erasures(stores.log)
    retried, erased, failed = [], [], 0
    for letter in letters:
        try:
            _check_retry(letter, erasures)
            retried.append(letter)
        except Erased as error:
            print_message(f"{letter.id}: {error.code}: {error.message}")
            erased.append(letter)
        except FacestreamError as error:
            print_message(f"{letter.id}: {error.message}")
            failed += 1
    for batch in _batches(retried):
        await retry(stores.log, stores.vectors, batch)
        for letter in batch:
            _print_done("retried", letter, as_json=arguments.json)
    for batch in _batches(erased):
        await drop(stores.log, batch)
    if arguments.all:
        _print_note(
            f"{len(retried)} retried, {len(erased)} dropped, {failed} left"
            if letters
            else describe_count(0, arguments.code, arguments.directory)
        )
    return 1 if erased or failed else 0


async def _drop(stores: Stores, letters: list[Letter], arguments: argparse.Namespace) -> int:
    letters = _select_letters(letters, arguments)
    if (
        arguments.all
        and letters
        and not arguments.yes
        and not confirm(
            f"Drop {describe_count(len(letters))}? They cannot be retried any more.",
            f"drop --all takes {len(letters)} off the list for good",
        )
    ):
        _print_note("nothing was dropped")
        return 1
    for batch in _batches(letters):
        await drop(stores.log, batch)
        for letter in batch:
            _print_done("dropped", letter, as_json=arguments.json)
    if arguments.all:
        _print_note(f"{len(letters)} dropped" if letters else describe_count(0, arguments.code, arguments.directory))
    return 0


async def _read_erasures(log: EventLog) -> Erasures:
    """The current erasures: a command is too short to follow the topic."""
    erasures = Erasures(log)
    try:
        await erasures.start()
    finally:
        await erasures.close()
    return erasures


def _check_retry(letter: Letter, erasures: Erasures) -> None:
    """Raises Erased, InvalidRequest. Erasures that come after this check are handled by the roles, as for any event."""
    if letter.event is None:
        raise InvalidRequest(
            f"it holds no image to retry: this version cannot read its record in {letter.failure.topic}, or it is a"
            f" command. Let its sender send it again, then `facestream dead-letters drop {letter.id}`"
        )
    if was_erased(letter, erasures):
        raise Erased("it was erased after it was received, and is not processed again: the dead letter is dropped")


def _filter_letters(letters: Sequence[Letter], arguments: argparse.Namespace) -> list[Letter]:
    def fits(letter: Letter) -> bool:
        return arguments.code in (None, letter.failure.code) and arguments.directory in (None, letter.directory)

    return [letter for letter in letters if fits(letter)]


def _select_letters(letters: Sequence[Letter], arguments: argparse.Namespace) -> list[Letter]:
    """The letters that the arguments select. Raises NotFound, InvalidRequest, before anything is done."""
    if arguments.all:
        return _filter_letters(letters, arguments)
    found = {letter.id: letter for letter in (_find(letters, text) for text in arguments.ids)}
    return list(found.values())


def _find(letters: Sequence[Letter], text: str) -> Letter:
    found = [letter for letter in letters if letter.id == text]
    found = found or [letter for letter in letters if text and letter.image_id.startswith(text)]
    if not found:
        raise NotFound(f"there is no dead letter '{text}' any more: see `facestream dead-letters list`")
    if len(found) > 1:
        some = ", ".join(letter.id for letter in found[:3])
        raise InvalidRequest(f"'{text}' may be any of {len(found)} dead letters ({some} ...): give an ID of the list")
    return found[0]


def _batches(letters: Sequence[Letter]) -> Iterator[Sequence[Letter]]:
    """Letters whose contents are in memory at the same time."""
    batch: list[Letter] = []
    for letter in letters:
        if len(batch) == LETTERS_PER_APPEND or sum(it.size for it in (*batch, letter)) > BYTES_PER_APPEND:
            yield batch
            batch = []
        batch.append(letter)
    if batch:
        yield batch


def _print_note(text: str) -> None:
    """Prints to the standard error, so that a pipe gets only the rows."""
    print(text, file=sys.stderr)


def _print_done(action: str, letter: Letter, *, as_json: bool) -> None:
    if as_json:
        line = json.dumps({"action": action, "id": letter.id, "image_id": letter.image_id})
    else:
        line = f"{action}\t{letter.id}\t{printable(letter.image_id)}"
    print(line, flush=True)
