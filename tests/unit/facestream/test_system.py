"""A process starts when its stores are available, and ends when it is stopped or cannot continue."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from backends.files.objects import FileObjects
from backends.log import Consumer
from backends.sqlite.log import SqliteLog
from facestream.config import Settings
from facestream.runtime.run_roles import run_roles
from facestream.runtime.serve import ALL, Role, serve
from facestream.runtime.stores import create_stores, open_stores
from schemas.errors import Unavailable
from stream.topics import BUCKET_EVENTS, FACES_EMBEDDED, INTERACTIVE, RESULTS

PATIENCE_S = 20.0


@pytest.fixture
async def settings(tmp_path: Path) -> Settings:
    settings = Settings(data=tmp_path / "data", listen="127.0.0.1:0")
    async with open_stores(settings) as stores:
        await create_stores(stores)
    return settings


async def test_a_role_can_be_stopped_while_it_cannot_join_its_group(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = asyncio.Event()

    async def away(log: SqliteLog, group: str, topics: Sequence[str], **named: object) -> Consumer:
        tried.set()
        raise Unavailable("the coordinator is away")

    monkeypatch.setattr(SqliteLog, "consumer", away)
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(settings, stop, roles=("sink",), on_started=lambda url: None))
    await asyncio.wait_for(tried.wait(), PATIENCE_S)
    stop.set()
    await asyncio.wait_for(serving, PATIENCE_S)


async def test_a_role_can_be_stopped_while_the_stores_are_unavailable(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = asyncio.Event()

    async def away(objects: FileObjects) -> None:
        tried.set()
        raise Unavailable("the store is away")

    monkeypatch.setattr(FileObjects, "ping", away)
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(settings, stop, roles=("sink",), on_started=lambda url: None))
    await asyncio.wait_for(tried.wait(), PATIENCE_S)
    stop.set()
    await asyncio.wait_for(serving, PATIENCE_S)


@pytest.mark.parametrize(
    ("roles", "pairs"),
    [
        (("sink",), [("sink", FACES_EMBEDDED), ("answers", RESULTS), ("bridge", BUCKET_EVENTS)]),
        (("ingest",), INTERACTIVE),
        (("ingest", "sink"), [*INTERACTIVE, ("answers", RESULTS), ("bridge", BUCKET_EVENTS)]),
    ],
    ids=["sink", "ingest", "both"],
)
async def test_the_lag_of_each_group_is_read_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, roles: Sequence[Role], pairs: Sequence[tuple[str, str]]
) -> None:
    asked: list[tuple[str, str]] = []
    complete = asyncio.Event()

    async def oldest_uncommitted_ms(log: SqliteLog, group: str, topic: str) -> None:
        asked.append((group, topic))
        if set(asked) >= set(pairs):
            complete.set()

    monkeypatch.setattr(SqliteLog, "oldest_uncommitted_ms", oldest_uncommitted_ms)
    for module in ("roles.ingest", "serve"):
        monkeypatch.setattr(f"facestream.runtime.{module}.LOOK_EVERY_S", 10 * PATIENCE_S)  # only the first look
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(settings, stop, roles=roles, on_started=lambda url: None))
    await asyncio.wait_for(complete.wait(), PATIENCE_S)
    stop.set()
    await asyncio.wait_for(serving, PATIENCE_S)
    assert sorted(asked) == sorted(pairs)


@pytest.mark.parametrize(
    ("wrong", "code", "said"),
    [({"listen": "0.0.0.0:0"}, 2, "facestream keys create"), ({"watch": "nowhere"}, 2, "FACESTREAM_WATCH")],
    ids=["no key", "no address"],
)
def test_a_failed_start_prints_one_message_and_no_traceback(
    tmp_path: Path, wrong: dict[str, Any], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def init() -> None:
        async with open_stores(chosen) as stores:
            await create_stores(stores)

    chosen = Settings(data=tmp_path / "data", **{"listen": "127.0.0.1:0"} | wrong)
    asyncio.run(init())
    assert run_roles(chosen, ("ingest", "sink"), lambda url: None) == code
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("{")]
    assert len(errors) == 1
    assert errors[0].startswith("facestream: ")
    assert said in errors[0]


def test_a_missing_key_is_noticed_before_the_models_are_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = Settings(data=tmp_path / "data", listen="0.0.0.0:0", weights=tmp_path / "none")
    assert run_roles(chosen, ALL, lambda url: None) == 2
    assert "facestream keys create" in capsys.readouterr().err
