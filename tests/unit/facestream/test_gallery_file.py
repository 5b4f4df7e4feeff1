"""The file of an exported directory: what is written can be read, and other files are refused with a reason."""

import io
import json
import resource
import stat
import tarfile
import uuid
from pathlib import Path

import pytest

from facestream.admin.gallery_file import (
    ExportedFace,
    FaceWithPictures,
    GalleryHead,
    GalleryWriter,
    read_faces,
    read_head,
)
from schemas.errors import ConfigurationError, InvalidRequest, StorageFull

HEAD = GalleryHead(directory="acmé", generations=["one"], faces=2)


def face(number: int, original: bytes | None = b"picture") -> FaceWithPictures:
    exported = ExportedFace(
        person="Å\U0001f499",
        face_id=str(uuid.UUID(int=number)),
        image_id=str(uuid.UUID(int=100 + number)),
        source="s",
        detector="d",
        landmarks=[(1.5, 2.0)] * 5,
        vectors={"one": "AACAPw=="},
    )
    return FaceWithPictures(face=exported, crop=b"crop%d" % number, original=original)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    faces = [face(1), face(2, None), face(3, b"")]
    with GalleryWriter(path, HEAD) as file:
        for it in faces:
            file.add(it)
    assert read_head(path) == HEAD
    assert list(read_faces(path)) == faces
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_export_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError), GalleryWriter(path, HEAD):
        raise RuntimeError
    assert path.read_bytes() == b"before"
    assert [it.name for it in tmp_path.iterdir()] == ["a.tar"]


def tar_of(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


GOOD_HEAD = ("gallery.json", HEAD.model_dump_json().encode())
GOOD_FACE = face(1).face.model_dump(mode="json")


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([], "empty"),
        ([("../../etc/passwd", b"x")], "does not belong"),
        ([GOOD_HEAD, GOOD_HEAD], "does not belong"),
        ([("gallery.json", b"{}")], "no valid GalleryHead"),
        ([GOOD_HEAD, (f"faces/{uuid.UUID(int=1)}.json", json.dumps(GOOD_FACE).encode())], "crop"),
        ([GOOD_HEAD, ("crops/x.jpg", b""), ("faces/x.json", b"not json")], "no valid ExportedFace"),
        ([GOOD_HEAD, ("faces/x.json", b" " * 1_000_001)], "does not belong"),
        ([GOOD_HEAD, ("faces/x.json", json.dumps(GOOD_FACE).replace("1.5", "NaN").encode())], "finite"),
    ],
)
def test_an_invalid_export_is_refused(tmp_path: Path, members: list[tuple[str, bytes]], reason: str) -> None:
    path = tar_of(tmp_path / "a.tar", *members)
    with pytest.raises(InvalidRequest, match=reason):
        all_of(path)


def test_a_member_that_is_larger_than_its_data_is_refused(tmp_path: Path) -> None:
    """A sparse member of 512 bytes says that it has 64 kB."""
    sparse = tarfile.TarInfo("PAX")
    name, size = f"crops/{uuid.UUID(int=1)}.jpg", 65_536
    sparse.size = 512
    sparse.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": name,
        "GNU.sparse.realsize": f"{size}",
    }
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        head = tarfile.TarInfo(GOOD_HEAD[0])
        head.size = len(GOOD_HEAD[1])
        tar.addfile(head, io.BytesIO(GOOD_HEAD[1]))
        tar.addfile(sparse, io.BytesIO(b"0\n".ljust(512, b"\0")))
    with tarfile.open(path) as tar:
        assert [(it.name, it.size, it.isfile()) for it in tar][1:] == [(name, size, True)]
    with pytest.raises(InvalidRequest, match=f"'{name}' does not belong"):
        all_of(path)


def all_of(path: Path) -> list[FaceWithPictures]:
    read_head(path)
    return list(read_faces(path))


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with GalleryWriter(path, HEAD) as file:
        file.add(face(1, b"x" * 5_000))
    path.write_bytes(path.read_bytes()[:3_000])
    with pytest.raises(InvalidRequest, match="cut off"):
        list(read_faces(path))
    path.write_bytes(b"no tar at all" * 100)
    with pytest.raises(InvalidRequest, match="no export"):
        read_head(path)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_head(tmp_path / "missing.tar")


def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "demo.tar", tmp_path / ("y" * 300)):
        with pytest.raises(ConfigurationError, match=r"folder|cannot be written"), GalleryWriter(path, HEAD):
            pass
    assert not list(tmp_path.iterdir())


def test_a_full_disk_ends_the_export_and_leaves_nothing(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with (
            pytest.raises(StorageFull, match=r"demo\.tar cannot be written: File too large"),
            GalleryWriter(tmp_path / "demo.tar", HEAD) as file,
        ):
            file.add(face(1, b"x" * 100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
