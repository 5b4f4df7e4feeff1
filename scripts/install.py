"""Makes the virtual environment .venv with everything that facestream needs: `make run` and `make test` call it.

Runs on a bare Python 3.11 or newer. It prints what it will download, checks the free disk space, and does nothing if
the environment is complete. pip keeps what it has downloaded, so that an interrupted run continues.

  TORCH=cuda       the default: torch as the package index has it, on Linux with CUDA (about 3 GB to download, 6 GB on
                   disk)
  TORCH=installed  use the torch and torchvision that this Python has already
  TORCH_INDEX=URL  get torch from another index, for example that of the CPU-only builds, 0.2 GB (pytorch.org, "Get
                   Started")
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
STAMP = ENVIRONMENT / "installed"
PYTHON = ENVIRONMENT / "bin" / "python"
CONSTRAINTS = ROOT / "constraints.txt"
GIGA = 1e9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dev", action="store_true", help="with the packages that the tests need")
    arguments = parser.parse_args()
    torch, index = os.environ.get("TORCH", "cuda"), os.environ.get("TORCH_INDEX", "")
    if sys.version_info < (3, 11):  # noqa: UP036 - the Python that runs this may be older
        return fail(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: make PYTHON=python3.12 …")
    if torch not in ("cuda", "installed"):
        return fail(
            f"TORCH is '{torch}': use cuda or installed; for a CPU-only build set TORCH_INDEX: docs/operations.md"
        )
    wanted = stamp(arguments.dev, torch, index)
    if STAMP.exists() and wanted in STAMP.read_text().split():
        return 0
    download, disk = (0.2, 1.0) if torch == "installed" else (0.4, 2.0) if index else (3.0, 7.0)
    print(f"Setting up {ENVIRONMENT}: downloads about {download} GB, takes about {disk} GB of disk.")
    if torch == "cuda" and not index:
        print("Most of it is torch with CUDA. Without a GPU a CPU-only torch is enough: see docs/operations.md.")
    free = shutil.disk_usage(ROOT).free / GIGA
    if free < disk:
        return fail(f"only {free:.1f} GB are free on the disk of {ROOT}, {disk} GB are needed")
    if not PYTHON.exists() or not (ENVIRONMENT / "bin" / "pip").exists():
        venv.create(ENVIRONMENT, with_pip=True, system_site_packages=torch == "installed", clear=True)
    STAMP.unlink(missing_ok=True)
    pip("--upgrade", "pip", "setuptools")
    if torch == "installed":
        check = "import torch, torchvision; print('using torch', torch.__version__)"
        if subprocess.run([PYTHON, "-c", check]).returncode:
            return fail(f"TORCH=installed, but {sys.executable} has no torch and torchvision")
    elif index:
        pip("--index-url", index, "torch", "torchvision")
    else:
        pip("torch", "torchvision")
    extra = "[dev]" if arguments.dev else ""
    pip("--no-build-isolation", "--editable", f"{ROOT}{extra}")
    STAMP.write_text("\n".join({wanted, stamp(False, torch, index)}))
    print("The environment is ready.")
    return 0


def pip(*arguments: str) -> None:
    """Installs within the constraints, with pip's output as progress. Ends this program when pip fails."""
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "-c", str(CONSTRAINTS), *arguments]
    if "pip" not in arguments:
        command.append("--resume-retries=10")
    code = subprocess.run(command).returncode
    if code:
        sys.exit(fail("pip could not install (see above). Run the same command again: it continues."))


def stamp(dev: bool, torch: str, index: str) -> str:
    """Identifies a complete environment."""
    parts = [sys.version, str(dev), torch, index, CONSTRAINTS.read_text(), (ROOT / "pyproject.toml").read_text()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def fail(message: str) -> int:
    print(f"install: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
