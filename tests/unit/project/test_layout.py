"""The modules that each module may load, according to the design."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def loaded_by(modules: str) -> set[str]:
    """The modules that a fresh interpreter has after importing these."""
    script = f"import sys, {modules}; print('\\n'.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_these_modules_never_load_torch() -> None:
    modules = ["ingest.app", "sink.sink", "sink.answers", "stream.worker", "facestream.cli", "facestream.parser"]
    loaded = loaded_by(", ".join(modules))
    assert set(modules) <= loaded
    assert not {"torch", "torchvision", "processors.inference"} & loaded


def test_the_module_that_runs_networks_loads_torch() -> None:
    """The other test would pass as well if it could not see torch at all.

    They load neither torchvision's package nor torch._dynamo: these would take half of the time of a start.
    """
    loaded = loaded_by("processors.inference")
    assert "torch" in loaded
    assert not {"torchvision", "torch._dynamo"} & loaded


@pytest.mark.parametrize("module", ["backends.log", "backends.objects", "backends.vectors"])
def test_a_port_loads_no_adapter(module: str) -> None:
    assert not {it for it in loaded_by(module) if it.startswith("backends.") and it != module}


def test_imports_point_one_way() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
