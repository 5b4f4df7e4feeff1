"""The output of commands on a pipe: all columns, separated by tabs, or JSON."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog

from facestream import parser
from facestream.cli import main
from facestream.config import Settings
from facestream.runtime.stores import create_stores, open_stores
from facestream.terminal import Cell, print_rows
from schemas.errors import ConfigurationError, NotFound, Unavailable
from stream.generations import generation_record
from weights.manifest import manifest

Run = Callable[..., str]
LONG = "a-generation-with-a-name-of-64-characters-which-no-table-may-cut"
DIRECTORY = "Ann Lee & Sons, " + "photographs of all the years since 1998, " * 4


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a command on a data folder; returns what it prints."""
    for name in ("LOG", "OBJECTS", "VECTORS", "WEIGHTS"):
        monkeypatch.delenv(f"FACESTREAM_{name}", raising=False)

    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main([*arguments, "--data", str(tmp_path / "data")]) == code
        return capsys.readouterr().out

    yield run
    structlog.reset_defaults()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def cells(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def test_models_list_prints_all_columns_or_json(run: Run, tmp_path: Path) -> None:
    async def add() -> None:
        async with open_stores(Settings(data=tmp_path / "data")) as stores:
            await create_stores(stores)
            generation = manifest().generation(manifest().default_generation)
            await stores.log.append([generation_record(generation.model_copy(update={"name": LONG}))])

    asyncio.run(add())
    listed = lines(run("models", "list", "--json"))
    assert {LONG, manifest().default_generation} <= {it["name"] for it in listed}
    assert cells(run("models", "list")) == [
        [("yes" if it else "no") if isinstance(it, bool) else str(it) for it in row.values()] for row in listed
    ]


def test_keys_list_prints_all_columns_or_json(run: Run) -> None:
    for arguments in (("--scope", "admin"), ("--scope", "learn", "--directory", DIRECTORY[:200])):
        run("keys", "create", *arguments)
    listed = lines(run("keys", "list", "--json"))
    assert {(it["scope"], it["directory"]) for it in listed} == {("admin", None), ("learn", DIRECTORY[:200])}
    assert {(row[0], row[2]) for row in cells(run("keys", "list"))} == {
        (it["key_id"], it["directory"] or "(every directory)") for it in listed
    }


def test_weights_list_prints_all_columns_or_json(run: Run) -> None:
    listed = lines(run("weights", "list", "--json", code=1))
    assert [(it["name"], it["path"]) for it in listed] == [(name, None) for name in manifest().models]
    assert [row[-1] for row in cells(run("weights", "list", code=1))] == ["missing: facestream weights get"] * len(
        listed
    )


def test_recover_and_erase_verify_print_json_without_results(run: Run) -> None:
    run("init")
    assert lines(run("recover", "sink", "--json")) == [
        {"group": "sink", "set": False, "partitions": [], "unreadable": []}
    ]
    (found,) = lines(run("erase", "verify", "--json"))
    assert found["stores"] == {"vectors": [], "answers": [], "objects": []}
    assert found["topics"]["results"] == {"records": 0, "gone_by": None}
    assert (found["taken_back"], found["deleted"]) == (0, [])
    assert "uploading" not in found


def test_control_characters_in_cells_are_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    row: dict[str, Cell] = {"a": "x\ty\n\x1b[2J", "b": None, "c": True, "d": 1.5}
    print_rows([row], as_json=False)
    assert capsys.readouterr().out == "x\ufffdy\ufffd\ufffd[2J\t\tyes\t1.5\n"
    print_rows([row], as_json=True)
    out = capsys.readouterr().out
    assert json.loads(out) == row
    assert out.isascii()


@pytest.mark.parametrize(
    ("errors", "code"),
    [([Unavailable("away"), NotFound("gone")], 1), ([ConfigurationError("away"), NotFound("gone")], 2)],
)
def test_each_error_of_a_group_of_tasks_is_a_message(
    errors: list[Exception], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: Sequence[str] | None) -> int:
        raise ExceptionGroup("tasks", [errors[0], ExceptionGroup("inner", errors[1:])])

    monkeypatch.setattr(parser, "run_command", fail)
    assert main([]) == code
    assert capsys.readouterr().err == "facestream: away\nfacestream: gone\n"


def test_a_defect_in_a_group_of_tasks_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: Sequence[str] | None) -> int:
        raise ExceptionGroup("tasks", [Unavailable("away"), KeyError("a defect")])

    monkeypatch.setattr(parser, "run_command", fail)
    with pytest.raises(ExceptionGroup):
        main([])
