"""The measured photos are a fixed selection of those in a folder."""

import io
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.photos import add_photos_argument
from bench.speed import photos
from bench.speed.photos import select_photos
from schemas.errors import ConfigurationError


def fill(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((12, 16, 3), number, np.uint8)
        Image.fromarray(pixels).save(path)


def test_the_same_files_give_the_same_list_wherever_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "MOST_PHOTOS", 4)
    names = [f"{folder}/{number}.png" for folder in ("a", "b/c") for number in range(4)]
    fill(tmp_path / "one", names)
    fill(tmp_path / "other", names)
    one, other = select_photos(tmp_path / "one"), select_photos(tmp_path / "other")
    assert one == other
    assert {name for name, _ in one.listed[:-1]} < set(names)
    assert [name for name, _ in one.listed[:-1]] != sorted(name for name, _ in one.listed[:-1])
    assert len(one.listed) == 5
    assert len(one.repeated(12)) == 12


def test_the_first_one_is_enlarged_to_twelve_megapixels(tmp_path: Path) -> None:
    fill(tmp_path, ["a.jpg", "b.jpg"])
    found = select_photos(tmp_path)
    name, data = found.listed[-1]
    assert name == found.phone == f"{Path(found.listed[0][0]).stem}-12mp.jpg"
    with Image.open(io.BytesIO(data)) as image:
        assert image.width * image.height == pytest.approx(12e6, rel=1e-3)
    assert list(found.learned.values()) == [data for _, data in found.listed[:2]]


def test_what_is_no_image_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, ["a.jpg"])
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 and no more")
    (tmp_path / "notes.txt").write_text("none")
    assert [name for name, _ in select_photos(tmp_path).listed] == ["a.jpg", "a-12mp.jpg"]
    assert f"{tmp_path / 'broken.jpg'} cannot be read" in capsys.readouterr().err


def test_a_folder_without_photos_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="make photos"):
        select_photos(tmp_path)


def test_the_folder_comes_from_the_argument_then_the_variable_then_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def folder(*arguments: str) -> Path:
        parser = ArgumentParser()
        add_photos_argument(parser, "photos")
        chosen: Path = parser.parse_args(arguments).photos
        return chosen

    monkeypatch.delenv("PHOTOS", raising=False)
    assert folder() == Path("photos")
    monkeypatch.setenv("PHOTOS", "/from/variable")
    assert folder() == Path("/from/variable")
    assert folder("/from/argument") == Path("/from/argument")
