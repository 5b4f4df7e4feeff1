"""Access control: addresses, keys, scopes and directories."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from bench.serving import Serving, free_port
from tests.conftest import ROOT
from tests.e2e.conftest import Client


def facestream(data: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FACESTREAM_")}
    environment |= {"FACESTREAM_DATA": str(data)} | settings
    command = [sys.executable, "-m", "facestream.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def test_listening_beyond_loopback_requires_a_key(tmp_path: Path, weights_folder: Path) -> None:
    refused = facestream(tmp_path / "data", "up", "--listen", "0.0.0.0:0", FACESTREAM_WEIGHTS=str(weights_folder))
    assert refused.returncode == 2
    assert "facestream keys create" in refused.stderr
    listen = f"0.0.0.0:{free_port()}"
    assert facestream(tmp_path / "open", "init").returncode == 0
    with Serving(tmp_path / "open", weights_folder, command=("ingest",), listen=listen, open="1") as serving:
        assert "open to everybody" in serving.log()
    assert facestream(tmp_path / "data", "keys", "create", "--scope", "admin").returncode == 0
    assert facestream(tmp_path / "data", "init").returncode == 0
    with Serving(tmp_path / "data", weights_folder, command=("ingest",), listen=listen) as serving:
        assert "open to everybody" not in serving.log()


async def until_refused(client: Client, path: str, headers: dict[str, str] | None = None) -> None:
    """Waits for a 401: a new or revoked key takes effect within two seconds."""
    async with asyncio.timeout(30):
        while (await client.get(path, headers))[0] != 401:  # noqa: ASYNC110 - it is another process that we wait for
            await asyncio.sleep(0.1)


async def test_keys_open_their_own_directories_only(tmp_path: Path, weights_folder: Path, small_photos: Path) -> None:
    data = tmp_path / "data"

    def create(*arguments: str) -> dict[str, str]:
        made = facestream(data, "keys", "create", *arguments)
        assert made.returncode == 0, made.stderr
        return {"x-api-key": made.stdout.strip()}

    with Serving(data, weights_folder) as serving:
        async with aiohttp.ClientSession() as session:
            client = Client(session, serving.url)
            assert (await client.get("/directories"))[0] == 200  # no key exists yet
            admin = create("--scope", "admin")
            learner = create("--scope", "learn", "--directory", "acme")
            watcher = create("--scope", "recognize", "--directory", "acme")
            stranger = create("--scope", "learn", "--directory", "other")
            await until_refused(client, "/directories")
            assert (await client.get("/directories", {"x-api-key": "fs_00000000_guess"}))[0] == 401
            assert (await client.get("/healthz"))[0] == 200
            bearer = {"Authorization": f"Bearer {admin['x-api-key']}"}
            assert (await client.get("/directories", bearer))[0] == 200

            status, learned, _ = await client.post(
                "/learn", small_photos / "obama.jpg", person="o", directory="acme", headers=learner
            )
            assert status == 201
            status, body, _ = await client.post(
                "/learn", small_photos / "obama.jpg", person="o", directory="acme", headers=watcher
            )
            assert (status, body["code"]) == (403, "forbidden")
            status, body, _ = await client.post(
                "/recognize", small_photos / "obama2.jpg", headers=watcher
            )  # without a directory it is the key's
            assert (status, body["directory"], body["persons"][0]["id"]) == (200, "acme", "o")
            assert (await client.post("/recognize", small_photos / "obama2.jpg", directory="acme", headers=stranger))[
                0
            ] == 403

            face = f"/faces/{learned['persons'][0]['face_id']}.jpg"
            result = f"/results/{body['image_id']}"
            for path, expected in ((body["url"], 200), (result, 200), (face, 403), ("/directories/acme/persons", 403)):
                assert (await client.get(path, watcher))[0] == expected
            for path, expected in ((body["url"], 404), (result, 404), (face, 404), ("/directories/acme/persons", 403)):
                assert (await client.get(path, stranger))[0] == expected
            assert (await client.get(face, learner))[0] == 200
            assert (await client.get("/directories", stranger))[1]["directories"] == []
            assert (await client.get("/directories", learner))[1]["directories"] == ["acme"]

            key_id = learner["x-api-key"].split("_")[1]
            assert key_id in facestream(data, "keys", "list").stdout
            assert facestream(data, "keys", "revoke", key_id).returncode == 0
            assert facestream(data, "keys", "revoke", key_id).returncode == 1
            await until_refused(client, face, learner)
        secrets = [key["x-api-key"].split("_", 2)[2] for key in (admin, learner, watcher, stranger)]
        assert not any(secret in serving.log() for secret in secrets)
    stored = b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file())
    assert not any(secret.encode() in stored for secret in secrets)


def test_one_process_serves_a_data_folder(tmp_path: Path, weights_folder: Path) -> None:
    with Serving(tmp_path / "data", weights_folder) as serving:
        second = facestream(tmp_path / "data", "up", "--listen", "127.0.0.1:0", FACESTREAM_WEIGHTS=str(weights_folder))
        assert second.returncode == 2
        assert serving.url in second.stderr


@pytest.mark.parametrize("arguments", [(), ("up",), ("weights", "get"), ("keys", "create"), ("learn",), ("recognize",)])
def test_help_is_printed_for_every_command(arguments: tuple[str, ...], tmp_path: Path) -> None:
    shown = facestream(tmp_path, *arguments, "--help")
    assert shown.returncode == 0
    assert len(shown.stdout) > 200


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"FACESTREAM_KEEP_PROBES": "never"}, "FACESTREAM_KEEP_PROBES"),
        ({"FACESTREAM_LISTEN": "nowhere"}, "FACESTREAM_LISTEN"),
        ({"FACESTREAM_LOG": "redis://user:secret@host/0"}, "FACESTREAM_LOG"),
        ({"FACESTREAM_DEVICE": "tpu"}, "device"),
        ({"FACESTREAM_DTYPE": "int8"}, "dtype"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, str], said: str, tmp_path: Path, weights_folder: Path) -> None:
    settings = {"FACESTREAM_LISTEN": "127.0.0.1:0", "FACESTREAM_WEIGHTS": str(weights_folder)} | settings
    ended = facestream(tmp_path / "data", "up", **settings)
    assert ended.returncode == 2, ended.stderr
    assert said in ended.stderr
    assert "secret" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_missing_weights_say_how_to_get_them(tmp_path: Path) -> None:
    ended = facestream(tmp_path / "data", "up", "--listen", "127.0.0.1:0")
    assert ended.returncode == 1
    assert "facestream weights get" in ended.stderr
    assert "Traceback" not in ended.stderr
