"""A group whose next records were deleted stops its role, and continues after `facestream recover`; and
`facestream init`.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import structlog

from backends.log import CommittedOffset, NewRecord, TopicPartition, partition_of
from backends.sqlite.log import SqliteLog
from bench.serving import Serving
from facestream.cli import main
from stream.topics import FACES_EMBEDDED, PARTITIONS


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]
WEEK_S = 7 * 86_400
AT = TopicPartition(FACES_EMBEDDED, partition_of("acme", PARTITIONS))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a command on one data folder."""
    for name in ("LOG", "OBJECTS", "VECTORS"):
        monkeypatch.delenv(f"FACESTREAM_{name}", raising=False)

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        try:
            code = main([*arguments, "--data", str(tmp_path / "data")])
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Done(code, *capsys.readouterr())

    yield run
    structlog.reset_defaults()  # `main` sends the logs to the stderr of the moment


async def committed_then_deleted(path: Path) -> None:
    """Ten records are deleted after a week although the group has handled only four of them, as Kafka does; two more
    are appended.
    """
    log = SqliteLog(path, clock=lambda: time.time() - WEEK_S - 60)
    await log.append([NewRecord(FACES_EMBEDDED, f"old-{number}", b"", "acme") for number in range(10)])
    await log.close()
    log = SqliteLog(path)
    await log.append([NewRecord(FACES_EMBEDDED, f"young-{number}", b"", "acme") for number in range(2)])
    await log.enforce_retention()
    consumer = await log.consumer("sink", [FACES_EMBEDDED], member="one")
    while not consumer.assignment:
        await consumer.poll(1, 0.1)
    await consumer.commit({AT: CommittedOffset(4, "stopped")})
    await consumer.close()
    assert (await log.start_offsets(FACES_EMBEDDED))[AT.partition] == 10
    await log.close()


async def lag(path: Path) -> int:
    log = SqliteLog(path)
    lag = (await log.lag("sink", FACES_EMBEDDED))[AT.partition]
    await log.close()
    return lag


def test_a_role_stops_where_records_are_lost_and_goes_on_after_recover(run: Run, tmp_path: Path) -> None:
    assert run("init").code == 0
    log = tmp_path / "data" / "log.db"
    asyncio.run(committed_then_deleted(log))
    for _ in range(2):
        stopped = run("sink")
        assert stopped.code == 1
        assert re.search(r"^facestream: group 'sink' .* offset 4, .*`facestream recover`", stopped.err, re.MULTILINE)
        assert "Traceback" not in stopped.err
        said = run("recover", "sink")
        assert said.code == 1
        assert said.out == f"{FACES_EMBEDDED} partition {AT.partition}: committed 4, earliest 10: 6 records lost\n"
        assert "--yes" in said.err
    done = run("recover", "sink", "--yes")
    assert done.code == 0
    assert "6 records lost" in done.out
    assert run("recover", "sink") == Done(0, "nothing is missing: the group can go on\n", "")
    with Serving(tmp_path / "data", tmp_path, command=("sink",)):
        deadline = time.monotonic() + 90
        while asyncio.run(lag(log)):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_recover_says_that_a_group_has_lost_nothing(run: Run) -> None:
    run("init")
    for arguments in (), ("--yes",):
        assert run("recover", "processors", *arguments) == Done(0, "nothing is missing: the group can go on\n", "")


def test_recover_says_that_a_role_is_still_running(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facestream.commands.recover.JOIN_S", 1.0)
    run("init")
    with Serving(tmp_path / "data", tmp_path, command=("sink",)) as sink:
        done = run("recover", "sink", "--yes")
        assert sink.alive()
    assert done.code == 2
    assert "stop the role first" in done.err


def test_recover_refuses_an_unknown_group(run: Run) -> None:
    done = run("recover", "nobody")
    assert done.code == 2
    assert "processors" in done.err


def test_without_init_a_role_says_so(run: Run) -> None:
    done = run("sink")
    assert done.code == 1
    assert "`facestream init`" in done.err


def test_init_may_be_repeated_and_creates_one_key(run: Run, tmp_path: Path) -> None:
    first = run("init", "--key")
    assert first.code == 0
    (key,) = first.out.splitlines()
    assert key.startswith("fs_")
    assert key not in first.err
    for arguments in ("init", "--key"), ("init",):
        again = run(*arguments)
        assert (again.code, again.out) == (0, "")
    listed = run("keys", "list").out.splitlines()
    assert [line.split("\t")[:3] for line in listed] == [[key.split("_")[1], "admin", "(every directory)"]]
