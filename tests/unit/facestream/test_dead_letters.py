"""`facestream dead-letters`, on a log with a worker that writes dead letters."""

import asyncio
import base64
import io
import json
import re
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog

from backends.log import EventLog, NewRecord, Record, TopicPartition
from backends.open import open_log
from backends.sqlite.log import SqliteLog
from backends.sqlite.vectors import SqliteVectors
from facestream.cli import main
from facestream.commands.trace import trace_image
from schemas.cloudevents import decode_image_received
from schemas.erasures import directory_erasure_key, person_erasure_key
from schemas.errors import InvalidEvent, ObjectMissing, ProcessingFailed, Unavailable
from schemas.origins import Origin
from schemas.records import ImageReceived, Source
from stream.dead_letters import dead_letter_record, drop, open_letters, retry
from stream.erase.erasures import identity_record, position_of
from stream.topics import (
    BUCKET_EVENTS,
    DEAD_LETTERS,
    FACES_DETECTED,
    FACES_EMBEDDED,
    IMAGES_RECEIVED,
    IMAGES_RECEIVED_BULK,
    TOPICS,
)
from stream.worker import Worker
from tests.compatibility.recorded import unpack
from tests.keyboard import Keyboard
from tests.records import (
    dead_letter_of,
    erasure_keys,
    erasure_record,
    image_id,
    image_received,
    older_dead_letter_of,
    origin_at,
)
from tests.servers.topics import temporary_topics
from tests.unit.stream.stages import (
    Stage,
    answered,
    image,
    quick_and_quiet,
    read_all,
    running,
    send,
    statuses,
    until,
)

DAY_S = 86_400
SERVER_S = 90.0


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[list[str]]:
        return [line.split("\t") for line in self.out.splitlines()]


Run = Callable[..., Awaitable[Done]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with quick_and_quiet(monkeypatch):
        yield
    structlog.reset_defaults()  # `main` sends the logs to the stderr of the moment


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'log.db'}"


@pytest.fixture
async def log(url: str) -> AsyncIterator[EventLog]:
    log = open_log(url)
    await log.create_topics(TOPICS)
    yield log
    await log.close()


@pytest.fixture
def run(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command as another process would, beside the log that the test has open."""

    def command(arguments: Sequence[str]) -> int:
        try:
            return main(["dead-letters", *arguments, "--log", url, "--data", str(tmp_path / "data")])
        except SystemExit as ended:
            return int(ended.code or 0)

    async def run(*arguments: str) -> Done:
        capsys.readouterr()
        code = await asyncio.to_thread(command, arguments)
        return Done(code, *capsys.readouterr())

    return run


def learn(name: str, **members: Any) -> ImageReceived:
    return image_received(name, "learn", filename=name, **members)


async def ids(log: EventLog) -> list[str]:
    return [it.id for it in await open_letters(log)]


async def received(log: SqliteLog, topic: str = IMAGES_RECEIVED) -> list[ImageReceived]:
    return [decode_image_received(record.value, record.headers) for record in await read_all(log, topic)]


# From the failure to the answer, in both settings.


class Broken(Stage):
    """A stage that fails while `is_broken`."""

    is_broken = True

    async def handle(self, records: Sequence[Record]) -> list[NewRecord]:
        if self.is_broken:
            raise RuntimeError("a defect")
        return await super().handle(records)


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.servers)])
async def either_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'log.db'}"
    else:
        async with temporary_topics(request.getfixturevalue("services")) as kafka:
            yield kafka


class TestInBothSettings:
    @pytest.fixture
    def url(self, either_url: str) -> str:
        return either_url

    async def test_a_failed_image_is_listed_and_retried_until_it_is_answered(self, log: EventLog, run: Run) -> None:
        stage = Broken()
        broken = image("broken").image_id

        async def of_broken() -> list[str]:
            return [it.id for it in await open_letters(log) if it.key == broken]

        await _until_it_can_be_read(log)
        assert await run("list") == (0, "", "there are no dead letters\n")
        async with running(Worker(log, stage, [IMAGES_RECEIVED], member="one", max_in_flight=16)):
            await send(log, "broken", "other")
            await until(lambda: _counts(open_letters(log), 2))
            (original,) = [record for record in await read_all(log, IMAGES_RECEIVED) if record.key == broken]
            (first,) = await of_broken()
            (row,) = [row for row in (await run("list")).rows if row[0] == first]
            place = f"{IMAGES_RECEIVED} {original.partition}/{original.offset}"
            assert row[2:7] == ["processing_failed", "3", place, "recognize", "acme"]

            assert (await run("retry", first))[:2] == (0, f"retried\t{first}\t{broken}\n")
            await until(lambda: _differs(of_broken(), [[], [first]]))
            (second,) = await of_broken()
            shown = json.loads((await run("show", second, "--json")).out)
            assert (shown["partition"], shown["event"]["received_at"]) == (original.partition, original.timestamp)
            assert shown["offset"] > original.offset
            assert Origin.model_validate(shown["event"]["origin"]) == position_of(original)

            stage.is_broken = False
            everything = await run("retry", "--all")
            assert (everything.code, len(everything.rows)) == (0, 2)
            await until(lambda: _is(answered(log), statuses("broken", "other")))
        assert await run("list") == (0, "", "there are no dead letters\n")
        assert await run("retry", "--all") == (0, "", "there are no dead letters\n")
        told = [step.text for step in await trace_image(log, broken)]
        since = datetime.fromtimestamp(original.timestamp / 1000, UTC).isoformat(timespec="milliseconds")
        assert sum(text.startswith(f"accepted to recognize again, as of {since}") for text in told) == 2
        assert sum(text.startswith("dead letter after 3 attempts: processing_failed") for text in told) == 2
        assert {f"dead letter {first} retried", f"dead letter {second} retried"} <= set(told)
        assert len(told) == 10  # and the first "accepted", two answers 500 and one 200


async def _until_it_can_be_read(log: EventLog) -> None:
    """A busy Kafka takes its time with new topics."""
    async with asyncio.timeout(SERVER_S):
        while True:
            with suppress(Unavailable):
                await open_letters(log)
                return


async def _counts(letters: Awaitable[Sequence[Any]], count: int) -> bool:
    return len(await letters) == count


async def _differs(value: Awaitable[Any], others: Sequence[Any]) -> bool:
    return await value not in others


async def _is(value: Awaitable[Any], wanted: Any) -> bool:
    return bool(await value == wanted)


# What is shown.


async def test_the_oldest_is_first_and_the_list_can_be_limited(log: EventLog, run: Run) -> None:
    beta = image_received("b", directory="bétä")
    for number, (event, error) in enumerate(
        [
            (image("a"), Unavailable("away")),
            (beta, Unavailable("away")),
            (None, ObjectMissing("gone")),
            (learn("c"), None),
        ]
    ):
        await log.append([dead_letter_of(event, error=error, offset=number)])
        await asyncio.sleep(0.002)  # each has a time of its own
    everything = await run("list")
    assert [(row[2], *row[4:7]) for row in everything.rows] == [
        ("unavailable", f"{IMAGES_RECEIVED} 3/0", "recognize", "acme"),
        ("unavailable", f"{IMAGES_RECEIVED} 3/1", "recognize", "bétä"),
        ("object_missing", f"{IMAGES_RECEIVED} 3/2", "", ""),
        ("processing_failed", f"{IMAGES_RECEIVED} 3/3", "learn", "acme"),
    ]
    assert (everything.code, everything.err) == (0, "4 dead letters\n")
    of_code = await run("list", "--code", "unavailable")
    assert (of_code.rows, of_code.err) == (everything.rows[:2], "2 dead letters with code 'unavailable'\n")
    decomposed = await run("list", "--directory", "be\u0301ta\u0308")
    assert (decomposed.rows, decomposed.err) == (everything.rows[1:2], "1 dead letter of directory 'bétä'\n")
    nothing = await run("list", "--directory", "bétä", "--code", "x")
    assert nothing == (0, "", "there are no dead letters with code 'x' of directory 'bétä'\n")
    lines = [json.loads(line) for line in (await run("list", "--json")).out.splitlines()]
    assert [(it["id"], it["code"], it["directory"], it["reason"]) for it in lines] == [
        (row[0], row[2], row[6] or None, row[7]) for row in everything.rows
    ]
    assert (lines[0]["image_id"], lines[2]["image_id"]) == (image("a").image_id, "key")


async def test_show_prints_a_dead_letter_with_its_event(log: EventLog, run: Run) -> None:
    await log.append([dead_letter_of(learn("photo"), at=7_000)])
    (place,) = await ids(log)
    event = learn("photo", received_at=7_000, origin=origin_at(44, partition=3))
    shown = await run("show", place)
    assert (shown.code, shown.err) == (0, "")
    told, _, as_json = shown.out.partition("event ")
    assert ImageReceived.decode(as_json.encode()) == event
    fields = dict(line.split(maxsplit=1) for line in told.splitlines())
    assert fields["image_id"] == event.image_id
    assert (fields["attempts"], fields["offset"], fields["reason"]) == ("3", "44", "a defect")
    whole = json.loads((await run("show", place, "--json")).out)
    assert ImageReceived.model_validate(whole["event"]) == event
    assert whole["id"] == place


BAD = {  # by what is shown of it: the bytes of a record that is no event
    '{"image_id": "é", "purpose": 1}': '{"image_id": "é", "purpose": 1}'.encode(),
    "{\n            1}": b"{\n 1}",  # no line looks like a field
    r"\xff\xd8\xff\xe0\x00\x10JFIF": b"\xff\xd8\xff\xe0\0\x10JFIF",
    r"\x1b[2J\r\u202ered": b"\x1b[2J\r" + "\u202ered".encode(),
    "x" * 2_000 + "\n           ... of 2,001 bytes": b"x" * 2_001,
    "none: the record had no value, or is of a kind that letters do not keep": None,
}


@pytest.mark.parametrize("text", BAD)
async def test_show_prints_the_bytes_of_a_bad_record_and_its_headers(log: EventLog, run: Run, text: str) -> None:
    headers = (("ce_type", b"x\x1b[2J\xff"), ("trace", None), ("long", b"y" * 201))
    failed = Record(IMAGES_RECEIVED, 3, 44, 1_000, None, BAD[text], headers)
    await log.append([dead_letter_record(failed, None, ProcessingFailed("a defect"), 3, "processors")])
    (place,) = await ids(log)
    shown = await run("show", place)
    assert (shown.code, shown.err) == (0, "")
    facts, _, record = shown.out.partition("\nrecord     ")
    assert record == f"{text}\n"
    fields = [line.split(maxsplit=1) for line in facts.splitlines()]
    assert ["stage", "processors"] in fields
    assert ["exception", "schemas.errors.ProcessingFailed"] in fields
    assert [it[1] for it in fields if it[0] == "header"] == [
        r"ce_type: x\x1b[2J\xff",
        "trace: null",
        f"long: {'y' * 200}",
    ]
    whole = json.loads((await run("show", place, "--json")).out)
    assert (whole["event"], whole["image_id"], whole["erased"]) == (None, None, False)
    assert (whole["value"] and base64.b64decode(whole["value"])) == BAD[text]
    assert whole["headers"] == [["ce_type", "x\x1b[2J\\xff"], ["trace", None], ["long", "y" * 201]]


async def test_show_prints_some_of_many_headers(log: EventLog, run: Run) -> None:
    failed = Record(IMAGES_RECEIVED, 3, 44, 1_000, None, b"", (("a", b""),) * 1_000)
    await log.append([dead_letter_record(failed, None, ProcessingFailed("a defect"), 3, "processors")])
    out = (await run("show", *await ids(log))).out
    assert out.count("header     a:\n") == 30
    assert "header     ... of 1,000 headers\n" in out


@pytest.mark.parametrize("older", [False, True])
async def test_nothing_is_shown_of_an_image_that_was_erased_but_where_its_record_was(
    log: EventLog, run: Run, older: bool
) -> None:
    secret = "obama"
    event = learn("erased", source=Source(bucket="b", key=f"incoming/acme/learn/{secret}/1.jpg"), directory=secret)
    letter = older_dead_letter_of(event, reason=secret)
    if not older:
        failed = Record(IMAGES_RECEIVED, 3, 44, 1_000, None, event.encode(), (("person", secret.encode()),))
        letter = dead_letter_record(failed, event, ProcessingFailed(secret), 3, "processors")
    await log.append([letter])
    (place,) = await ids(log)
    commands = [("list",), ("list", "--json"), ("show", place), ("show", place, "--json")]
    for arguments in commands:
        assert secret in (await run(*arguments)).out
    await log.append([erasure_record(person_erasure_key(secret, "obama"), before=BEFORE)])
    for arguments in commands:
        done = await run(*arguments)
        assert (done.code, secret in done.out) == (0, False)
        assert "it was erased after it came" in done.out
        assert place in done.out
    assert json.loads((await run("show", place, "--json")).out)["erased"]


async def test_of_an_event_that_does_not_fit_the_erasure_of_its_directory_is_known(log: EventLog, run: Run) -> None:
    event = json.dumps({"image_id": image_id("invalid"), "purpose": "forget", "directory": "acme", "filename": "obama"})
    failed = Record(IMAGES_RECEIVED, 3, BEFORE - 1, 1_000, None, event.encode())
    await log.append([dead_letter_record(failed, None, InvalidEvent("purpose"), 1, "processors")])
    (place,) = await ids(log)
    assert "obama" in (await run("show", place)).out
    await log.append([erasure_record(directory_erasure_key("acme"), before=BEFORE)])
    shown = (await run("show", place)).out
    assert "obama" not in shown
    assert "it was erased after it came" in shown


async def test_an_empty_and_a_null_header_are_shown(log: EventLog, run: Run) -> None:
    headers = (("empty", b""), ("null", None), ("bytes", b"\xff"))
    failed = Record(IMAGES_RECEIVED, 3, 44, 1_000, None, b"{", headers)
    await log.append([dead_letter_record(failed, None, ProcessingFailed("a defect"), 1, "processors")])
    (place,) = await ids(log)
    shown = json.loads((await run("show", place, "--json")).out)
    assert shown["headers"] == [["empty", ""], ["null", None], ["bytes", "\\xff"]]


async def test_control_characters_of_a_record_do_not_reach_the_terminal(log: EventLog, run: Run) -> None:
    hostile = ProcessingFailed("\x1b[2J\tred\n\x9b31m")
    await log.append([dead_letter_of(None, error=hostile, key="\x1b[31m\t\n")])
    (place,) = await ids(log)
    for arguments in [("list",), ("list", "--json"), ("show", place), ("show", place, "--json"), ("drop", place)]:
        done = await run(*arguments)
        assert done.code == 0
        assert not {"\x1b", "\x9b"} & set(done.out + done.err)
    assert len((await run("list")).rows) == 0


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (80, ["id", "when", "code", "directory", "reason"]),
        (150, ["id", "when", "code", "attempts", "from", "purpose", "directory", "reason"]),
    ],
)
async def test_on_a_terminal_list_prints_a_table(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, run: Run, width: int, columns: list[str]
) -> None:
    await log.append([dead_letter_of(learn("photo"))])
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    head, row = re.sub(r"\x1b\[\d*m", "", (await run("list")).out).splitlines()
    assert head.split() == columns
    assert row.split()[0] == (await ids(log))[0]
    assert (row.index("acme"), row.index("a defect")) == (head.index("directory"), head.index("reason"))


async def test_the_letter_in_the_data_folder_of_an_older_version_is_shown_and_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FACESTREAM_LOG", raising=False)
    unpack("0.1.0", tmp_path / "data")

    async def run(*arguments: str) -> str:
        command = ["dead-letters", *arguments, "--data", str(tmp_path / "data")]
        assert await asyncio.to_thread(main, command) == 0
        return capsys.readouterr().out

    (letter,) = [json.loads(line) for line in (await run("list", "--json")).splitlines()]
    assert (letter["code"], letter["stage"]) == ("unreadable_record", None)
    assert json.loads(await run("show", letter["id"], "--json")).items() >= letter.items()
    assert (await run("drop", letter["id"])).startswith("dropped")
    assert await run("list") == ""


# Which are meant.


async def test_an_image_id_selects_a_dead_letter_if_the_image_has_only_one(log: EventLog, run: Run) -> None:
    await log.append(
        [
            dead_letter_of(image("a")),
            dead_letter_of(image("b"), offset=1),
            dead_letter_of(image("b"), offset=2),
        ]
    )
    a, b = image("a").image_id, image("b").image_id
    for text in a, a[:8]:
        assert json.loads((await run("show", text, "--json")).out)["image_id"] == a
    two = await run("show", b)
    assert (two.code, two.out) == (2, "")
    assert "may be any of 2 dead letters" in two.err
    for text in ("", "99-0", str(uuid.uuid4())):
        unknown = await run("drop", text)
        assert (unknown.code, unknown.out) == (1, "")
        assert f"there is no dead letter '{text}'" in unknown.err
    assert (await run("retry", a[:8], "99-0")).code == 1
    assert len(await ids(log)) == 3  # where one is unknown, nothing is done to the others


@pytest.mark.parametrize("action", ["retry", "drop"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say which"),
        (("3-1", "--all"), "say which"),
        (("3-1", "--code", "c"), "with --all"),
        (("3-1", "--directory", "d"), "with --all"),
        (("--all", "--directory", "\n"), "--directory: a name must not"),
    ],
)
async def test_unclear_arguments_are_refused(run: Run, action: str, arguments: tuple[str, ...], said: str) -> None:
    done = await run(action, *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


async def test_without_the_topics_it_says_what_to_do(run: Run) -> None:
    done = await run("list")
    assert (done.code, done.out) == (1, "")
    assert "`facestream init`" in done.err


@pytest.mark.parametrize("action", [(), ("retry",), ("drop",)])
async def test_help_shows_examples(run: Run, action: tuple[str, ...]) -> None:
    done = await run(*action, "--help")
    assert done.code == 0
    assert done.out.count("  facestream dead-letters ") >= 2


# Retry.


async def test_a_retry_chooses_by_code_and_directory(log: SqliteLog, run: Run) -> None:
    other = image_received("other", directory="b")
    events = [
        dead_letter_of(image("a"), offset=1),
        dead_letter_of(image("c"), offset=2, error=Unavailable("away")),
        dead_letter_of(other, offset=3),
    ]
    await log.append(events)
    done = await run("retry", "--all", "--code", "processing_failed", "--directory", "acme")
    assert (done.code, done.err) == (0, "1 retried, 0 dropped, 0 left\n")
    (again,) = await received(log)
    assert again == image("a").model_copy(update={"received_at": 1_000, "origin": origin_at(1, partition=3)})
    assert {it.failure.code for it in await open_letters(log)} == {"unavailable", "processing_failed"}


async def test_a_dead_letter_without_an_image_can_be_dropped_but_not_retried(log: SqliteLog, run: Run) -> None:
    await log.append([dead_letter_of(None, offset=1), dead_letter_of(image("good"), offset=2)])
    bad = next(it.id for it in await open_letters(log) if it.event is None)
    one = await run("retry", bad)
    assert (one.code, one.out) == (1, "")
    assert f"`facestream dead-letters drop {bad}`" in one.err
    everything = await run("retry", "--all")
    assert everything.code == 1
    assert everything.err.endswith("1 retried, 0 dropped, 1 left\n")
    assert await ids(log) == [bad]
    assert len(await received(log)) == 1
    dropped = await run("drop", bad, "--json")
    assert json.loads(dropped.out) == {"action": "dropped", "id": bad, "image_id": "key"}
    assert (dropped.code, dropped.err) == (0, "")
    assert await ids(log) == []


BEFORE = 100  # the offset of the cut of an erasure
LEARNED = learn("erased", origin=origin_at(BEFORE - 1))
KEYS = erasure_keys("erased")


@pytest.mark.parametrize("key", [pytest.param(key, id=what) for what, key in KEYS.items()])
async def test_an_image_erased_after_it_came_is_not_retried(log: SqliteLog, run: Run, key: str) -> None:
    """Its first record counts, not the one that failed, and no time."""
    other = learn("other", directory="b", origin=origin_at(BEFORE - 1))
    await log.append([dead_letter_of(LEARNED, at=9_000, offset=BEFORE + 1), dead_letter_of(other, offset=BEFORE + 2)])
    await log.append([erasure_record(key, at=1_000, before=BEFORE)])
    done = await run("retry", "--all")
    assert done.code == 1
    assert ": erased: " in done.err
    assert done.err.endswith("1 retried, 1 dropped, 0 left\n")
    assert [it.filename for it in await received(log)] == ["other"]
    assert await ids(log) == []


@pytest.mark.parametrize(
    "origin",
    [
        origin_at(BEFORE, partition=3),
        origin_at(BEFORE, partition=4),
        origin_at(BEFORE, IMAGES_RECEIVED_BULK),
        origin_at(BEFORE, BUCKET_EVENTS),
    ],
)
async def test_an_image_that_came_after_the_erasure_is_retried_with_its_origin(
    log: SqliteLog, run: Run, origin: Origin
) -> None:
    """A clock may say that it came before."""
    await log.append([dead_letter_of(learn("erased", origin=origin), at=1_000, offset=BEFORE + 7)])
    await log.append([erasure_record(key, at=9_000, before=BEFORE) for key in KEYS.values()])
    assert (await run("retry", "--all")).code == 0
    assert [(it.received_at, it.origin) for it in await received(log)] == [(1_000, origin)]


@pytest.mark.parametrize(
    ("topic", "offset", "retried"),
    [
        (IMAGES_RECEIVED, BEFORE - 1, False),
        (IMAGES_RECEIVED, BEFORE, True),
        (IMAGES_RECEIVED_BULK, BEFORE - 1, False),
        (IMAGES_RECEIVED_BULK, BEFORE, True),
        (FACES_DETECTED, BEFORE, False),  # of a later stage: nobody knows when the image came
        (FACES_EMBEDDED, BEFORE, False),
    ],
)
@pytest.mark.parametrize("older", [False, True])
async def test_the_failed_record_is_the_origin_if_the_event_names_none(
    log: SqliteLog, run: Run, topic: str, offset: int, retried: bool, older: bool
) -> None:
    event = learn("erased")
    letter = older_dead_letter_of(event, topic=topic, offset=offset)
    if not older:
        failed = Record(topic, 3, offset, 1_000, event.image_id, event.encode())
        letter = dead_letter_record(failed, event, ProcessingFailed("a defect"), 3, "processors")
    await log.append([letter])
    await log.append([erasure_record(KEYS["person"], before=BEFORE)])
    assert (await run("retry", "--all")).code == (0 if retried else 1)
    assert [it.origin for it in await received(log, topic)] == ([origin_at(offset, topic, 3)] if retried else [])


async def test_an_erasure_of_a_former_log_keeps_no_image_of_this_one_from_a_retry(log: SqliteLog, run: Run) -> None:
    """The log was restored from a copy, and its offsets have begun anew."""
    await log.append([identity_record(), erasure_record(KEYS["person"], before=BEFORE, log="the former one")])
    await log.append([dead_letter_of(LEARNED)])
    assert (await run("retry", "--all")).code == 0
    assert [it.origin for it in await received(log)] == [LEARNED.origin]


async def test_an_image_that_fails_again_after_a_retry_keeps_its_first_origin(log: SqliteLog, run: Run) -> None:
    await log.append([dead_letter_of(LEARNED)])
    assert (await run("retry", "--all")).code == 0
    (record,) = await read_all(log, IMAGES_RECEIVED)
    await log.append([dead_letter_record(record, None, ProcessingFailed("a defect"), 3, "processors")])
    assert (await run("retry", "--all")).code == 0
    assert [it.origin for it in await received(log)] == [LEARNED.origin] * 2


@pytest.mark.parametrize("key", [None, b"\xff", "a key of another system"])
async def test_a_trace_has_the_letter_of_a_record_with_any_key(
    log: SqliteLog, run: Run, key: str | bytes | None
) -> None:
    event = learn("erased")
    failed = Record(IMAGES_RECEIVED, 3, 44, 1_000, key, event.encode())
    await log.append([dead_letter_record(failed, None, ProcessingFailed("a defect"), 3, "processors")])
    await log.append([dead_letter_of(learn("other"), offset=45)])
    (letter,) = [it for it in await open_letters(log) if it.image_id == event.image_id]
    assert (await run("drop", event.image_id[:8])).out == f"dropped\t{letter.id}\t{event.image_id}\n"
    assert [step.text for step in await trace_image(log, event.image_id)] == [
        "dead letter after 3 attempts: processing_failed: a defect",
        f"dead letter {letter.id} dropped",
    ]


class CutOff(SqliteLog):
    """A log that appends no more dead letters, as if the process had ended."""

    is_cut_off = False

    async def append(self, records: Sequence[NewRecord]) -> list[TopicPartition]:
        if self.is_cut_off and records[0].topic == DEAD_LETTERS:
            raise Unavailable("away")
        return await super().append(records)


async def test_a_retry_that_is_cut_off_loses_nothing(tmp_path: Path) -> None:
    log, vectors = CutOff(tmp_path / "log.db"), SqliteVectors(tmp_path / "vectors.db")
    await log.create_topics(TOPICS)
    await vectors.create()
    await log.append([dead_letter_of(image("a"))])
    log.is_cut_off = True
    with pytest.raises(Unavailable):
        await retry(log, vectors, await open_letters(log))
    assert len(await received(log)) == len(await ids(log)) == 1
    log.is_cut_off = False
    await retry(log, vectors, await open_letters(log))
    first, second = await received(log)
    assert first == second
    assert await ids(log) == []
    await log.close()
    await vectors.close()


# Drop.


@pytest.mark.parametrize(
    ("answer", "code", "left"), [("y\n", 0, 0), ("YES\n", 0, 0), ("\n", 1, 2), ("n\n", 1, 2), ("", 1, 2)]
)
async def test_all_are_dropped_only_after_the_user_has_confirmed(
    log: EventLog, run: Run, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, left: int
) -> None:
    await log.append([dead_letter_of(image("a"), offset=1), dead_letter_of(image("b"), offset=2)])
    monkeypatch.setattr(sys, "stdin", Keyboard(answer))
    done = await run("drop", "--all")
    assert done.code == code
    assert "2 dead letters?" in done.err
    assert done.out.count("dropped") == 2 - left
    assert len(await ids(log)) == left


async def test_without_a_terminal_dropping_all_requires_the_flag_yes(
    log: EventLog, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.append(
        [dead_letter_of(image("a"), offset=1), dead_letter_of(image("b"), offset=2, error=Unavailable("away"))]
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    refused = await run("drop", "--all")
    assert (refused.code, refused.out) == (2, "")
    assert "--yes" in refused.err
    some = await run("drop", "--all", "--code", "unavailable", "--yes")
    assert (some.code, some.err) == (0, "1 dropped\n")
    assert len(await ids(log)) == 1


# What the topic comes to.


async def test_a_record_that_was_given_up_twice_is_one_dead_letter(log: EventLog) -> None:
    """The process may end between the dead letter and its commit, and another gives the record up again."""
    await log.append(
        [
            dead_letter_of(image("a"), offset=1),
            dead_letter_of(image("a"), offset=1),
            dead_letter_of(image("a"), offset=2),
        ]
    )
    letters = await open_letters(log)
    assert [it.failure.offset for it in letters] == [1, 2]
    await drop(log, letters[:1])
    assert [it.failure.offset for it in await open_letters(log)] == [2]


async def test_closing_an_expired_dead_letter_closes_no_other_one(tmp_path: Path) -> None:
    now = time.time()
    log = SqliteLog(tmp_path / "log.db", clock=lambda: now)
    await log.create_topics(TOPICS)
    await log.append([dead_letter_of(image("a"), offset=1)])
    letters = await open_letters(log)
    now += 10 * DAY_S
    await drop(log, letters)
    await log.append([dead_letter_of(image("a"), offset=2)])
    now += 10 * DAY_S
    await log.enforce_retention()
    assert [it.failure.offset for it in await open_letters(log)] == [2]
    await log.close()


async def test_invalid_records_in_the_topic_are_skipped(log: EventLog) -> None:
    hostile = [None, b"", b"{}", b'{"closed": "retried"}', b'{"closed": "retried", "letter": 7}']
    await log.append([NewRecord(DEAD_LETTERS, image("a").image_id, value) for value in hostile])
    await log.append([dead_letter_of(image("a"))])
    assert len(await ids(log)) == 1
