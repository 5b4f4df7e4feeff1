"""Configures a client of Cassandra: contact points, login, TLS, policies and timeouts."""

import ssl
from typing import Any

from cassandra import ConsistencyLevel, ProtocolVersion
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.policies import (
    ConstantSpeculativeExecutionPolicy,
    DCAwareRoundRobinPolicy,
    ExponentialReconnectionPolicy,
    RetryPolicy,
    TokenAwarePolicy,
)
from cassandra.query import tuple_factory

from backends.urls import ServerUrl
from schemas.errors import ConfigurationError

OPTIONS = ("tls", "ca_file", "datacenter", "replication")
PORT = 9042

CONNECT_S = 5.0
REQUEST_S = 10.0
# A server that has not answered for this long is considered unavailable, even if its connections are still open.
HEARTBEAT_S = 10.0
# The longest pause between two attempts to reconnect to a server.
RECONNECT_S = 2.0
# After this time without an answer, a request is also sent to a second server.
SECOND_ATTEMPT_S = 0.5


class Retries(RetryPolicy):  # type: ignore[misc]  # the driver has no types
    """Repeats a request once after a timeout: every request is idempotent."""

    def on_read_timeout(self, *args: Any, retry_num: int, **kwargs: Any) -> tuple[int, None]:
        return (self.RETRY if retry_num == 0 else self.RETHROW), None

    def on_write_timeout(self, *args: Any, retry_num: int, **kwargs: Any) -> tuple[int, None]:
        return (self.RETRY if retry_num == 0 else self.RETHROW), None


def cluster_of(server: ServerUrl) -> Cluster:
    """Makes a client without connecting it. Blocks while it looks up the hosts' names."""
    profile = ExecutionProfile(
        load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy(server.options.get("datacenter", ""))),
        retry_policy=Retries(),
        consistency_level=ConsistencyLevel.LOCAL_QUORUM,
        serial_consistency_level=ConsistencyLevel.SERIAL,
        request_timeout=REQUEST_S,
        row_factory=tuple_factory,
        speculative_execution_policy=ConstantSpeculativeExecutionPolicy(SECOND_ATTEMPT_S, 1),
    )
    return Cluster(
        contact_points=list(server.hosts),
        port=server.hosts[0][1],
        auth_provider=PlainTextAuthProvider(server.user, server.password or "") if server.user else None,
        ssl_context=tls_of(server),
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        reconnection_policy=ExponentialReconnectionPolicy(0.5, RECONNECT_S, max_attempts=None),
        protocol_version=ProtocolVersion.V5,
        connect_timeout=CONNECT_S,
        control_connection_timeout=CONNECT_S,
        idle_heartbeat_interval=HEARTBEAT_S,
        idle_heartbeat_timeout=HEARTBEAT_S,
    )


def tls_of(server: ServerUrl) -> ssl.SSLContext | None:
    """The TLS context, which checks the issuer of a server's certificate and that it names the server's address; None
    without tls=true.
    """
    ca_file = server.options.get("ca_file")
    if not server.flag("tls"):
        if ca_file is not None:
            raise ConfigurationError(f"{server.setting}: ca_file needs tls=true")
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigurationError(f"{server.setting}: the certificates in {ca_file} cannot be read: {error}") from None
