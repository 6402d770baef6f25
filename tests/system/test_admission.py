"""Admission through the whole system: asked, created, charged, and held no longer."""

import httpx
import pytest

from shared.clock import MINUTE_US, SECOND_US
from tests.fleet.making import lines_of
from tests.system.conftest import START_US, MakeCluster
from tests.system.test_debtors import event
from tests.system.test_kept_back import pass_time, put_books
from tests.system.waiting import wait_for

pytestmark = pytest.mark.process


def test_a_hold_ends_with_the_first_charge_of_what_was_admitted(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(names=("metering", "balance"))
    put_books(cluster)

    def ask(key: str, *, count: int = 1) -> httpx.Response:
        body = {"region": "vn", "tenant_id": "acme", "action": "create", "gpu_sku": "a30", "gpu_count": count}
        url = f"{cluster.url('balance')}/v1/admissions"
        return httpx.post(url, json={**body, "persistent_storage_gb": 10}, headers={"idempotency-key": key})

    # Prices reach balance over the topic.
    wait_for(lambda: ask("probe").status_code == 402, what="balance knows the prices")
    hour_micros = ask("probe").json()["required_micros"]
    cluster.credit(("vn", "acme"), hour_micros, "first")
    admitted = ask("k1")
    assert admitted.status_code == 201, admitted.text
    assert ask("k2").json()["held_micros"] == hour_micros

    admission_id = admitted.json()["admission_id"]
    configured = {"gpu_sku": "a30", "gpu_count": 1, "persistent_storage_gb": 10, "admission_id": admission_id}
    created = event("acme", "container.created", START_US, **configured)
    cluster.publish(lines_of([created, event("acme", "container.started", START_US + SECOND_US)]))
    pass_time(cluster, START_US + 2 * MINUTE_US)
    shown = cluster.get("balance", f"/v1/admissions/{admission_id}")
    assert shown["state"] == "charged"
    refused = ask("k3").json()
    assert refused["held_micros"] == 0
    assert refused["balance_micros"] == cluster.balances()["vn", "acme"] == hour_micros - refused["shortfall_micros"]
