"""Kafka and PostgreSQL as containers of a test session, where a Docker engine answers."""

import contextlib
from collections.abc import Iterator

from testcontainers.core.container import DockerContainer

from deploy.local.infrastructure.probes import wait_for_kafka, wait_for_postgres
from deploy.local.ports import LOOPBACK, find_free_port

POSTGRES_IMAGE = "postgres:18"
KAFKA_IMAGE = "apache/kafka:4.4.0"
_START_SECONDS = 120


@contextlib.contextmanager
def postgres_container() -> Iterator[str]:
    """The administrator's address of a fresh server."""
    container = DockerContainer(POSTGRES_IMAGE).with_env("POSTGRES_PASSWORD", "postgres").with_exposed_ports(5432)
    container.with_command("postgres -c max_connections=200")
    with container as server:
        url = f"postgresql://postgres:postgres@{LOOPBACK}:{server.get_exposed_port(5432)}/postgres"
        wait_for_postgres(url, timeout_seconds=_START_SECONDS)
        yield url


@contextlib.contextmanager
def kafka_container() -> Iterator[str]:
    """The address of a fresh node. It is advertised, so the port is chosen before the node starts."""
    port = find_free_port()
    container = DockerContainer(KAFKA_IMAGE).with_bind_ports(9092, port)
    container.with_envs(
        KAFKA_PROCESS_ROLES="broker,controller",
        KAFKA_NODE_ID="1",
        KAFKA_CONTROLLER_QUORUM_VOTERS="1@localhost:9093",
        KAFKA_LISTENERS="PLAINTEXT://:9092,CONTROLLER://:9093",
        KAFKA_ADVERTISED_LISTENERS=f"PLAINTEXT://{LOOPBACK}:{port}",
        KAFKA_CONTROLLER_LISTENER_NAMES="CONTROLLER",
        KAFKA_LISTENER_SECURITY_PROTOCOL_MAP="CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        KAFKA_INTER_BROKER_LISTENER_NAME="PLAINTEXT",
        KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR="1",
        KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS="4",
        KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR="1",
        KAFKA_TRANSACTION_STATE_LOG_MIN_ISR="1",
        KAFKA_TRANSACTION_MAX_TIMEOUT_MS="60000",
        KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR="1",
        KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR="1",
        KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS="0",
        KAFKA_MESSAGE_MAX_BYTES=str(16 * 1024 * 1024),
        KAFKA_REPLICA_FETCH_MAX_BYTES=str(16 * 1024 * 1024),
        KAFKA_AUTO_CREATE_TOPICS_ENABLE="false",
    )
    with container:
        bootstrap = f"{LOOPBACK}:{port}"
        wait_for_kafka(bootstrap, timeout_seconds=_START_SECONDS)
        yield bootstrap
