"""Balance or payment is set back while orders are open: a page that can be paid keeps deletions away, money that was
told is credited once, and what is unknown afterwards is listed.
"""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from shared.clock import HOUR_US, MINUTE_US, SECOND_US
from shared.topics import SERVICE_EVENTS
from tests.fleet.making import lines_of, make_books
from tests.payment.test_kills import PRICE, PaymentCluster
from tests.support.databases import Databases
from tests.support.infrastructure import temporary_home
from tests.support.topics import prefix_of
from tests.system.conftest import START_US
from tests.system.test_debtors import deletions, event, read_events, told
from tests.system.test_restored_balance import confirm
from tests.system.waiting import wait_for

pytestmark = pytest.mark.process

REGIONS = {"vn": {"currency": "VND", "opened_at": "2020-01-01T00:00:00Z", "grace_seconds": 600}}
REFUND_MICROS = 90_000_000_000
OPEN_ORDERS = "select order_id from pending_order where ended_at is null order by 1"


@pytest.fixture
def cluster(request: pytest.FixtureRequest, databases: Databases, kafka_bootstrap: str) -> Iterator[PaymentCluster]:
    with (
        temporary_home() as home,
        PaymentCluster(
            home,
            databases=databases,
            bootstrap=kafka_bootstrap,
            prefix=prefix_of(request.node.nodeid),
            regions=REGIONS,
            start_us=START_US,
            names=("metering", "balance", "payment", "enforcement"),
        ) as made,
    ):
        yield made


def sink(cluster: PaymentCluster) -> None:
    """Let acme run out of credit after an hour and a half; its grace period is ten minutes."""
    [book] = [book for book in make_books(START_US, 400) if book["region"] == "vn"][:1]
    cluster.put_book(book)
    created = event("acme", "container.created", START_US, gpu_sku="a30", gpu_count=1, persistent_storage_gb=500)
    cluster.publish(lines_of([created, event("acme", "container.started", START_US + SECOND_US)]))
    cluster.credit(("vn", "acme"), 1_000_000, "first")
    cluster.reach(START_US + 2 * HOUR_US)
    cluster.settle()
    wait_for(lambda: told(cluster, "deletion.scheduled"), what="a deletion case")


def test_an_order_that_a_restored_balance_lost_keeps_the_deletion_away(cluster: PaymentCluster) -> None:
    sink(cluster)
    dump = cluster.dump("balance")
    order_id = str(cluster.order("after the dump")["order_id"])
    cluster.reach(START_US + 2 * HOUR_US + 9 * MINUTE_US)
    cluster.settle()
    cluster.kill("balance")
    cluster.restore_dump("balance", dump)
    cluster.start("balance")
    wait_for(lambda: cluster.query("balance", OPEN_ORDERS) == [(order_id,)], what="the order is registered again")
    confirm(cluster, "balance")

    # Due, and a grace period after the restore: the open order alone is in the way.
    cluster.reach(START_US + 2 * HOUR_US + 25 * MINUTE_US)
    cluster.settle()
    wait_for(lambda: "order" in reason_of(cluster), what=lambda: f"frozen for the order:\n{cluster.logs()}")
    assert not deletions(cluster)
    assert cluster.webhook("evt-1", order_id, "stripe:pi_1") == "applied"
    wait_for(lambda: cluster.query("balance", OPEN_ORDERS) == [], what="the order is ended by its payment")
    wait_for(lambda: told(cluster, "deletion.cancelled"), what="the case is over")
    assert not deletions(cluster)
    assert cluster.balances()["vn", "acme"] > PRICE.amount_micros // 2


def reason_of(cluster: PaymentCluster) -> str:
    cases = cluster.get("enforcement", "/v1/deletion-cases/vn/acme")["deletion_cases"]
    return str(cases[-1]["reason"])


def refund(cluster: PaymentCluster, payment_id: str) -> dict[str, Any]:
    body = {"amount_micros": REFUND_MICROS, "reason": "asked for", "actor": "kim"}
    url = f"{cluster.url('payment')}/v1/payments/{payment_id}/refunds"
    answer = httpx.post(url, json=body, headers={"Idempotency-Key": "one refund"}, timeout=10)
    assert answer.is_success, answer.text
    return dict(answer.json())


def test_a_restored_payment_credits_nothing_twice_and_lists_what_it_does_not_know(cluster: PaymentCluster) -> None:
    known = str(cluster.order("before the dump")["order_id"])
    dump = cluster.dump("payment")
    unknown = str(cluster.order("after the dump")["order_id"])
    unpaid = str(cluster.order("never paid")["order_id"])
    for number, order_id in enumerate((known, unknown)):
        assert cluster.webhook(f"evt-{number}", order_id, f"stripe:pi_{number}") == "applied"
    wait_for(
        lambda: cluster.query("payment", "select count(*) from payment where credited_at is not null") == [(2,)],
        what="both are credited",
    )
    made = refund(cluster, "stripe:pi_1")
    paid_micros = 2 * PRICE.amount_micros - REFUND_MICROS
    wait_for(lambda: cluster.balances()["vn", "acme"] == paid_micros, what="the refund is posted")
    before = cluster.balances()
    cluster.set_clock(cluster.now_us + 10 * MINUTE_US)
    cluster.kill("payment")
    cluster.restore_dump("payment", dump)
    cluster.start("payment")
    # The provider sends again what it was not answered for, or is swept: the same facts under the same ids.
    assert cluster.webhook("evt-0", known, "stripe:pi_0") == "repeated"
    assert cluster.webhook("evt-1", unknown, "stripe:pi_1") == "repeated"
    wait_for(
        lambda: cluster.query("payment", "select count(*) from payment where credited_at is not null") == [(2,)],
        what="both are known as credited again",
    )
    # The refund was told, and is there before anybody asks for it once more.
    rows = cluster.query("payment", "select payment_id, amount_micros from refund")
    assert rows == [("stripe:pi_1", REFUND_MICROS)]
    assert refund(cluster, "stripe:pi_1")["refund_id"] == made["refund_id"]
    # The customer repeats his request, and is shown what he paid.
    again = cluster.order("after the dump")
    assert (again["state"], again["payment_id"], again["page_url"]) == ("credited", "stripe:pi_1", None)
    cluster.settle()
    assert cluster.balances() == before
    assert cluster.dead_letters("balance") == {}
    assert cluster.get("payment", "/v1/queue")["items"] == []

    def lost() -> set[str]:
        found = cluster.get("payment", "/v1/restores/1/lost")["lost"]
        return {item["item"] for item in found if item["kind"] == "order"}

    wait_for(lambda: lost() == {unknown, unpaid}, what=lambda: f"the lost orders are listed: {lost()}")
    wait_for(
        lambda: [halt["service"] for halt in cluster.status("enforcement")["deletions"]["halts"]] == ["payment"],
        what="deletions are frozen",
    )
    confirm(cluster, "payment")
    wait_for(lambda: not cluster.status("enforcement")["deletions"]["halts"], what="deletions go on")
    assert len(read_events(cluster, SERVICE_EVENTS)) == 2
