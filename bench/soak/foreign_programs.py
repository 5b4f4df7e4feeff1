"""Gets what the programs of bench/soak/foreign_clients/ need, and builds them. What is there already is kept.

The packages and programs lie in a folder `foreign` beside those of scripts/services.py. The two programs in Python use
the packages of the environment: see pyproject.toml.
"""

import hashlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from scripts.services_lock import locked
from scripts.services_packages import KAFKA, LOG4J, MissingTools, folder, maven, run

SOURCES = Path(__file__).parent / "foreign_clients"
# Kafka's own tools, with its Java client.
KAFKA_TOOLS = ("org.apache.kafka", "kafka-tools", KAFKA[2])
FRANZ_GO = "github.com/twmb/franz-go/pkg/kgo@v1.22.3"
KAFKA_GO = "github.com/segmentio/kafka-go@v0.4.51"
# kafkajs-lz4 needs a compiler and Node's headers, so LZ4 comes from a package that ships its binary.
KAFKAJS = ("kafkajs@2.2.4", "kafkajs-snappy@1.1.0", "lz4-napi@2.10.0", "@bokuweb/zstd-wasm@0.0.27")
TOOLS = {"javac": "a JDK 17 or newer", "mvn": "Maven", "go": "Go", "node": "Node.js", "npm": "npm"}


@dataclass(frozen=True, slots=True)
class Program:
    """A program that sends a plan, see foreign_clients/__init__.py."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    has_transactions: bool = True


def python_programs() -> dict[str, Program]:
    """The programs by the name of their client library."""
    package = "bench.soak.foreign_clients"
    return {
        "librdkafka": Program([sys.executable, "-m", f"{package}.librdkafka"]),
        "kafka-python": Program([sys.executable, "-m", f"{package}.kafka_python"]),
    }


def all_programs() -> dict[str, Program]:
    """The programs of all six client libraries by its name. Raises MissingTools, ServiceFailed."""
    if lacks := [what for tool, what in TOOLS.items() if not shutil.which(tool)]:
        raise MissingTools(f"this machine cannot build every client: it lacks {', '.join(lacks)}")
    cache = folder() / "foreign"
    with locked(cache / "lock"):
        tools, packages = kafka_tools(), _made(cache, "kafkajs", KAFKAJS, _get_kafkajs)
        return {
            "java": Program(["java", "-cp", f"{tools}/*:{_java_classes(cache, tools)}", "Produce"]),
            "franz-go": Program([str(_go_program(cache, "franz_go", FRANZ_GO))]),
            "kafka-go": Program([str(_go_program(cache, "kafka_go", KAFKA_GO))], has_transactions=False),
            "kafkajs": Program(["node", str(SOURCES / "kafkajs.js")], {"NODE_PATH": str(packages / "node_modules")}),
            **python_programs(),
        }


def kafka_tools() -> Path:
    """The folder with the jars of Kafka's tools and its Java client."""
    return maven(folder() / "foreign", KAFKA_TOOLS, LOG4J)


def _java_classes(cache: Path, jars: Path) -> Path:
    source = SOURCES / "Produce.java"
    return _made(
        cache,
        "java",
        (*KAFKA_TOOLS, source.read_text()),
        lambda into: run(["javac", "-cp", f"{jars}/*", "-d", str(into), str(source)], into, {}),
    )


def _go_program(cache: Path, name: str, package: str) -> Path:
    source = SOURCES / f"{name}.go"

    def build(into: Path) -> None:
        shutil.copy(source, into)
        run(["go", "mod", "init", name], into, {})
        run(["go", "get", package], into, {})
        run(["go", "build", "-o", "program", source.name], into, {})

    return _made(cache, name, (package, source.read_text()), build) / "program"


def _get_kafkajs(into: Path) -> None:
    run(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(into), *KAFKAJS], into, {})


def _made(cache: Path, name: str, made_from: tuple[str, ...], make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills. Its name follows from what it is made from, so that a change makes it again."""
    digest = hashlib.sha256("\0".join(made_from).encode()).hexdigest()[:12]
    made = cache / f"{name}-{digest}"
    if not made.exists():
        print(f"building {name}", file=sys.stderr)
        unfinished = made.with_name(f"{made.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        make(unfinished)
        unfinished.rename(made)
    return made
