"""A platform without Kafka: what it sends over HTTP is charged like what comes over the topic."""

from typing import Any

import httpx
import pytest

from shared.clock import MINUTE_US, SECOND_US
from tests.system.conftest import START_US, MakeCluster
from tests.system.test_debtors import event
from tests.system.test_kept_back import pass_time, put_books

pytestmark = pytest.mark.process


def test_events_over_http_are_charged_once_however_often_they_are_sent(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(names=("metering", "balance"))
    put_books(cluster)
    configured: dict[str, Any] = {"gpu_sku": "a30", "gpu_count": 1, "persistent_storage_gb": 0}
    events = [
        event("acme", "container.created", START_US, **configured),
        event("acme", "container.started", START_US + SECOND_US),
    ]
    for _ in range(3):
        answer = httpx.post(
            f"{cluster.url('metering')}/v1/events",
            json=events,
            headers={"content-type": "application/cloudevents-batch+json"},
        )
        assert (answer.status_code, answer.json()) == (202, {"accepted": 2})
    pass_time(cluster, START_US + 10 * MINUTE_US)
    charged = cluster.get("balance", "/v1/accounts/vn/acme/charged", resource_id="ctr-acme")["kinds"]
    assert [(kind["kind"], kind["slots"]) for kind in charged] == [("gpu", 10)]
    assert cluster.balances()["vn", "acme"] == -charged[0]["amount_micros"] < 0
