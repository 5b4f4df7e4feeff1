"""The documents: the things that they name exist, their tables agree with the code, and their requests are valid.

The blocks that are marked `sh` are run by tests/e2e/test_readme.py and tests/e2e/test_events.py.
"""

import argparse
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from facestream.config import OF_CLIENTS, PASSWORDS, Settings
from facestream.parser import COMMANDS
from ingest.app import create_app
from ingest.service import Service
from schemas import errors
from schemas.dead_letters import ERROR_HEADERS, RETRIED_HEADER
from stream.topics import DAY_S, TOPICS
from tests.conftest import ROOT
from tests.documents import EVENTS, GUIDE, Block, blocks, documents, prose, read, table

DOCUMENTS = documents()
LONGEST_LINE = 120
README_LINES = 250
COMMENTED = ("Dockerfile", *(path.name for path in ROOT.glob("docker-compose*.yml")))
OF_SERVERS = {"FACESTREAM"}  # the name of MinIO's target in its own variables
SHELL_WORDS = {"bash", "curl", "docker", "do", "done", "eval", "for"}
TOOLS = {"lint-imports", "mypy", "ruff"}
INSIDE = {  # errors that no client gets
    "store_damaged",
    "offset_gone",
    "fenced",
    "topic_mismatch",
    "weights_invalid",
    "configuration_error",
}


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("facestream")
    commands = parser.add_subparsers(required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def targets() -> set[str]:
    """The targets of the Makefile."""
    return set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))


def commands_of(line: str) -> list[list[str]]:
    """The commands of a line of shell, as words, without what assigns variables and without comments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("&|;"):
            commands.append([])
        elif commands[-1] or not re.match(r"[A-Z_]+=", word):
            commands[-1].append(word)
    return [command for command in commands if command]


def slugs(document: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = [line.lstrip("#").strip() for _, line in prose(document) if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    for number, line in prose(document):
        for target in re.findall(r"\]\(([^)]+)\)", line):
            if re.match(r"https?:", target):
                continue
            name, _, anchor = target.partition("#")
            path = (ROOT / document).parent / name if name else ROOT / document
            assert path.exists(), f"{document}:{number}: {target}"
            if anchor:
                assert anchor in slugs(str(path.resolve().relative_to(ROOT))), f"{document}:{number}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_is_named_exists(document: str) -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    for number, line in prose(document):
        for name in re.findall(r"`([\w.*/-]+)`", line):
            first = name.partition("/")[0]
            of_project = (first in folders and "/" in name) or re.fullmatch(r"[\w-]+\.(md|yml|toml)|Makefile", name)
            if of_project and "NAME" not in name:
                assert list(ROOT.glob(name)), f"{document}:{number}: {name}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_and_setting_that_is_named_exists(document: str) -> None:
    names = {command.split()[0] for command in re.findall(r"[`.]facestream ([a-z][a-z -]*)", read(document))}
    assert names <= set(command_names()) | {"bench"}, document  # which the changelog says is gone
    settings = set(re.findall(r"FACESTREAM_([A-Z_]+)", read(document)))
    known = {it.upper() for it in Settings.model_fields} | {*OF_CLIENTS, *PASSWORDS} | OF_SERVERS
    assert settings <= known, document
    assert set(re.findall(r"`make ([a-z-]+)", read(document))) <= targets(), document
    for module in re.findall(r"python -m ([\w.]+)", read(document)):
        assert importlib.util.find_spec(module), f"{document}: {module}"


def command_names() -> set[str]:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    for command in COMMANDS:
        command.add_parser(commands)
    return set(commands.choices)


@pytest.mark.parametrize("document", [*DOCUMENTS, *COMMENTED])
def test_lines_of_prose_are_not_too_long(document: str) -> None:
    is_markdown = document.endswith(".md")
    for number, line in prose(document) if is_markdown else enumerate(read(document).splitlines(), 1):
        if (is_markdown and not line.startswith("|")) or (not is_markdown and "#" in line):
            assert len(line) <= LONGEST_LINE, f"{document}:{number} has {len(line)} characters"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_is_run_or_checked(document: str) -> None:
    """A block without a kind is a picture or shows what is printed."""
    kinds = (
        {"", "sh", "bash", "json"}
        if document in GUIDE
        else {"", "sh", "python"}
        if document == EVENTS
        else {"", "bash"}
    )
    assert {block.kind for block in blocks(document)} <= kinds


@pytest.mark.parametrize(
    "block", [it for document in DOCUMENTS for it in blocks(document) if it.kind == "bash"], ids=str
)
def test_commands_in_blocks_that_are_not_run_exist(block: Block, parser: argparse.ArgumentParser) -> None:
    for line in block.text.splitlines():
        for program, *words in commands_of(line):
            name = Path(program).name
            if name == "make":
                [target] = [word for word in words if not word.startswith("-") and "=" not in word]
                assert target in targets(), line
            elif name == "facestream":
                parser.parse_args(words)
            elif name == "python":
                assert words[0] == "-m", line
                assert importlib.util.find_spec(words[1]), line
                assert all((ROOT / word).exists() for word in words if "/" in word), line
            else:
                assert name in SHELL_WORDS or (name in TOOLS and Path(sys.executable).with_name(name).exists()), line


def test_the_readme_is_short() -> None:
    assert len(read("README.md").splitlines()) < README_LINES


def test_no_document_has_a_path_of_the_machine_it_was_written_on() -> None:
    for document in [*DOCUMENTS, *(f"findings/{path.name}" for path in (ROOT / "findings").glob("*.sh"))]:
        assert not re.search(r"/(?:home|root|work|Users)/", read(document)), document


def test_the_settings_are_all_described_with_their_defaults() -> None:
    rows = table("docs/operations.md", "| setting | default | what it is |")
    described = {cells[0].strip("`").removeprefix("FACESTREAM_").lower(): cells[1] for cells in rows}
    assert described.keys() == Settings.model_fields.keys()
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, (bool, int, float)):
            assert float(described[name]) == float(field.default), name
        elif field.default:
            assert described[name] == str(field.default), name


def test_the_topics_are_those_of_the_code() -> None:
    rows = table("docs/architecture.md", "| topic | partitions | kept |")
    described = {cells[0].strip("`"): (int(cells[1]), cells[2]) for cells in rows}
    kept = {
        it.name: "compacted"
        if it.compacted
        else f"{(days := round((it.retention_s or 0) / DAY_S))} day{'s' * (days > 1)}"
        for it in TOPICS
    }
    assert described == {it.name: (it.partitions, kept[it.name]) for it in TOPICS}


def test_the_headers_of_dead_letters_are_all_described() -> None:
    rows = table("docs/events.md", "| header | |")
    assert [cells[0].strip("`") for cells in rows] == list(ERROR_HEADERS.values())
    assert f"`{RETRIED_HEADER}`" in read("docs/events.md")


def test_the_routes_are_all_described() -> None:
    app = create_app(cast(Service, SimpleNamespace(checks={}, flow=SimpleNamespace(degraded=dict))))
    served = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    rows = table("docs/http.md", "| route | scope of the key | what it does |")
    described = {tuple(cells[0].strip("`").split(" ")) for cells in rows}
    page = ("GET", "/docs")  # whose files are not described one by one
    assert {it for it in served if not it[1].startswith("/docs/")} <= described
    assert described - served <= {page, ("GET", "/openapi.json")}


def test_the_errors_are_all_that_a_client_can_get() -> None:
    rows = table("docs/http.md", "| status | code |")
    named = {code for cells in rows for code in re.findall(r"`([a-z_]+)`", cells[1])}
    classes = [it for it in vars(errors).values() if isinstance(it, type) and issubclass(it, errors.FacestreamError)]
    assert named == {it.code for it in classes} - INSIDE
    statuses = {int(status) for cells in rows for status in re.findall(r"\d+", cells[0])}
    assert statuses == {it.status for it in classes if it.code in named}


def test_the_rules_that_docstrings_cite_are_in_the_architecture() -> None:
    rules = {int(number) for number in re.findall(r"^### (\d+)\. ", read("docs/architecture.md"), re.MULTILINE)}
    assert rules == set(range(1, 8))
    for folder in ("backends", "facestream", "ingest", "processors", "schemas", "sink", "stream", "weights"):
        for path in (ROOT / folder).rglob("*.py"):
            cited = {int(number) for number in re.findall(r"\brules? (\d+)", path.read_text())}
            assert cited <= rules, path


def test_every_decision_is_short() -> None:
    for path in (ROOT / "docs" / "decisions").glob("*.md"):
        assert len(path.read_text().splitlines()) <= 60, path.name
