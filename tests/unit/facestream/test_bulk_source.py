"""The pictures of a bulk command."""

from pathlib import Path

import pytest

from facestream.client.bulk.source import PictureFile, pictures_of, portraits_of
from schemas.errors import ConfigurationError


def files(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_all_pictures_below_a_folder_are_found_in_order(tmp_path: Path) -> None:
    files(
        tmp_path,
        "b.JPG",
        "a.heic",
        "c/z.png",
        "c/d/e.webp",
        "notes.txt",
        ".hidden.jpg",
        ".trash/x.jpg",
        "c/Thumbs.db",
        "jpg",
    )
    assert pictures_of(tmp_path) == [
        PictureFile(str(tmp_path / name), name) for name in ("a.heic", "b.JPG", "c/z.png", "c/d/e.webp")
    ]


def test_each_folder_is_a_person(tmp_path: Path) -> None:
    files(tmp_path, "Ann/1.jpg", "Ann/holidays/2.jpg", "Jose\u0301/1.png", "README.txt")
    assert [(it.person, it.name) for it in portraits_of(tmp_path)] == [
        ("Ann", "Ann/1.jpg"),
        ("Ann", "Ann/holidays/2.jpg"),
        ("José", "Jose\u0301/1.png"),
    ]


def test_the_folder_of_a_person_may_be_a_symbolic_link(tmp_path: Path) -> None:
    files(tmp_path, "elsewhere/1.jpg", "people/Ann/1.jpg")
    (tmp_path / "people" / "Bob").symlink_to(tmp_path / "elsewhere")
    assert [(it.person, it.name) for it in portraits_of(tmp_path / "people")] == [
        ("Ann", "Ann/1.jpg"),
        ("Bob", "Bob/1.jpg"),
    ]


def test_a_table_from_a_spreadsheet(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text(
        '\ufefffile,note,person\r\n"a, b.jpg",x,Ann\r\nc/d.jpg,,Bob\r\nc/d.jpg,,Bob\r\nc/d.jpg,,Cy\r\n'
    )
    assert portraits_of(tmp_path / "people.csv") == [
        PictureFile(str(tmp_path / "a, b.jpg"), "a, b.jpg", "Ann"),
        PictureFile(str(tmp_path / "c/d.jpg"), "c/d.jpg", "Bob"),
        PictureFile(str(tmp_path / "c/d.jpg"), "c/d.jpg", "Cy"),
    ]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (b"person;file\nAnn;a.jpg\n", "person and file"),
        (b"", "person and file"),
        (b"person,file\n", "no pictures"),
        (b"person,file\nAnn,a.jpg\n ,b.jpg\n", "line 3: a name must not be empty"),
        (b"person,file\nAnn\n", "line 2: no file"),
        (b"person,file\nAnn,caf\xe9.jpg\n", "UTF-8"),
    ],
)
def test_an_invalid_table_is_refused(tmp_path: Path, table: bytes, words: str) -> None:
    (tmp_path / "people.csv").write_bytes(table)
    with pytest.raises(ConfigurationError, match=words):
        portraits_of(tmp_path / "people.csv")


def test_a_folder_without_pictures_or_people_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no pictures"):
        pictures_of(tmp_path)
    with pytest.raises(ConfigurationError, match="No such file"):
        portraits_of(tmp_path / "none.csv")
    files(tmp_path, "1.jpg", "Ann/1.jpg")
    with pytest.raises(ConfigurationError, match="in no person's folder"):
        portraits_of(tmp_path)


def test_a_folder_that_cannot_be_read_is_not_left_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        pictures_of(tmp_path / "none")
