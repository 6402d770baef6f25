"""Charging waits for reading: nothing is charged that an event which was published already takes back."""

import json
import signal
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.errors import KafkaError

from deploy.local.infrastructure.probes import run_async
from shared.clock import HOUR_US, MINUTE_US, SECOND_US, format_instant
from shared.events.charges import read_batch
from shared.topics import CHARGES, COMMANDS, ENFORCEMENT_EVENTS, LIFECYCLE
from tests.system.broker import Outgoing
from tests.system.cluster import Cluster
from tests.system.conftest import START_US, MakeCluster
from tests.system.waiting import wait_for

pytestmark = pytest.mark.process

BOOK = {
    "region": "vn",
    "effective_from": "2020-01-01T00:00:00Z",
    "gpu": {"h100-sxm": "2.54", "a30": "0.67"},
    "storage": {"persistent": "0.006"},
}
CREDIT_MICROS = 60_000_000


def event(kind: str, resource: str, at_us: int, **data: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"{kind}-{resource}-{at_us}",
        "source": "platform/vn",
        "type": kind,
        "subject": resource,
        "time": format_instant(at_us),
        "data": {"region": "vn", "tenant_id": "acme", **data},
    }


def run_container(cluster: Cluster, resource: str, sku: str, at_us: int) -> None:
    created = event("container.created", resource, at_us, gpu_sku=sku, gpu_count=1)
    cluster.publish(map(json.dumps, [created, event("container.started", resource, at_us + SECOND_US)]))


def stop_container(cluster: Cluster, resource: str) -> None:
    cluster.publish([json.dumps(event("container.stopped", resource, cluster.now_us))])


def require_nothing_taken_back(cluster: Cluster) -> None:
    """No correction, and no container stopped."""
    for _, value in cluster.broker.read(CHARGES):
        assert set(read_batch(value or b"").lines.classes) <= {"charge"}
    assert cluster.broker.read(COMMANDS) == []


def test_a_worker_that_was_killed_or_paused_reads_before_it_charges(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(names=("metering", "balance", "enforcement"))
    cluster.put_book(BOOK)
    cluster.credit(("vn", "acme"), CREDIT_MICROS, "first")
    run_container(cluster, "keep", "a30", START_US)
    run_container(cluster, "gone", "h100-sxm", START_US)
    volume = event("volume.created", "vol", START_US, size_gb=100)
    cluster.publish([json.dumps(volume)])
    cluster.reach(START_US + MINUTE_US)
    cluster.settle()

    # Killed with a stop unread: 20 hours of it would be more than the credit.
    cluster.signal("metering", signal.SIGSTOP)
    stop_container(cluster, "gone")
    cluster.reach(START_US + 20 * HOUR_US)
    cluster.kill("metering")
    cluster.start("metering")
    cluster.settle()
    require_nothing_taken_back(cluster)

    # Paused with a commanded deletion unread, as metering behind enforcement.
    cluster.signal("metering", signal.SIGSTOP)
    commanded = event("deletion.commanded", "vol", cluster.now_us, resource_id="vol", case_id="vn/acme/1")
    commanded["source"] = "tollkeeper/enforcement"
    cluster.produce([Outgoing(ENFORCEMENT_EVENTS, json.dumps(commanded).encode())])
    cluster.reach(cluster.now_us + 3 * HOUR_US)
    cluster.signal("metering", signal.SIGCONT)
    cluster.settle()
    require_nothing_taken_back(cluster)
    charged = CREDIT_MICROS - cluster.balances()["vn", "acme"]
    assert charged > 23 * 670_000 + 20 * 600_000, "and everything that ran is charged"


def test_an_open_transaction_and_a_new_partition_are_waited_for(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    cluster.put_book(BOOK)
    for resource in ("open", "added"):
        run_container(cluster, resource, "a30", START_US)
    cluster.reach(START_US + MINUTE_US)
    cluster.settle()
    topic = cluster.broker.prefix + LIFECYCLE

    async def stop_in_a_transaction() -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=cluster.broker.bootstrap, transactional_id=topic, transaction_timeout_ms=60_000
        )
        await producer.start()
        stopped = json.dumps(event("container.stopped", "open", cluster.now_us)).encode()
        async with producer.transaction():
            await producer.send_and_wait(topic, stopped, partition=0)
            cluster.reach(START_US + HOUR_US)
            wait_for(lambda: _waits_for_a_transaction(cluster), what="metering names the open transaction")
            assert cluster.through_us() < START_US + 2 * MINUTE_US
        await producer.stop()

    run_async(stop_in_a_transaction())
    cluster.settle()
    require_nothing_taken_back(cluster)

    async def add_partition() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=cluster.broker.bootstrap)
        await admin.start()
        await admin.create_partitions({topic: NewPartitions(9)})
        await admin.close()

    run_async(add_partition())
    stopped = json.dumps(event("container.stopped", "added", cluster.now_us)).encode()
    wait_for(lambda: _produced(cluster, Outgoing(LIFECYCLE, stopped, partition=8)), what="a leader")
    cluster.reach(cluster.now_us + HOUR_US)
    cluster.settle(timeout_seconds=30)
    require_nothing_taken_back(cluster)


def _waits_for_a_transaction(cluster: Cluster) -> bool:
    waited = cluster.status("metering")["read_waits_for"]["partitions"]
    return any(item["topic"] == LIFECYCLE and item["open_transactions_of"] for item in waited)


def _produced(cluster: Cluster, record: Outgoing) -> bool:
    try:
        cluster.produce([record])
    except (AssertionError, KafkaError):
        # The broker tells of a new partition in its own time.
        return False
    return True
