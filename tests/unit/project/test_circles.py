"""How the source is written: no circles of imports, no long files, no private words."""

import ast
import subprocess
from functools import cache
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).parents[3]
MOST_LINES, MOST_TEST_LINES = 350, 800
GENERATED_SUFFIXES = (".schema.json", "asyncapi.json", "openapi.json")
# Words that only the place of development has, and that nobody needs to know. They are split, so that this file does
# not contain them.
FORBIDDEN = ["../" + "shared", "shared" + "/photos", "zom" + "bie", "Docker was not" + " at hand", "/work" + "/shared"]


@cache
def tracked(*suffixes: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.split("\0") if name.endswith(suffixes or "")]
    return [path for path in paths if path.is_file()]


def code() -> list[Path]:
    return tracked(".py")


# Imports


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, known: set[str]) -> set[str]:
    """The modules of `known` that a file imports anywhere: in functions and under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & known
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            modules = {f"{node.module}.{alias.name}" for alias in node.names} & known
            if node.module in known and len(modules) < len(node.names):  # a name of the module itself
                modules.add(node.module)
            found |= modules
    return found


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(imports[module]):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            component = [*takewhile(lambda it: it != module, reversed(stack)), module]
            del stack[-len(component) :]
            if len(component) > 1:
                found.append(sorted(component))

    for module in sorted(imports):
        if module not in index:
            visit(module)
    return found


def test_no_files_import_each_other_in_a_circle() -> None:
    trees = {module_name(path): ast.parse(path.read_text()) for path in code()}
    assert circles({name: imported(tree, set(trees)) - {name} for name, tree in trees.items()}) == []


def test_a_circle_is_found_wherever_its_imports_are() -> None:
    sources = {
        "p.a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.b import B",
        "p.b": "def later():\n    import p.c",
        "p.c": "from p import a, d",
        "p.d": "import p.e",
        "p.e": "",
    }
    imports = {name: imported(ast.parse(source), set(sources)) for name, source in sources.items()}
    assert circles(imports) == [["p.a", "p.b", "p.c"]]


# Lengths


def test_no_file_of_code_is_too_long() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in code()}
    most = {path: MOST_TEST_LINES if path.parts[0] == "tests" else MOST_LINES for path in lengths}
    assert {str(path): length for path, length in lengths.items() if length > most[path]} == {}


# Words


def forbidden_words(text: str) -> list[str]:
    return [word for word in FORBIDDEN if word.lower() in text.lower()]


def test_no_tracked_file_has_a_private_path_or_word() -> None:
    found = {}
    for path in tracked():
        if path.name.endswith(GENERATED_SUFFIXES):
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:  # a picture, or other bytes
            continue
        if words := forbidden_words(text):
            found[str(path.relative_to(ROOT))] = words
    assert found == {}


def test_forbidden_words_are_found_in_any_case() -> None:
    assert forbidden_words(f"a {FORBIDDEN[2].title()} in {FORBIDDEN[0]}") == [FORBIDDEN[0], FORBIDDEN[2]]
    assert forbidden_words("shared photos") == []
