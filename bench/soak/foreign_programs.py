"""The programs of bench/soak/foreign_clients/. The two in Python use the packages of the environment: see
pyproject.toml.
"""

import sys
from dataclasses import replace
from pathlib import Path

from bench.programs import Program, check_tools, go_program, jars_of, java_program, node_program
from scripts.services_packages import KAFKA, LOG4J

SOURCES = Path(__file__).parent / "foreign_clients"
# Kafka's own tools, with its Java client.
KAFKA_TOOLS = ("org.apache.kafka", "kafka-tools", KAFKA[2])
FRANZ_GO = "github.com/twmb/franz-go/pkg/kgo@v1.22.3"
LAG = ("github.com/IBM/sarama@v1.61.1", "github.com/twmb/franz-go/pkg/kadm@v1.20.0")
KAFKA_GO = "github.com/segmentio/kafka-go@v0.4.51"
# kafkajs-lz4 needs a compiler and Node's headers, so LZ4 comes from a package that ships its binary.
KAFKAJS = ("kafkajs@2.2.4", "kafkajs-snappy@1.1.0", "lz4-napi@2.10.0", "@bokuweb/zstd-wasm@0.0.27")


def python_programs() -> dict[str, Program]:
    """The programs by the name of their client library."""
    package = "bench.soak.foreign_clients"
    return {
        "librdkafka": Program([sys.executable, "-m", f"{package}.librdkafka"]),
        "kafka-python": Program([sys.executable, "-m", f"{package}.kafka_python"]),
    }


def all_programs() -> dict[str, Program]:
    """The programs of all six client libraries by its name. Raises MissingTools, ServiceFailed."""
    check_tools()
    return {
        "java": java_program(SOURCES / "Produce.java", kafka_tools()),
        "franz-go": go_program(SOURCES / "franz_go.go", FRANZ_GO),
        "kafka-go": replace(go_program(SOURCES / "kafka_go.go", KAFKA_GO), has_transactions=False),
        "kafkajs": node_program(SOURCES / "kafkajs.js", *KAFKAJS),
        **python_programs(),
    }


def lag_program() -> Program:
    """Prints what exporters of metrics know of consumer groups. Raises MissingTools, ServiceFailed."""
    check_tools()
    return go_program(SOURCES / "lag.go", FRANZ_GO, *LAG)


def kafka_tools() -> Path:
    """The folder with the jars of Kafka's tools and its Java client."""
    return jars_of(KAFKA_TOOLS, LOG4J)
