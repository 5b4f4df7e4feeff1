"""The contents and the metadata of the wheel."""

import email
import zipfile
from email.message import Message
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.wheels import build_wheel, packages


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(build_wheel(tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


def data_files(package: Path) -> set[str]:
    """The files of a package that no code generates while it runs."""
    files = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(ROOT)) for path in files}


def test_the_wheel_has_every_file_of_every_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == {name for package in packages() for name in data_files(ROOT / package)}
    assert {"weights/manifest.toml", "schemas/records.schema.json", "schemas/asyncapi.json"} <= names
    assert {"backends", "facestream", "ingest", "processors", "schemas", "sink", "stream", "weights"} == packages()


def test_every_package_is_typed(wheel: zipfile.ZipFile) -> None:
    assert {f"{package}/py.typed" for package in packages()} <= set(wheel.namelist())


def test_it_carries_its_licence(wheel: zipfile.ZipFile, metadata: Message) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    [name] = [name for name in wheel.namelist() if name.endswith("/licenses/LICENSE")]
    assert "Apache License" in wheel.read(name).decode()


def test_the_metadata_describes_the_project(metadata: Message) -> None:
    assert metadata["Name"] == "facestream"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).startswith("# facestream")
