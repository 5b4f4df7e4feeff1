"""Tests look at behaviour: none reads, imports or patches private members of our packages."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = {"tests", *(path.parent.name for path in ROOT.glob("*/__init__.py"))}
BY_NAME = {"getattr", "hasattr", "setattr", "delattr", "patch", "object"}  # functions that take a member's name
# What is read all the same, by file.
ALLOWED = {
    # of aiokafka: a producer that skips a sequence number
    "tests/servers/test_log_kafka.py": {"_txn_manager"},
    # of aiokafka: the parts that our adapter relies on
    "tests/unit/backends/test_private_parts.py": {
        "_batches",
        "_client",
        "_fetcher",
        "_message_accumulator",
        "_pending_batches",
        "_sender",
        "_sender_task",
    },
    # in code that mypy reads and nothing runs: what the stages may do with the ports that they hold
    "tests/unit/project/test_guarded_types.py": {"_objects", "_store", "_vectors"},
}


def is_private(name: str) -> bool:
    return name.startswith("_") and name != "_" and not name.endswith("__")


def private_names(source: str) -> Iterator[str]:
    """The private members of other objects that the code uses. Code in strings of several lines counts too."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(value=ast.Name(id="os"), attr="_exit"):  # documented, in spite of its name
                pass
            case ast.Attribute(attr=name) if is_private(name):
                yield name
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] in PACKAGES:
                yield from (it.name for it in names if is_private(it.name))
            case ast.Call(func=ast.Attribute(attr=function) | ast.Name(id=function)) if function in BY_NAME:
                yield from filter(is_private, (it.rpartition(".")[2] for it in texts(node.args[:2])))
            case ast.Constant(value=str(text)) if "\n" in text and is_code(text):
                yield from private_names(text)


def texts(nodes: list[ast.expr]) -> list[str]:
    return [it.value for it in nodes if isinstance(it, ast.Constant) and isinstance(it.value, str)]


def is_code(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def test_no_test_uses_a_private_member() -> None:
    found = {
        str(path.relative_to(ROOT)): set(private_names(path.read_text())) for path in (ROOT / "tests").rglob("*.py")
    }
    assert {path: names for path, names in found.items() if names} == ALLOWED


@pytest.mark.parametrize(
    "source",
    [
        "pool._all[0]",
        "processor(objects)._read_original(received)",
        "self.memory._used",
        "replies._reader = None",
        "super()._handle_record(record)",
        "from sink.match.strangers import _hash",
        "from tests.portraits import Canvas, _seed",
        "monkeypatch.setattr(PersonIndex, '_limits', counting)",
        "monkeypatch.setattr('sink.match.people.PersonIndex._limits', counting)",
        "monkeypatch.delattr(PersonIndex, '_limits')",
        "mock.patch.object(PersonIndex, '_limits')",
        "mock.patch('sink.match.people.PersonIndex._limits')",
        "getattr(pool, '_all')",
        "PROGRAM = 'import sys\\nprint(pool._all)'",
    ],
)
def test_a_private_member_is_found(source: str) -> None:
    assert len(list(private_names(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "self._folder = cls._make()",
        "module.__file__",
        "os._exit(1)",
        "t._('text')",
        "from asyncio import _private_of_a_library",
        "monkeypatch.setattr(erase, 'remaining_lag', counted)",
        "monkeypatch.setenv('PATH', '_limits')",
        "'we\\nsay pool._all'",
    ],
)
def test_other_names_are_not_reported(source: str) -> None:
    assert list(private_names(source)) == []
