"""Gets Kafka, Cassandra and MinIO from public packages, with Maven and Go. Existing ones are kept.

Each is made under a temporary name and renamed when it is complete, so that an interrupted download does not count.
Maven and Go keep what they have downloaded in their caches.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.services_lock import locked
from scripts.services_process import ServiceFailed

KAFKA = ("org.apache.kafka", "kafka_2.13", "4.3.1")
CASSANDRA = ("org.apache.cassandra", "cassandra-all", "5.0.6")
LOG4J = ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.24.3")
MINIO = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c"
ATTEMPTS = 3
ROOT = Path(__file__).resolve().parent.parent


class MissingTools(ServiceFailed):
    """This machine lacks a program that is needed to get or to start the servers."""


def folder() -> Path:
    """The folder of the packages: $FACESTREAM_SERVICES_CACHE, else .services/packages."""
    return Path(os.environ.get("FACESTREAM_SERVICES_CACHE") or ROOT / ".services" / "packages").resolve()


def missing(cache: Path) -> list[str]:
    """The programs that this machine lacks to start the servers, and to get the missing ones."""
    lacks = [] if _java_version() >= 17 else ["Java 17 or newer (java)"]
    if not (_jars(cache, KAFKA).exists() and _jars(cache, CASSANDRA).exists()) and not shutil.which("mvn"):
        lacks.append("Maven (mvn)")
    if not _minio(cache).exists() and not shutil.which("go"):
        lacks.append("Go (go)")
    return lacks


def get(cache: Path) -> None:
    """Gets the missing servers. Raises MissingTools, ServiceFailed."""
    if lacks := missing(cache):
        raise MissingTools(f"no Docker engine answers, and this machine lacks {', '.join(lacks)}")
    with locked(cache / "lock"):
        kafka(cache)
        cassandra(cache)
        minio(cache)


def kafka(cache: Path) -> Path:
    """The folder with Kafka's jars."""
    return maven(cache, KAFKA, LOG4J)


def cassandra(cache: Path) -> Path:
    """The folder with Cassandra's jars."""
    return maven(cache, CASSANDRA)


def minio(cache: Path) -> Path:
    """MinIO's program."""
    program = _minio(cache)
    if not program.exists():
        print("building MinIO: a few minutes", file=sys.stderr)
        unfinished = program.parent.with_name(f"{program.parent.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        run(["go", "install", MINIO], unfinished, {"GOBIN": str(unfinished)})
        unfinished.rename(program.parent)
    return program


def maven(cache: Path, *artifacts: tuple[str, str, str]) -> Path:
    """The folder with the jars of Maven artifacts (group, name, version) and of all that they need."""
    jars = _jars(cache, artifacts[0])
    if not jars.exists():
        print(f"getting {artifacts[0][1]} {artifacts[0][2]}", file=sys.stderr)
        unfinished = jars.with_name(f"{jars.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        dependencies = "".join(
            f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>"
            for group, name, version in artifacts
        )
        (unfinished / "pom.xml").write_text(
            "<project><modelVersion>4.0.0</modelVersion><groupId>facestream</groupId><artifactId>services</artifactId>"
            f"<version>1</version><packaging>pom</packaging><dependencies>{dependencies}</dependencies></project>"
        )
        run(
            ["mvn", "-q", "-B", "-Dstyle.color=never", "dependency:copy-dependencies", "-DoutputDirectory=."],
            unfinished,
            {},
        )
        unfinished.rename(jars)
    return jars


def run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Runs a command, and repeats it if it fails, because the network is the usual cause. Raises ServiceFailed after
    the last attempt.
    """
    for attempt in range(1, ATTEMPTS + 1):
        done = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
        if done.returncode == 0:
            return
        print(f"{done.stdout}\n{command[0]} failed, attempt {attempt} of {ATTEMPTS}", file=sys.stderr)
    raise ServiceFailed(
        f"{command[0]} failed {ATTEMPTS} times, see above. The next call continues with what is downloaded."
    )


def _jars(cache: Path, artifact: tuple[str, str, str]) -> Path:
    return cache / f"{artifact[1]}-{artifact[2]}"


def _minio(cache: Path) -> Path:
    return cache / f"minio-{MINIO.rpartition('-')[2]}" / "minio"


def _java_version() -> int:
    """The major version; 0 without Java."""
    if not shutil.which("java"):
        return 0
    told = subprocess.run(["java", "-version"], capture_output=True, text=True).stderr  # noqa: S607
    found = re.search(r'version "(\d+)', told)
    return int(found[1]) if found else 0
