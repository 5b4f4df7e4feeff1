"""Wrong arguments end a command with exit code 2 and a message that names the argument, before anything is done."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from facestream.cli import main

LONG = "x" * 300
IMAGE_ID = "00000000-0000-0000-0000-000000000000"
ONNX = ("--input", "112", "--template", "arcface", "--range", "0..1")
NAMED = [
    ("export", "x.tar", "--directory"),
    ("import", "x.tar", "--directory"),
    ("keys", "create", "--scope", "admin", "--directory"),
    ("dead-letters", "list", "--directory"),
    ("dead-letters", "drop", "--all", "--directory"),
    ("models", "compare", "a", "b", "--directory"),
    ("learn", "f.jpg", "--directory", "d", "--person"),
    ("learn", "f.jpg", "--person", "p", "--directory"),
    ("recognize", "f.jpg", "--directory"),
]
PATHS = [
    ("export", "--directory", "d"),
    ("import",),
    ("recognize", "--directory", "d"),
    ("learn", "--directory", "d", "--person", "p"),
    ("watch",),
    ("models", "compare", "a", "b", "--sheet"),
    ("recognize", "f.jpg", "--directory", "d", "--draw"),
    ("recognize", ".", "--directory", "d", "--report"),
    ("models", "add", "n", "f.onnx", *ONNX, "--try"),
    ("weights", "get", "--from"),
    ("weights", "get", "--weights"),
    ("weights", "list", "--data"),
    ("up", "--data"),
]
FOLDERS = [
    ("keys", "list"),
    ("up",),
    ("init",),
    ("models", "list"),
    ("recognize", "f.jpg", "--directory", "d"),
    ("weights", "get"),
    ("trace", IMAGE_ID),
    ("recover", "sink"),
    ("sink",),
    ("erase", "verify"),
]
URLS = [
    "http://[::1",
    "http://host:99999",
    "http://host:x",
    "http://a b",
    "http://host\n",
    "ftp://host",
    "http://:80",
    "http://..",
    f"http://{LONG}.org",
    " ",
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("DATA", "LOG", "OBJECTS", "VECTORS", "WEIGHTS", "URL", "KEY"):
        monkeypatch.delenv(f"FACESTREAM_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.jpg").write_bytes(b"\xff\xd8\xff")
    yield tmp_path
    structlog.reset_defaults()  # `main` sends the logs to the stderr of the moment


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Runs a command that has to end with 2 and one line of error, which is returned."""
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = int(ended.code or 0)
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("facestream: ")
    assert len(err.splitlines()) == 1
    return err


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\ud800", LONG])
@pytest.mark.parametrize("command", NAMED, ids=lambda it: " ".join(it))
def test_wrong_names_are_refused(
    capsys: pytest.CaptureFixture[str], folder: Path, command: tuple[str, ...], name: str
) -> None:
    assert f"{command[-1]}: a name " in refused(capsys, *command, name)
    assert [it.name for it in folder.iterdir()] == ["f.jpg"]


@pytest.mark.parametrize("path", ["", " "])
@pytest.mark.parametrize("command", PATHS, ids=lambda it: " ".join(it))
def test_blank_paths_are_refused(
    capsys: pytest.CaptureFixture[str], folder: Path, command: tuple[str, ...], path: str
) -> None:
    """A blank path would be the current folder."""
    assert "must not be empty" in refused(capsys, *command, path)
    assert [it.name for it in folder.iterdir()] == ["f.jpg"]


@pytest.mark.parametrize("data", ["f.jpg", "f.jpg/data", "y" * 5_000], ids=["file", "below a file", "too long"])
@pytest.mark.parametrize("command", FOLDERS, ids=lambda it: " ".join(it))
def test_unusable_data_folders_are_refused(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...], data: str
) -> None:
    assert "cannot be" in refused(capsys, *command, "--data", data)


@pytest.mark.parametrize("url", URLS)
def test_wrong_urls_of_a_service_are_refused(capsys: pytest.CaptureFixture[str], url: str) -> None:
    error = refused(capsys, "recognize", "f.jpg", "--directory", "d", "--url", url)
    assert "--url" in error or "is no URL of a service" in error


@pytest.mark.parametrize("setting", ["--log", "--objects", "--vectors"])
def test_errors_about_urls_of_stores_hide_the_password(capsys: pytest.CaptureFixture[str], setting: str) -> None:
    error = refused(capsys, "init", setting, "kafka://user:hunter2@[::1")
    assert setting in error
    assert "hunter2" not in error


@pytest.mark.parametrize("number", ["nan", "inf", "1e400", "-1", "x", ""])
@pytest.mark.parametrize(
    "command",
    [
        ("reembed", "n", "--rate"),
        ("redetect", "centerface-mirror", "--rate"),
        ("init", "--wait"),
        ("up", "--keep-probes"),
        ("up", "--max-age"),
        ("up", "--max-upload"),
        ("up", "--max-pixels"),
        ("up", "--max-in-flight"),
        ("up", "--upload-memory"),
        ("up", "--gallery-memory"),
        ("up", "--threads"),
        ("up", "--decoders"),
        ("recognize", "f.jpg", "--directory", "d", "--min-score"),
        ("recognize", "f.jpg", "--directory", "d", "--min-face"),
        ("recognize", "f.jpg", "--directory", "d", "--strangers"),
        ("recognize", "f.jpg", "--directory", "d", "--top"),
        ("recognize", "f.jpg", "--directory", "d", "--limit"),
    ],
    ids=lambda it: " ".join(it),
)
def test_wrong_numbers_are_refused(capsys: pytest.CaptureFixture[str], command: tuple[str, ...], number: str) -> None:
    assert command[-1] in refused(capsys, *command, number)


@pytest.mark.parametrize("number", ["9" * 20, "9" * 5_000], ids=len)
@pytest.mark.parametrize(
    ("command", "before"),
    [
        (("reembed", "n", "--threads"), ""),
        (("reembed", "n", "--decoders"), ""),
        (("init", "--wait", "0", "--log"), "kafka://127.0.0.1:9?replication="),
        (("init", "--wait", "0", "--log"), "kafka://127.0.0.1:"),
    ],
    ids=str,
)
def test_numbers_that_are_too_large_are_refused(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...], before: str, number: str
) -> None:
    assert f"FACESTREAM_{command[-1][2:].upper()}" in refused(capsys, *command, before + number)


@pytest.mark.parametrize("listen", ["", "x", ":", "host:", "127.0.0.1:99999", "127.0.0.1:²"])
def test_wrong_addresses_are_refused_before_the_models_are_loaded(
    capsys: pytest.CaptureFixture[str], listen: str
) -> None:
    for flag in ("--listen", "--watch") if listen else ("--listen",):
        assert f"FACESTREAM_{flag[2:].upper()}" in refused(capsys, "up", flag, listen)


def test_wrong_files_and_folders_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no export" in refused(capsys, "import", "f.jpg")
    for file in ("none.tar", ".", "y" * 5_000):
        assert "cannot be read" in refused(capsys, "import", file)
    for folder in ("f.jpg", "y" * 5_000):
        assert "is not a folder" in refused(capsys, "watch", folder)
        assert "is not a folder" in refused(capsys, "weights", "get", "--from", folder)


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        (("recogniz",), "did you mean 'recognize'?"),
        (("dead-letter",), "did you mean 'dead-letters'?"),
        (("models", "lst"), "did you mean 'list'?"),
        (("keys", "create", "--scope", "amdin"), "did you mean 'admin'?"),
        (("bench",), "choose from up, weights"),
    ],
)
def test_a_wrong_command_suggests_the_nearest(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...], hint: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ("recognize", "y" * 5_000, "--directory", "d"),
        ("learn", "y" * 5_000, "--person", "p", "--directory", "d"),
        ("learn", "y" * 5_000, "--directory", "d"),
        ("recognize", "f.jpg", "--directory", "d", "--draw", "y" * 5_000 + ".jpg"),
        ("models", "compare", "a", "b", "--sheet", "y" * 5_000 + ".jpg"),
    ],
    ids=lambda it: " ".join(it).replace("y" * 5_000, "LONG"),
)
def test_a_path_that_is_too_long_gives_an_error_without_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("FACESTREAM_URL", "http://127.0.0.1:9")
    assert main(command) in (1, 2)
    assert capsys.readouterr().err.startswith("facestream: ")
