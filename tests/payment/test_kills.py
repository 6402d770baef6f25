"""kill -9 at every named point between a customer's click and the credit: one credit after recovery.

Payment and balance as processes of their own on real Kafka and PostgreSQL; only the provider is played.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from services.payment.rules.facts import Money
from tests.payment.launch import SIGNATURE, callback
from tests.support.databases import Databases
from tests.support.infrastructure import temporary_home
from tests.support.topics import prefix_of
from tests.system.cluster import Cluster
from tests.system.failpoints import Kill
from tests.system.waiting import wait_for

pytestmark = pytest.mark.process

START_US = 1_800_000_000_000_000
REGIONS = {"vn": {"currency": "VND", "opened_at": "2020-01-01T00:00:00Z"}}
PRICE = Money(250_000_000_000, "VND")

CLICK = {
    "after the order's commit": Kill("services.payment.balance_client:BalanceClient.register"),
    "after registration": Kill("services.payment.balance_client:BalanceClient.register", "after"),
    "after the provider's call": Kill("tests.payment.fake_provider:FakeProvider.open_page", "after"),
    "after the page's commit": Kill("services.payment.app.topups:TopUps.create", "after"),
}
WEBHOOK = {
    "before the webhook's commit": Kill("services.payment.app.inbox:Inbox._receive", "after"),
    "after commit, before the answer": Kill("services.payment.app.inbox:Inbox.receive", "after"),
    "between commit and the broker": Kill("shared.outbox:Relay._send"),
    "between the broker's acknowledgement and the mark": Kill("shared.outbox:Relay._mark"),
    "in the middle of the acknowledgement": Kill("services.payment.app.credits:Credits.credit", "after"),
}

BALANCE = {
    "in the middle of posting": Kill("services.balance.app.payments:insert_facts"),
    "posted, before the commit": Kill("services.balance.app.payments:PaymentPoster.apply", "after"),
    "between commit and the broker": Kill("shared.outbox:Relay._send"),
    "between the broker's acknowledgement and the mark": Kill("shared.outbox:Relay._mark"),
}


class PaymentCluster(Cluster):
    launcher = "tests.payment.launch"

    def order(self, key: str) -> dict[str, Any]:
        body = {"region": "vn", "tenant_id": "acme", "amount": "250000", "currency": "VND", "provider": "stripe"}
        headers = {"Idempotency-Key": key}
        answer = httpx.post(f"{self.url('payment')}/v1/top-ups", json=body, headers=headers, timeout=10)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def webhook(self, event_id: str, order_id: str, payment_id: str) -> str:
        body = callback(event_id, order_id, payment_id, PRICE, self.now_us)
        headers = {"Stripe-Signature": SIGNATURE}
        answer = httpx.post(f"{self.url('payment')}/webhooks/stripe", content=body, headers=headers, timeout=10)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["outcome"])

    def restart(self, *faults: Kill) -> None:
        self.stop("payment")
        self.open(*faults)

    def open(self, *faults: Kill) -> None:
        """Start payment and wait for its HTTP only: Kafka takes seconds to miss a killed member of a group."""
        self.start("payment", *faults, wait=False)
        wait_for(self._is_open, timeout_seconds=60, what=lambda: f"payment open\n{self.logs()}")

    def _is_open(self) -> bool:
        assert self._processes["payment"].running, self._processes["payment"].log_tail()
        try:
            return httpx.get(f"{self.url('payment')}/healthz").is_success
        except httpx.TransportError:
            return False


@pytest.fixture
def cluster(request: pytest.FixtureRequest, databases: Databases, kafka_bootstrap: str) -> Iterator[PaymentCluster]:
    prefix = prefix_of(request.node.nodeid)
    with (
        temporary_home() as home,
        PaymentCluster(
            home,
            databases=databases,
            bootstrap=kafka_bootstrap,
            prefix=prefix,
            regions=REGIONS,
            start_us=START_US,
            names=("balance", "payment"),
        ) as made,
    ):
        yield made


def test_payment_is_killed_anywhere(cluster: PaymentCluster) -> None:
    orders = {}
    for number, kill in enumerate(CLICK.values()):
        cluster.restart(kill)
        with suppress(httpx.TransportError):
            cluster.order(f"click-{number}")
            pytest.fail("payment answered although it should have died")
        cluster.wait_killed("payment")
        cluster.open()
        orders[f"pi_c{number}"] = cluster.order(f"click-{number}")["order_id"]
    assert cluster.query("payment", "select count(*), count(page_url) from payment_order") == [(len(CLICK),) * 2]
    for payment_id, order_id in orders.items():
        assert cluster.webhook(f"evt_{payment_id}", order_id, f"stripe:{payment_id}") == "applied"
    for number, kill in enumerate(WEBHOOK.values()):
        order_id = cluster.order(f"webhook-{number}")["order_id"]
        orders[f"pi_w{number}"] = order_id
        cluster.restart(kill)
        with suppress(httpx.TransportError):
            cluster.webhook(f"evt_w{number}", order_id, f"stripe:pi_w{number}")
        cluster.wait_killed("payment")
        cluster.open()
        # The provider sends again what was not answered, and once more for good measure.
        for _ in range(2):
            assert cluster.webhook(f"evt_w{number}", order_id, f"stripe:pi_w{number}") == "applied"
    check_all_credited_once(cluster, len(orders))


def test_balance_is_killed_anywhere(cluster: PaymentCluster) -> None:
    """Payments wait for balance: what it had not committed is posted afterwards, and what it had, only once."""
    orders = [cluster.order(f"balance-{number}")["order_id"] for number in range(len(BALANCE))]
    # What the registrations told must be out, or the relay's points are reached before a payment is.
    wait_for(lambda: not cluster.status("balance")["unpublished"], what="balance has told of its account")
    cluster.stop("balance")
    for number, (order_id, kill) in enumerate(zip(orders, BALANCE.values(), strict=True)):
        assert cluster.webhook(f"evt_b{number}", order_id, f"stripe:pi_b{number}") == "applied"
        cluster.start("balance", kill, wait=False)
        cluster.wait_killed("balance")
    cluster.start("balance")
    check_all_credited_once(cluster, len(orders))


def check_all_credited_once(cluster: PaymentCluster, orders: int) -> None:
    """Provider, orders, events and ledger agree."""

    def credited() -> bool:
        states = dict(cluster.query("payment", "select state, count(*) from payment_order group by 1"))
        return bool(states == {"credited": orders})

    wait_for(credited, timeout_seconds=60, what=lambda: f"every order credited\n{cluster.logs()}")
    assert cluster.balances() == {("vn", "acme"): orders * PRICE.amount_micros}
    entries = cluster.query("balance", "select count(*) from entry where class = 'payment'")
    assert entries == [(orders,)]
    assert cluster.audit() == []
    assert cluster.query("payment", "select count(*) from queue_item") == [(0,)]
    assert not cluster.dead_letters("balance")
    assert not cluster.dead_letters("payment")
