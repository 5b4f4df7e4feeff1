"""The rights that docs/operations.md lists are enough for each role, and a missing one is named."""

import asyncio
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bench.serving import Serving
from scripts.services_packages import folder, missing
from stream.topics import GROUPS, TOPICS
from tests.conftest import ROOT
from tests.e2e.conftest import PATIENCE_S, Client
from tests.servers.secured_kafka import Right, SecuredKafka, secured_kafka

ROLES = ("sink", "process", "ingest")
STAGES = [("process",)], [("process", "--stage", "detect"), ("process", "--stage", "embed")]
ROW = re.compile(r"\| (every role and command|`\w+`) \| ([A-Z][\w, ]+) \| (topic|group) \| (.+) \|")


def documented_rights() -> dict[str, list[Right]]:
    """The table of docs/operations.md."""
    rights: dict[str, list[Right]] = {user: [] for user in (*ROLES, "init")}
    for user, operations, kind, names in ROW.findall((ROOT / "docs" / "operations.md").read_text()):
        named = re.findall("`(.+?)`", names) or [spec.name for spec in TOPICS]
        for each in [user.strip("`")] if user.startswith("`") else rights:
            rights[each] += [Right(it, kind, name) for it in operations.split(", ") for name in named]
    of_commands = [Right(it, "topic", spec.name) for it in ("Read", "Write", "DescribeConfigs") for spec in TOPICS]
    return rights | {"operator": [*of_commands, Right("Read", "group", "*")]}


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    if lacks := [it for it in missing(folder()) if "Go" not in it]:
        pytest.skip(f"this machine lacks {', '.join(lacks)}")
    with secured_kafka(tmp_path_factory.mktemp("secured") / "kafka", (*ROLES, "init", "operator", "other")) as kafka:
        for user, rights in documented_rights().items():
            kafka.grant(user, rights)
        yield kafka


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, kafka: SecuredKafka) -> Path:
    """The folder of the other stores, which `facestream init` has made."""
    data = tmp_path_factory.mktemp("rights") / "data"
    done = run(kafka, "init", "init", "--data", str(data))
    assert done.returncode == 0, done.stderr
    return data


def run(kafka: SecuredKafka, user: str, *command: str) -> subprocess.CompletedProcess[str]:
    return run_with({"log": kafka.url(user), "log_password": kafka.passwords[user]}, *command)


def run_with(settings: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("FACESTREAM_")}
    return subprocess.run(
        [sys.executable, "-m", "facestream.cli", *command],
        env=others | {f"FACESTREAM_{name.upper()}": value for name, value in settings.items()},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


@pytest.mark.parametrize("processors", STAGES, ids=["both stages in one", "a process for each stage"])
async def test_the_documented_rights_are_enough(
    kafka: SecuredKafka, data: Path, weights_folder: Path, photos: Path, processors: list[tuple[str, ...]]
) -> None:
    roles = [
        Serving(
            data,
            weights_folder,
            command=command,
            name="-".join(command),
            log=kafka.url(command[0]),
            log_password=kafka.passwords[command[0]],
        )
        for command in [("sink",), *processors, ("ingest",)]
    ]
    with ExitStack() as running:
        for serving in roles:
            await asyncio.to_thread(running.enter_context, serving)
        async with aiohttp.ClientSession() as session:
            client = Client(session, roles[-1].url)
            status, learned, _ = await client.post("/learn", photos / "obama.jpg", person="obama", directory="d")
            assert status == 201
            status, seen, _ = await client.post("/recognize", photos / "obama2.jpg", directory="d")
            assert (status, seen["persons"][0]["id"]) == (200, "obama")
            async with asyncio.timeout(PATIENCE_S):
                while (await client.get(f"/results/{learned['image_id']}"))[0] == 202:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.05)
            async with session.delete(f"{client.url}/directories/d/persons/obama") as response:
                assert (response.status, (await response.json())["erased"]["faces"]) == (200, 1)
            for serving in roles:
                assert (await client.get("/readyz"))[0] == 200, serving.name
    assert denials(kafka) == set()


def test_the_documented_rights_are_enough_for_the_commands_of_administrators(
    kafka: SecuredKafka, data: Path, weights_folder: Path
) -> None:
    commands = [
        ("dead-letters", "list"),
        ("dead-letters", "retry", "--all"),
        ("dead-letters", "drop", "--all", "--yes"),
        ("erase", "verify"),
        ("trace", str(uuid.uuid4())),
        ("models", "list"),
        ("reembed", "dlib-resnet29", "--weights", str(weights_folder)),
        ("models", "activate", "dlib-resnet29"),
        ("models", "activate", "dlib-resnet29-mirror"),
        ("models", "retire", "dlib-resnet29"),
        *(("recover", group) for group in GROUPS),
    ]
    for command in commands:
        done = run(kafka, "operator", *command, "--data", str(data))
        assert done.returncode == (1 if command[0] == "trace" else 0), (command, done.stderr)
    assert denials(kafka) == set()


def denials(kafka: SecuredKafka) -> set[str]:
    """What the authorizer has denied, except to the user without rights."""
    return {line for line in kafka.log().splitlines() if "is Denied" in line and "User:other" not in line}


@pytest.mark.parametrize("mechanism", [None, "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_user_logs_in_with_scram(kafka: SecuredKafka, data: Path, mechanism: str | None) -> None:
    """Without the option `sasl` it is SCRAM-SHA-512."""
    kafka.allow_scram("operator", mechanism or "SCRAM-SHA-512")
    login = {"log": kafka.url("operator", mechanism), "log_password": kafka.passwords["operator"]}
    assert run_with(login, "dead-letters", "list", "--data", str(data)).returncode == 0
    wrong = run_with(login | {"log_password": "wrong"}, "dead-letters", "list", "--data", str(data))
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "refuses this login" in wrong.stderr


@pytest.mark.parametrize(
    ("role", "right", "needs"),
    [
        ("sink", Right("Read", "group", "sink"), "Describe on group 'sink'"),
        ("sink", Right("Read", "topic", "faces.embedded"), "Read on .*faces.embedded"),
        ("sink", Right("Describe", "topic", "bucket.events"), "Describe on bucket.events"),
        ("ingest", Right("Read", "topic", "results"), "Read on the topic .*results"),
        ("ingest", Right("Describe", "group", "processors"), "Describe on group 'processors'"),
        ("ingest", Right("DescribeConfigs", "topic", "models"), "DescribeConfigs on models"),
    ],
    ids=str,
)
def test_a_role_without_a_right_ends_and_names_it(
    kafka: SecuredKafka, data: Path, role: str, right: Right, needs: str
) -> None:
    without = [] if right.operation != "Describe" or right.kind == "group" else [Right("Read", "topic", right.name)]
    for each in (right, *without):  # reading includes Describe
        kafka.revoke(role, each)
    try:
        done = run(kafka, role, role, "--data", str(data), *(["--listen", "127.0.0.1:0"] if role == "ingest" else []))
    finally:
        kafka.grant(role, [right, *without])
    assert done.returncode == 2
    assert re.search(rf"^facestream: FACESTREAM_LOG: the user '{role}' needs {needs}", done.stderr, re.MULTILINE)


async def test_what_may_not_be_written_is_named_and_works_once_it_may(kafka: SecuredKafka, data: Path) -> None:
    right = Right("Write", "topic", "images.received")
    kafka.revoke("ingest", right)
    settings = {"log": kafka.url("ingest"), "log_password": kafka.passwords["ingest"]}
    try:
        with Serving(data, data, command=("ingest",), name="without", **settings) as serving:
            async with aiohttp.ClientSession() as session:
                client = Client(session, serving.url)

                async def send() -> tuple[int, dict[str, Any], Any]:
                    headers = {"Prefer": "respond-async"}
                    return await client.post("/recognize", b"\xff\xd8\xff", directory="d", headers=headers)

                status, body, _ = await send()
                assert (status, body["code"]) == (503, "unavailable")
                assert "the user 'ingest' needs Write on the topic" in body["detail"]
                assert "images.received" in body["detail"]
                kafka.grant("ingest", [right])
                async with asyncio.timeout(PATIENCE_S):
                    while (await send())[0] != 202:
                        pass
    finally:
        kafka.grant("ingest", [right])


def test_init_without_a_right_ends_and_names_it(kafka: SecuredKafka, tmp_path: Path) -> None:
    done = run(kafka, "other", "init", "--data", str(tmp_path))
    assert done.returncode == 2
    assert "the user 'other' needs Describe on bucket.events, dead-letters, erasures, faces.detected" in done.stderr
