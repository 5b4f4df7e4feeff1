"""Settings from the environment and from flags, and where the stores of a data folder are."""

import argparse
import os
import re
import subprocess
from pathlib import Path

import pytest
import structlog.testing

from backends.open import open_log, open_objects, open_vectors
from facestream.config import MEBI, Settings, warn_of_unknown_variables
from facestream.flags import add_settings, settings_from
from schemas.errors import ConfigurationError
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"FACESTREAM_{name.upper()}", raising=False)


def parsed(*argv: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_settings(parser)
    return settings_from(parser.parse_args(argv))


def test_the_defaults_serve_one_machine() -> None:
    settings = parsed()
    assert settings.listen == "127.0.0.1:8080"
    assert (settings.log_url, settings.objects_url) == ("sqlite:///data/log.db", "file:///data/objects")
    assert (settings.vectors_url, settings.weights_folder) == ("sqlite:///data/vectors.db", Path("data/weights"))
    assert (settings.max_upload, settings.max_pixels, settings.keep_probes) == (32 * MEBI, 120_000_000, 7)
    assert not settings.open


def test_each_setting_comes_from_the_environment_and_a_flag_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "listen": ("0.0.0.0:1", "0.0.0.0:2"),
        "data": ("one", "two"),
        "log": ("sqlite:///one", "sqlite:///two"),
        "objects": ("file:///one", "file:///two"),
        "vectors": ("sqlite:///one", "sqlite:///two"),
        "weights": ("one", "two"),
        "device": ("cpu", "cuda"),
        "dtype": ("float32", "float16"),
        "keep_probes": ("0.5", "0"),
        "max_upload": ("1", "2"),
        "max_pixels": ("1", "2"),
        "max_in_flight": ("1", "2"),
        "upload_memory": ("1", "2"),
        "gallery_memory": ("1", "2"),
        "decoders": ("1", "2"),
        "watch": ("one", "two"),
        "member": ("one", "two"),
        "stage": ("detect", "embed"),
        "threads": ("1", "2"),
        "max_age": ("1.5", "2.5"),
        "sources": ("one", "two"),
    }
    assert set(given) | {"open"} == set(Settings.model_fields)
    for name, (environment, _) in given.items():
        monkeypatch.setenv(f"FACESTREAM_{name.upper()}", environment)
    expected = {name: type(getattr(parsed(), name))(environment) for name, (environment, _) in given.items()}
    assert parsed().model_dump(exclude={"open"}) == expected
    flags = [text for name, (_, flag) in given.items() for text in (f"--{name.replace('_', '-')}", flag)]
    expected = {name: type(expected[name])(flag) for name, (_, flag) in given.items()}
    assert parsed(*flags).model_dump(exclude={"open"}) == expected


def test_the_service_is_open_to_everybody_only_if_the_setting_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parsed("--open").open
    monkeypatch.setenv("FACESTREAM_OPEN", "1")
    assert parsed().open


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("max_upload", "0"), ("max_upload", "32MB"), ("keep_probes", "-1"), ("open", "perhaps"), ("decoders", "-1")],
)
def test_a_wrong_setting_is_named_as_a_variable_and_as_a_flag(
    monkeypatch: pytest.MonkeyPatch, name: str, wrong: str
) -> None:
    monkeypatch.setenv(f"FACESTREAM_{name.upper()}", wrong)
    with pytest.raises(ConfigurationError, match=f"FACESTREAM_{name.upper()} .--{name.replace('_', '-')}.: ."):
        parsed()


def test_a_command_takes_the_flags_that_concern_it() -> None:
    parser = argparse.ArgumentParser()
    add_settings(parser, ["data", "vectors"])
    assert settings_from(parser.parse_args(["--data", "here"])).vectors_url == "sqlite:///here/vectors.db"
    with pytest.raises(SystemExit):
        parser.parse_args(["--listen", "127.0.0.1:1"])


def test_each_flag_is_explained() -> None:
    parser = argparse.ArgumentParser()
    add_settings(parser)
    text = " ".join(parser.format_help().split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert field.description is not None
        assert " ".join(field.description.split()[:2]) in text


@pytest.mark.parametrize("name", ["data", "with space", "50%25", "face#1", "a?b=c", "Ünïcode", "a;b&c", "::"])
@pytest.mark.parametrize("absolute", [True, False])
async def test_the_stores_are_in_the_data_folder_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, absolute: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(data=tmp_path / name if absolute else Path(name))
    (tmp_path / name).mkdir()
    log, objects, vectors = (
        open_log(settings.log_url),
        open_objects(settings.objects_url),
        open_vectors(settings.vectors_url),
    )
    await log.create_topics([])
    await objects.put("key", b"")
    await vectors.api_keys()
    for store in (log, objects, vectors):
        await store.close()
    assert os.listdir(tmp_path) == [name]
    assert {"log.db", "objects", "vectors.db"} <= set(os.listdir(tmp_path / name))


@pytest.mark.parametrize("rest", ["//", "///", "//data/log.db", "//root:hunter2@host/x"])
def test_a_url_of_this_machine_without_a_path_is_refused(rest: str) -> None:
    for opening, scheme, setting in (
        (open_log, "sqlite", "FACESTREAM_LOG"),
        (open_objects, "file", "FACESTREAM_OBJECTS"),
        (open_vectors, "sqlite", "FACESTREAM_VECTORS"),
    ):
        with pytest.raises(ConfigurationError, match=f"{setting}: no path") as raised:
            opening(f"{scheme}:{rest}")
        assert "hunter2" not in raised.value.message


def test_the_error_about_an_unknown_scheme_hides_the_password() -> None:
    for opening, setting in (
        (open_log, "FACESTREAM_LOG"),
        (open_objects, "FACESTREAM_OBJECTS"),
        (open_vectors, "FACESTREAM_VECTORS"),
    ):
        with pytest.raises(ConfigurationError, match=setting) as raised:
            opening("mysql://root:hunter2@host/db")
        assert "mysql" in raised.value.message
        assert "hunter2" not in raised.value.message


def warnings_of(**environment: str) -> list[dict[str, str]]:
    with structlog.testing.capture_logs() as logs:
        warn_of_unknown_variables(environment)
    assert {it["log_level"] for it in logs} <= {"warning"}
    return [{k: v for k, v in it.items() if k not in ("event", "log_level")} for it in logs]


def test_a_mistyped_setting_is_warned_of_with_the_nearest_one() -> None:
    mistyped = {
        "FACESTREAM_LISTENN": "FACESTREAM_LISTEN",
        "FACESTREAM_OBJECT_PASSWORD": "FACESTREAM_OBJECTS_PASSWORD",
        "FACESTREAM_MAXUPLOAD": "FACESTREAM_MAX_UPLOAD",
        "FACESTREAM_ULR": "FACESTREAM_URL",
        "facestream_kepe_probes": "FACESTREAM_KEEP_PROBES",
    }
    warnings = warnings_of(**dict.fromkeys(mistyped, "sesame"))
    assert {it["variable"]: it["did_you_mean"] for it in warnings} == mistyped
    assert "sesame" not in str(warnings)
    assert warnings_of(FACESTREAM_QZX="sesame") == [{"variable": "FACESTREAM_QZX"}]
    assert warnings_of(OTHER="x", facestream_listen="127.0.0.1:1") == []


def test_every_variable_of_the_project_is_known() -> None:
    """The whole project is searched, but for the tests and what explains or examines mistakes."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    paths = [ROOT / name for name in listed if not name.startswith(("tests/unit/", "tests/compatibility/"))]
    texts = [path.read_text(errors="ignore") for path in paths if path.is_file()]
    variables = {name for text in texts for name in re.findall(r"\bFACESTREAM_[A-Z_]*[A-Z]\b", text)}
    assert {"FACESTREAM_NO_SKIPS", "FACESTREAM_IMAGE", "FACESTREAM_LISTEN"} <= variables
    assert warnings_of(**dict.fromkeys(variables, "x")) == []
