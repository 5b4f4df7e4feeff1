"""Prepares starting Kafka, Cassandra and MinIO from their packages: one node each, on 127.0.0.1, in little memory.

Each function writes the settings into the server's folder, next to its data and its log, and returns the command.
"""

import json
import subprocess
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from scripts import services_packages as packages
from scripts.services_process import ServiceFailed

# MinIO's targets and their topics: one for a system without a prefix, one for tests/e2e/test_events.py.
NOTIFICATIONS = {"FACESTREAM": "bucket.events", "TEST": "test-events.bucket.events"}
RECORD_BYTES = 10 * 1024 * 1024  # the largest record of the system is 8 MB


@dataclass(frozen=True, slots=True)
class Start:
    """A command that starts a server, and the variables that it needs in addition."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict, repr=False)


def kafka_settings(port: int, controller_port: int, data: str) -> dict[str, str]:
    """Kafka's settings for one node on 127.0.0.1."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": data,
        "auto.create.topics.enable": "false",
        "message.max.bytes": str(RECORD_BYTES),
        "replica.fetch.max.bytes": str(RECORD_BYTES),
        "offsets.topic.num.partitions": "8",
        "offsets.topic.replication.factor": "1",
        "log.cleaner.backoff.ms": "1000",
        "transaction.state.log.num.partitions": "8",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
    }


def kafka(
    folder: Path,
    cache: Path,
    port: int,
    controller_port: int,
    cluster: str,
    more_settings: Mapping[str, str] = MappingProxyType({}),
) -> Start:
    """cluster: a random uuid in the form of Kafka. Makes the storage before the first start."""
    data, settings, logging = folder / "data", folder / "server.properties", folder / "log4j2.properties"
    chosen = {**kafka_settings(port, controller_port, str(data)), **more_settings}
    settings.write_text("".join(f"{name}={value}\n" for name, value in chosen.items()))
    logging.write_text(
        textwrap.dedent("""\
            appender.console.type=Console
            appender.console.name=console
            appender.console.layout.type=PatternLayout
            appender.console.layout.pattern=[%d] %p %m (%c)%n
            rootLogger.level=info
            rootLogger.appenderRef.console.ref=console
            """)
    )
    java = ["java", "-Xmx512m", f"-Dlog4j2.configurationFile={logging}", "-cp", f"{packages.kafka(cache)}/*"]
    if not (data / "meta.properties").exists():
        made = [*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(settings), "--ignore-formatted"]
        done = subprocess.run(made, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise ServiceFailed(f"Kafka's storage could not be made:\n{done.stdout}")
    return Start([*java, "kafka.Kafka", str(settings)])


def cassandra(folder: Path, cache: Path, port: int, storage_port: int) -> Start:
    settings, logging, data = folder / "cassandra.yaml", folder / "logback.xml", folder / "data"
    # JSON is YAML.
    settings.write_text(
        json.dumps(
            {
                "cluster_name": "facestream",
                "num_tokens": 1,
                "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
                "seed_provider": [
                    {
                        "class_name": "org.apache.cassandra.locator.SimpleSeedProvider",
                        "parameters": [{"seeds": f"127.0.0.1:{storage_port}"}],
                    }
                ],
                "listen_address": "127.0.0.1",
                "rpc_address": "127.0.0.1",
                "storage_port": storage_port,
                "native_transport_port": port,
                "endpoint_snitch": "SimpleSnitch",
                # With "periodic", a kill -9 loses the acknowledged writes of 100 ms: measured, 89 rows of 2784.
                "commitlog_sync": "batch",
                "auto_snapshot": False,
                "hinted_handoff_enabled": False,
                "concurrent_reads": 16,
                "concurrent_writes": 32,
                "concurrent_compactors": 1,
                "file_cache_size": "64MiB",
                "data_file_directories": [str(data / "data")],
                "commitlog_directory": str(data / "commitlog"),
                "saved_caches_directory": str(data / "saved_caches"),
                "hints_directory": str(data / "hints"),
                "cdc_raw_directory": str(data / "cdc_raw"),
            },
            indent=2,
        )
    )
    logging.write_text(
        textwrap.dedent("""\
            <configuration>
              <appender name="console" class="ch.qos.logback.core.ConsoleAppender">
                <encoder><pattern>%d %-5level [%thread] %logger{0} %msg%n</pattern></encoder>
              </appender>
              <root level="INFO"><appender-ref ref="console"/></root>
            </configuration>
            """)
    )
    exported = [
        "java.base/jdk.internal.misc",
        "java.base/jdk.internal.ref",
        "java.base/sun.nio.ch",
        "java.management.rmi/com.sun.jmx.remote.internal.rmi",
        "java.rmi/sun.rmi.registry",
        "java.rmi/sun.rmi.server",
        "java.sql/java.sql",
    ]
    opened = [
        "java.base/java.io",
        "java.base/java.lang",
        "java.base/java.lang.module",
        "java.base/java.nio",
        "java.base/java.util",
        "java.base/java.util.concurrent",
        "java.base/java.util.concurrent.atomic",
        "java.base/jdk.internal.loader",
        "java.base/jdk.internal.math",
        "java.base/jdk.internal.misc",
        "java.base/jdk.internal.module",
        "java.base/jdk.internal.ref",
        "java.base/jdk.internal.reflect",
        "java.base/jdk.internal.util.jar",
        "java.base/sun.nio.ch",
        "jdk.management/com.sun.management.internal",
    ]
    options = {
        "cassandra.config": settings.as_uri(),
        "cassandra.storagedir": str(data),
        "logback.configurationFile": str(logging),
        "cassandra.skip_wait_for_gossip_to_settle": "0",
        "cassandra.ring_delay_ms": "0",
        "jdk.attach.allowAttachSelf": "true",
    }
    return Start(
        [
            "java",
            "-Xmx1g",
            *(f"-D{name}={value}" for name, value in options.items()),
            *(f"--add-exports={package}=ALL-UNNAMED" for package in exported),
            *(f"--add-opens={package}=ALL-UNNAMED" for package in opened),
            "-cp",
            f"{packages.cassandra(cache)}/*",
            "org.apache.cassandra.service.CassandraDaemon",
        ]
    )


def minio_notifications(brokers: str, queues: str) -> dict[str, str]:
    """Settings of MinIO: the Kafka topics for the notifications of a bucket. queues: a folder for notifications that
    Kafka does not have yet.
    """
    settings: dict[str, str] = {}
    for target, topic in NOTIFICATIONS.items():
        settings |= {
            f"MINIO_NOTIFY_KAFKA_ENABLE_{target}": "on",
            f"MINIO_NOTIFY_KAFKA_BROKERS_{target}": brokers,
            f"MINIO_NOTIFY_KAFKA_TOPIC_{target}": topic,
            f"MINIO_NOTIFY_KAFKA_QUEUE_DIR_{target}": f"{queues}/{target.lower()}",
        }
    return settings


def minio(folder: Path, cache: Path, port: int, user: str, password: str, kafka_port: int) -> Start:
    address = ["--address", f"127.0.0.1:{port}", "--certs-dir", str(folder / "certs")]
    secret = {"MINIO_ROOT_USER": user, "MINIO_ROOT_PASSWORD": password, "MINIO_BROWSER": "off", "MINIO_UPDATE": "off"}
    told = minio_notifications(f"127.0.0.1:{kafka_port}", str(folder / "events"))
    return Start([str(packages.minio(cache)), "server", str(folder / "data"), *address], secret | told)
