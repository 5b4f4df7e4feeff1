"""The script that starts the real servers. Most tests start MinIO alone, which is the quickest of the three."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from minio import Minio

from scripts import services_packages as packages
from scripts.services import NAMES, Services
from scripts.services_lock import locked
from scripts.services_process import Process, ServiceFailed, spawn
from scripts.services_ready import serves
from scripts.services_state import State
from tests.servers.buckets import client_of

ROOT = Path(__file__).parents[2]
SCRIPT = [sys.executable, "-S", "scripts/services.py"]  # -S: without the packages that are installed


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Services]:
    """Servers from packages, for one test alone. None of them runs yet."""
    State.new("packages").write(tmp_path / "state.json")
    own = Services(tmp_path)
    try:
        own.prepare()
    except packages.MissingTools as error:
        pytest.skip(f"these servers are processes, not containers: {error}")
    yield own
    own.down()


def process_of(folder: Path, name: str) -> Process:
    return Process(**json.loads((folder / "state.json").read_text())["processes"][name])


def store(services: Services) -> Minio:
    settings = services.settings()
    return client_of(settings["FACESTREAM_OBJECTS"].replace("@", f":{settings['FACESTREAM_OBJECTS_PASSWORD']}@"))


def test_up_prints_settings_for_a_shell_and_uses_running_servers_again(servers: Services) -> None:
    before = [servers.status(name) for name in NAMES]
    assert all(status.startswith("serves on 127.0.0.1:") for status in before)
    shell = f'eval "$({" ".join(SCRIPT)} up)" && env'
    printed = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {f"{name}={value}" for name, value in servers.settings().items()} <= set(printed.splitlines())
    assert [servers.status(name) for name in NAMES] == before


def test_a_second_start_waits_for_the_first(own: Services, tmp_path: Path) -> None:
    environment = {**os.environ, "FACESTREAM_SERVICES": str(tmp_path)}
    with locked(tmp_path / "lock"):
        second = subprocess.Popen(
            [*SCRIPT, "start", "minio"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        assert second.stderr is not None
        assert second.stderr.readline().startswith("waiting for another process")
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(1.5)
        assert own.status("minio") == "stopped"
    second.communicate()
    assert second.returncode == 0
    first = process_of(tmp_path, "minio")
    own.start("minio")
    assert process_of(tmp_path, "minio") == first


def test_a_server_keeps_running_after_the_script_has_ended(own: Services, tmp_path: Path) -> None:
    # It returns, so the server has not inherited the output of the process that started it.
    environment = {**os.environ, "FACESTREAM_SERVICES": str(tmp_path)}
    subprocess.run([*SCRIPT, "start", "minio"], cwd=ROOT, env=environment, capture_output=True, timeout=60, check=True)
    assert own.status("minio").startswith("serves")
    assert os.getsid(process_of(tmp_path, "minio").pid) != os.getsid(0)


@pytest.mark.parametrize("ending", ["kill", "stop"])
def test_data_is_kept_after_kill_and_stop(own: Services, ending: str) -> None:
    own.start("minio")
    where = own.status("minio")
    store(own).make_bucket("faces")
    store(own).put_object("faces", "one", io.BytesIO(b"here"), 4)
    getattr(own, ending)("minio")
    assert own.status("minio") == "stopped"
    own.start("minio")
    assert own.status("minio") == where
    assert store(own).get_object("faces", "one").data == b"here"


def test_a_paused_server_does_not_answer_until_it_is_resumed(own: Services, tmp_path: Path) -> None:
    own.start("minio")
    process = process_of(tmp_path, "minio")
    own.pause("minio")
    assert own.status("minio").startswith("runs, but does not serve")
    own.resume("minio")
    assert own.status("minio").startswith("serves")
    assert process_of(tmp_path, "minio") == process


def test_down_ends_a_paused_server_and_deletes_its_data(own: Services, tmp_path: Path) -> None:
    own.start("minio")
    process = process_of(tmp_path, "minio")
    own.pause("minio")
    own.down()
    assert not process.alive()
    assert [it.name for it in tmp_path.iterdir()] == ["lock"]
    own.down()  # nothing runs: nothing to do


def test_another_process_that_got_the_pid_of_a_server_is_not_killed(tmp_path: Path) -> None:
    stranger = spawn(["sleep", "60"], folder=tmp_path, environment={})
    Process(stranger.pid, "another time").end(patience=1)
    Process(stranger.pid, "another time").kill()
    assert stranger.alive()
    stranger.kill()
    assert not stranger.alive()


def test_one_that_is_paused_ends_orderly(tmp_path: Path) -> None:
    script = "trap 'touch orderly; exit' TERM; touch ready; while :; do sleep 0.1; done"
    paused = spawn(["sh", "-c", script], folder=tmp_path, environment={})
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    paused.send(signal.SIGSTOP)
    paused.end(patience=10)
    assert (tmp_path / "orderly").exists()


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    stubborn = spawn(["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"], folder=tmp_path, environment={})
    stubborn.end(patience=0.3)
    assert not stubborn.alive()


def test_the_error_says_why_a_server_has_ended(own: Services) -> None:
    own.start("minio")
    port = int(own.status("minio").rpartition(":")[2])
    own.stop("minio")
    with socket.create_server(("127.0.0.1", port)), pytest.raises(ServiceFailed, match=r"(?s)minio ended.*in use"):
        own.start("minio")


def test_the_password_is_readable_only_by_its_owner(own: Services, tmp_path: Path) -> None:
    own.start("minio")
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600
    password = own.settings()["FACESTREAM_OBJECTS_PASSWORD"]
    assert password not in (tmp_path / "run" / "minio" / "log").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_server_is_recognized_by_its_protocol_not_by_an_open_port(servers: Services, name: str) -> None:
    ports = {each: int(servers.status(each).rpartition(":")[2]) for each in NAMES}
    assert [other for other in NAMES if serves(name, ports[other])] == [name]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert not serves(name, port)
    assert not serves(name, port)


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine without any of the tools and packages, on which no server runs."""
    there = {"FACESTREAM_SERVICES": str(tmp_path / "services"), "FACESTREAM_SERVICES_CACHE": str(tmp_path / "packages")}
    return {**os.environ, **there, "PATH": str(tmp_path)}


def test_the_error_names_the_missing_tools(bare: dict[str, str]) -> None:
    done = subprocess.run([*SCRIPT, "up"], cwd=ROOT, env=bare, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.strip() == (
        "no Docker engine answers, and this machine lacks Java 17 or newer (java), Maven (mvn), Go (go)"
    )


@pytest.mark.parametrize(("required", "outcome"), [("0", "1 skipped"), ("1", "1 error")])
def test_tests_are_skipped_without_the_tools_or_fail_where_they_are_required(
    bare: dict[str, str], required: str, outcome: str
) -> None:
    test = f"{__file__}::{test_up_prints_settings_for_a_shell_and_uses_running_servers_again.__name__}"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test]
    environment = bare | {"FACESTREAM_REQUIRE_SERVICES": required, "FACESTREAM_NO_SKIPS": "0"}
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True).stdout
    assert outcome in printed.splitlines()[-1]
    assert "this machine lacks Java 17 or newer (java), Maven (mvn), Go (go)" in printed


def test_an_interrupted_download_is_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maven = tmp_path / "bin" / "mvn"
    maven.parent.mkdir()
    monkeypatch.setenv("PATH", f"{maven.parent}{os.pathsep}{os.environ['PATH']}")
    maven.write_text("#!/bin/sh\necho half >half.jar\nexit 1\n")
    maven.chmod(0o755)
    with pytest.raises(ServiceFailed, match="mvn failed 3 times"):
        packages.kafka(tmp_path / "packages")
    maven.write_text("#!/bin/sh\ntest -e half.jar && exit 1\necho whole >whole.jar\n")
    jars = packages.kafka(tmp_path / "packages")
    assert [it.name for it in jars.glob("*.jar")] == ["whole.jar"]
    assert [it.name for it in (tmp_path / "packages").iterdir()] == [jars.name]
    maven.unlink()
    assert packages.kafka(tmp_path / "packages") == jars


def test_with_a_docker_engine_the_servers_are_containers_on_127_0_0_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command docker is replaced by a script that writes down its arguments."""
    services = {name: {"image": f"the-image-of-{name}:1"} for name in (*NAMES, "ingest")}
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(
        f"""#!/bin/sh
        echo "$@" >>{tmp_path}/called
        case "$*" in *config*) echo '{json.dumps({"services": services})}';; esac
        """
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}{os.pathsep}{os.environ['PATH']}")
    folder = tmp_path / "services"
    Services(folder).prepare()
    file = folder / "run" / "compose.json"
    project = json.loads(file.read_text())["services"]
    assert {name: project[name]["image"] for name in project} == {name: f"the-image-of-{name}:1" for name in NAMES}
    state = json.loads((folder / "state.json").read_text())
    inside = {"kafka": state["ports"]["kafka"], "cassandra": 9042, "minio": 9000}
    assert {name: project[name]["ports"] for name in NAMES} == {
        name: [f"127.0.0.1:{state['ports'][name]}:{inside[name]}"] for name in NAMES
    }
    published, inside = project["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert published == f"PLAINTEXT://127.0.0.1:{state['ports']['kafka']}"
    assert inside == "INTERNAL://kafka:9092"  # for the container of MinIO, which tells of its bucket's objects
    assert project["minio"]["environment"]["MINIO_ROOT_PASSWORD"] == state["password"]
    assert file.stat().st_mode & 0o777 == 0o600
    Services(folder).kill("kafka")  # nothing runs
    Services(folder).down()
    *_, asked, removed = (tmp_path / "called").read_text().splitlines()
    assert "ps" in asked.split()
    assert (
        removed == f"compose --project-name facestream-services-{state['cluster'].lower()} --file {file} down --volumes"
    )
    assert [it.name for it in folder.rglob("*")] == ["lock"]
