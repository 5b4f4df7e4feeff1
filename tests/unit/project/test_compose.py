"""Checks the compose files and the Dockerfile against the compose specification and the program that they start.

No container is started: their settings are checked with the program's own parser, settings and adapters.
"""

import argparse
import asyncio
import re
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import pytest
from aiohttp import web
from check_jsonschema.builtin_schemas import get_builtin_schema
from ruamel.yaml import YAML

from backends.log import EventLog
from backends.objects import ObjectStore
from backends.open import open_log, open_objects, open_vectors
from backends.urls import server_of
from backends.vectors import VectorStore
from facestream.config import Settings
from facestream.parser import COMMANDS
from facestream.runtime.listening import host_and_port
from scripts import services_packages
from stream.health_routes import health_app
from tests.conftest import ROOT

COMPOSE, PRODUCTION, GPU = "docker-compose.yml", "docker-compose.production.yml", "docker-compose.gpu.yml"
SERVERS = {"kafka", "minio", "cassandra"}
OPENING: dict[str, Callable[[str], EventLog | ObjectStore | VectorStore]] = {
    "FACESTREAM_LOG": open_log,
    "FACESTREAM_OBJECTS": open_objects,
    "FACESTREAM_VECTORS": open_vectors,
}

File = dict[str, Any]


def read(name: str) -> File:
    content: File = YAML(typ="safe").load((ROOT / name).read_text())
    return content


def ours(file: File) -> dict[str, Any]:
    """The services that run a command of facestream."""
    image = read(COMPOSE)["services"]["password"]["image"]
    return {
        name: service
        for name, service in file["services"].items()
        if (service["image"] == image or service["image"].startswith("${FACESTREAM_IMAGE:"))
        and "entrypoint" not in service
    }


@pytest.fixture(params=[COMPOSE, PRODUCTION])
def file(request: pytest.FixtureRequest) -> File:
    return read(request.param)


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


@pytest.mark.parametrize("name", [COMPOSE, PRODUCTION, GPU])
def test_it_follows_the_compose_specification(name: str) -> None:
    jsonschema.validate(read(name), get_builtin_schema("vendor.compose-spec"))


def test_services_wait_only_for_services_that_exist_and_report_their_state(file: File) -> None:
    services = file["services"]
    waited = [
        (name, on, how["condition"]) for name, it in services.items() for on, how in it.get("depends_on", {}).items()
    ]
    assert {on for _, on, _ in waited} <= services.keys()
    for name, on, condition in waited:
        if condition == "service_healthy":
            assert "healthcheck" in services[on], f"{name} waits for the health of {on}"
        else:
            assert condition == "service_completed_successfully"
            assert "restart" not in services[on], f"{name} waits for the end of {on}"
    for role in ("ingest", "processor", "sink"):
        assert set(services[role]["depends_on"]) == {"init"}
    assert {on for name, on, _ in waited if name == "init"} >= {name for name in services if name in SERVERS}


def test_volumes_and_secrets_are_declared_and_used(file: File) -> None:
    mounts = [mount for service in file["services"].values() for mount in service.get("volumes", [])]
    assert {mount.split(":")[0] for mount in mounts} == set(file["volumes"])
    secrets = {name for service in file["services"].values() for name in service.get("secrets", [])}
    assert secrets == set(file.get("secrets", {}))
    data = [mount for mount in mounts if not mount.startswith("passwords:")]
    assert len(data) == len(set(data)), "two services write to one volume"


def test_every_command_is_one_of_facestream_and_every_setting_one_of_its_flags(
    file: File, parser: argparse.ArgumentParser
) -> None:
    services = ours(file)
    assert {service["command"][0] for service in services.values()} == {"init", "ingest", "process", "sink"}
    for name, service in services.items():
        known = vars(parser.parse_args(service["command"]))
        settings = [variable for variable in service["environment"] if variable.startswith("FACESTREAM_")]
        assert {*OPENING} <= {*settings}
        for variable in settings:
            assert f"setting_{variable.removeprefix('FACESTREAM_').lower()}" in known, f"{name}: {variable}"


async def test_every_setting_is_understood(file: File, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("x" * 32)
    for service in ours(file).values():
        settings = {key: value for key, value in service["environment"].items() if key.startswith("FACESTREAM_")}
        Settings(**{key.removeprefix("FACESTREAM_").lower(): value for key, value in settings.items()})
        for setting, opening in OPENING.items():
            await opening(_with_password(settings[setting], service, password)).close()


def _with_password(url: str, service: dict[str, Any], password: Path) -> str:
    """With a password file that this machine has, in place of the one that the service has."""
    for file in parse_qs(urlsplit(url).query).get("password_file", []):
        folders = [mount.split(":")[1] for mount in service.get("volumes", [])]
        secrets = [f"/run/secrets/{name}" for name in service.get("secrets", [])]
        assert str(Path(file).parent) in folders or file in secrets, f"{file} is not mounted"
        url = url.replace(file, str(password))
    return url


def test_urls_name_services_and_the_ports_they_listen_on(file: File) -> None:
    ports = {"kafka": 9092, "minio": 9000, "cassandra": 9042}
    for name, service in file["services"].items():
        if name.startswith("kafka"):
            listening = service["environment"]
            assert f"PLAINTEXT://:{ports['kafka']}" in listening["KAFKA_LISTENERS"]
            assert listening["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://{name}:{ports['kafka']}"
            voters = [voter.split("@") for voter in listening["KAFKA_CONTROLLER_QUORUM_VOTERS"].split(",")]
            assert [listening["KAFKA_NODE_ID"], f"{name}:9093"] in voters
    for service in ours(file).values():
        for variable in OPENING:
            url = service["environment"][variable].partition("?")[0]
            for host, port in server_of(url, setting=variable, default_port=0, options=()).hosts:
                assert host in file["services"]
                assert port == ports[host.partition("-")[0]]


def test_only_the_service_is_published_and_only_to_this_machine(file: File) -> None:
    for name, service in file["services"].items():
        assert not {"container_name", "network_mode", "privileged"} & service.keys()
        assert ("ports" in service) == (name == "ingest")
    [published] = file["services"]["ingest"]["ports"]
    address, _, target = published.split(":")
    assert address == "127.0.0.1"
    _, listening = host_and_port(file["services"]["ingest"]["environment"]["FACESTREAM_LISTEN"])
    assert int(target) == listening
    assert "FACESTREAM_OPEN" not in file["services"]["ingest"]["environment"], "keys are required"
    assert "--key" in file["services"]["init"]["command"], "so there must be one"


def test_our_containers_have_no_rights_they_do_not_need(file: File) -> None:
    for service in ours(file).values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("role", ["ingest", "processor", "sink"])
async def test_the_health_check_tells_a_ready_role(file: File, role: str, unused_tcp_port: int) -> None:
    """The command is run as it stands, at a port that is free here."""
    service = file["services"][role]
    program, *arguments = service["healthcheck"]["test"][1:]
    _, port = host_and_port(service["environment"]["FACESTREAM_WATCH"])
    assert (program, f'"127.0.0.1", {port},' in arguments[-1]) == ("python", True)
    command = [sys.executable, *arguments[:-1], arguments[-1].replace(str(port), str(unused_tcp_port))]

    async def healthy() -> bool:
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        return await process.wait() == 0

    ready = True

    async def check() -> None:
        if not ready:
            raise ConnectionError("not yet")

    assert not await healthy()
    runner = web.AppRunner(health_app({"log": check}))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    assert await healthy()
    ready = False
    assert not await healthy()
    await runner.cleanup()


def test_the_password_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    service = read(COMPOSE)["services"]["password"]
    [script] = service["command"]
    command = [*service["entrypoint"], script.replace("/run/facestream", str(tmp_path))]
    subprocess.run(command, check=True)
    password = tmp_path / "objects"
    first = password.read_text()
    subprocess.run(command, check=True)
    assert password.read_text() == first
    assert [path.name for path in tmp_path.iterdir()] == ["objects"]
    assert stat.S_IMODE(password.stat().st_mode) == 0o600
    server = server_of(f"s3://facestream@minio/b?password_file={password}", setting="X", default_port=1, options=())
    assert len(server.password or "") == 32


def test_minio_and_facestream_read_the_same_password(file: File) -> None:
    minio = file["services"]["minio"]
    assert "MINIO_ROOT_PASSWORD" not in minio["environment"]
    for service in ours(file).values():
        url = urlsplit(service["environment"]["FACESTREAM_OBJECTS"])
        assert url.username == minio["environment"]["MINIO_ROOT_USER"]
        assert parse_qs(url.query)["password_file"] == [minio["environment"]["MINIO_ROOT_PASSWORD_FILE"]]


def test_no_password_stands_in_a_file(file: File) -> None:
    for service in file["services"].values():
        for variable, value in service.get("environment", {}).items():
            assert urlsplit(str(value)).password is None, variable
            assert "PASSWORD" not in variable or variable.endswith("_FILE")


def test_the_servers_are_those_that_the_tests_run_on(file: File) -> None:
    images = {service["image"] for name, service in file["services"].items() if name.partition("-")[0] in SERVERS}
    tags = dict(image.rsplit(":", 1) for image in images)
    assert len(images) == 3
    assert tags["apache/kafka"] == services_packages.KAFKA[2]
    assert services_packages.CASSANDRA[2].startswith(f"{tags['cassandra']}.")


def test_production_keeps_everything_three_times() -> None:
    file = read(PRODUCTION)
    brokers = [service["environment"] for name, service in file["services"].items() if name.startswith("kafka-")]
    nodes = [service["environment"] for name, service in file["services"].items() if name.startswith("cassandra-")]
    assert {broker["KAFKA_NODE_ID"] for broker in brokers} == {"1", "2", "3"}
    assert {node["CASSANDRA_RACK"] for node in nodes} == {"rack1", "rack2", "rack3"}
    for broker in brokers:
        assert (broker["KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR"], broker["KAFKA_MIN_INSYNC_REPLICAS"]) == ("3", "2")
    for service in ours(file).values():
        log, vectors = (urlsplit(service["environment"][name]) for name in ("FACESTREAM_LOG", "FACESTREAM_VECTORS"))
        assert parse_qs(log.query) == {"replication": ["3"], "min_insync_replicas": ["2"]}
        assert parse_qs(vectors.query) == {"replication": ["3"]}
        assert [len(url.netloc.split(",")) for url in (log, vectors)] == [3, 3]


def test_cassandra_writes_before_it_acknowledges(file: File) -> None:
    nodes = [service for name, service in file["services"].items() if name.startswith("cassandra")]
    for node in nodes:
        assert re.search(r"commitlog_sync=(batch|group)", node["environment"]["JVM_EXTRA_OPTS"])


def test_the_gpu_file_adds_to_a_service_that_is_there() -> None:
    assert read(GPU)["services"].keys() <= read(COMPOSE)["services"].keys()


def test_the_image_holds_the_whole_program_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    taken = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert all((ROOT / name).exists() for name in taken)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["packages"]["find"]["include"]  # what a wheel takes
    folders = [folder.parent.name for folder in ROOT.glob("*/__init__.py")]
    packages = {name for name in folders if any(fnmatchcase(name, pattern) for pattern in patterns)}
    assert packages | {"pyproject.toml", "constraints.txt", "README.md", "LICENSE"} == set(taken)


def test_files_and_settings_in_the_dockerfile_exist() -> None:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    instructions = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    for source in [
        word for name, words in instructions if name == "COPY" and "--from" not in words for word in words.split()[:-1]
    ]:
        assert (ROOT / source).exists()
    settings = re.findall(r"FACESTREAM_(\w+)=", text)
    assert {name.lower() for name in settings} == {"data", "weights"}
    assert {name.lower() for name in settings} <= Settings.model_fields.keys()
    users = [words for name, words in instructions if name == "USER"]
    assert users == ["facestream"]
    assert text.index("USER facestream") > text.rindex("FROM")
    assert ["ENTRYPOINT", '["facestream"]'] in instructions
    folders = set(re.search(r"install --directory .*", text).group().split())  # type: ignore[union-attr]  # it is there
    mounted = {mount.split(":")[1] for service in ours(read(COMPOSE)).values() for mount in service.get("volumes", [])}
    assert mounted <= folders, "a volume would belong to root"


def test_the_dockerfile_calls_commands_that_facestream_knows(parser: argparse.ArgumentParser) -> None:
    text = (ROOT / "Dockerfile").read_text()
    [command] = re.findall(r"&& facestream (.*)", text)
    assert parser.parse_args(command.split()).setting_weights == "/opt/facestream/weights"
    assert f"FACESTREAM_WEIGHTS={parser.parse_args(command.split()).setting_weights}" in text
