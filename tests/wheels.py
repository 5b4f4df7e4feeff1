"""The wheel of this project, built for tests."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.conftest import ROOT

BUILD_INPUTS = ("pyproject.toml", "README.md", "LICENSE")


def packages() -> set[str]:
    """The top-level packages that the wheel must have according to pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {pattern.removesuffix("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}


def build_wheel(folder: Path) -> Path:
    """Builds the wheel from a copy of the sources, because a build leaves folders behind in its source tree."""
    sources = folder / "sources"
    sources.mkdir()
    for name in BUILD_INPUTS:
        shutil.copy2(ROOT / name, sources / name)
    for path in ROOT.iterdir():  # all packages that are there, so that the wheel could take in a wrong one
        if (path / "__init__.py").exists():
            shutil.copytree(path, sources / path.name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--wheel-dir", folder, sources], check=True)
    [wheel] = folder.glob("*.whl")
    return wheel
