"""A Kafka of its own for a test: with logins (SASL), and an authorizer that allows what the test grants."""

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it does not list what it exports
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from bench.serving import free_port
from scripts import services_packages, services_start
from scripts.services_process import spawn
from scripts.services_state import State

ADMIN = "root"
START_S = 180.0


@dataclass(frozen=True, slots=True)
class Right:
    """An operation on a resource. kind: topic, group or cluster. name: `*` for all of them."""

    operation: str
    kind: str
    name: str


class SecuredKafka:
    """Grants rights to its users."""

    def __init__(self, port: int, passwords: Mapping[str, str], log: Path) -> None:
        self.port, self.passwords, self._log = port, passwords, log
        self._admin = AdminClient(
            {
                "bootstrap.servers": f"127.0.0.1:{port}",
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "PLAIN",
                "sasl.username": ADMIN,
                "sasl.password": passwords[ADMIN],
                "log_level": 0,
            }
        )

    def url(self, user: str, mechanism: str | None = "PLAIN") -> str:
        return f"kafka://{user}@127.0.0.1:{self.port}" + (f"?sasl={mechanism}" if mechanism else "")

    def allow_scram(self, user: str, mechanism: str) -> None:
        """Stores the user's password for this mechanism too."""
        credential = ScramCredentialInfo(ScramMechanism[mechanism.replace("-", "_")], 4_096)
        change = UserScramCredentialUpsertion(user, credential, self.passwords[user].encode())
        for future in self._admin.alter_user_scram_credentials([change]).values():
            future.result()

    def log(self) -> str:
        return self._log.read_text()

    def wait(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                self._admin.list_topics(timeout=1)
                return
            except KafkaException:
                assert time.monotonic() < deadline, self.log()[-2000:]

    def grant(self, user: str, rights: Sequence[Right]) -> None:
        for future in self._admin.create_acls([_acl(user, it) for it in rights]).values():
            future.result()

    def revoke(self, user: str, right: Right) -> None:
        acl = _acl(user, right)
        of_acl = acl.resource_pattern_type, acl.principal, acl.host, acl.operation, acl.permission_type
        wanted = AclBindingFilter(acl.restype, acl.name, *of_acl)
        for future in self._admin.delete_acls([wanted]).values():
            assert len(future.result()) == 1, f"{user} did not have {right}"


def _acl(user: str, right: Right) -> AclBinding:
    kinds = {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP, "cluster": ResourceType.BROKER}
    name = "kafka-cluster" if right.kind == "cluster" else right.name
    operation = AclOperation["".join(f"_{it}" if it.isupper() else it for it in right.operation).lstrip("_").upper()]
    return AclBinding(
        kinds[right.kind],
        name,
        ResourcePatternType.LITERAL,
        f"User:{user}",
        "*",
        operation,
        AclPermissionType.ALLOW,
    )


@contextmanager
def secured_kafka(folder: Path, users: Sequence[str]) -> Iterator[SecuredKafka]:
    """Starts the server in `folder`, and stops it. Raises MissingTools."""
    passwords = {user: secrets.token_hex(8) for user in (ADMIN, *users)}
    port, controller = free_port(), free_port()
    logins = " ".join(f'user_{user}="{password}"' for user, password in passwords.items())
    settings = {
        "listeners": f"SASL_PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "listener.security.protocol.map": "SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "SASL_PLAINTEXT",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": (
            "org.apache.kafka.common.security.plain.PlainLoginModule required"
            f' username="{ADMIN}" password="{passwords[ADMIN]}" {logins};'
        ),
        **{
            f"listener.name.sasl_plaintext.{mechanism}.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            )
            for mechanism in ("scram-sha-256", "scram-sha-512")
        },
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:{ADMIN};User:ANONYMOUS",
    }
    cache = services_packages.folder()
    services_packages.kafka(cache)
    folder.mkdir()
    start = services_start.kafka(folder, cache, port, controller, State.new("packages").cluster, settings)
    process = spawn(start.command, folder=folder, environment=start.environment)
    try:
        kafka = SecuredKafka(port, passwords, folder / "log")
        kafka.wait()
        yield kafka
    finally:
        process.end(patience=30)
