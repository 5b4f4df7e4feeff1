"""The programs of bench/interop/sdk_programs/."""

from pathlib import Path

from bench.programs import Program, check_tools, go_program, jars_of, java_program, node_program
from scripts.services_packages import KAFKA

SOURCES = Path(__file__).parent / "sdk_programs"
GO = ("github.com/cloudevents/sdk-go/v2@v2.16.2", "github.com/cloudevents/sdk-go/protocol/kafka_sarama/v2@v2.16.2")
JAVA = (
    ("io.cloudevents", "cloudevents-kafka", "4.0.1"),
    ("io.cloudevents", "cloudevents-json-jackson", "4.0.1"),
    ("org.apache.kafka", "kafka-clients", KAFKA[2]),
)
JAVASCRIPT = ("cloudevents@10.0.0", "kafkajs@2.2.4")


def sdk_programs() -> dict[str, Program]:
    """The programs by their language. Raises MissingTools, ServiceFailed."""
    check_tools()
    return {
        "go": go_program(SOURCES / "cloudevents.go", *GO),
        "java": java_program(SOURCES / "SendCloudEvents.java", jars_of(*JAVA)),
        "javascript": node_program(SOURCES / "cloudevents.js", *JAVASCRIPT),
    }
