"""Settings from the environment and from flags, and where the stores of a data folder are."""

import argparse
import os
from pathlib import Path

import pytest

from backends.open import open_log, open_objects, open_vectors
from facestream.config import MEBI, Settings
from facestream.flags import add_settings, settings_from
from schemas.errors import ConfigurationError


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
