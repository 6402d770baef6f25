"""Random lives of orders, with everything that goes wrong, on real Kafka and PostgreSQL: at the end all agree.

A story is drawn and played on services as processes: clicks, callbacks that are lost, doubled, disordered and repeated,
return pages, refunds, disputes, reconciliation, and kill -9 of payment and balance in the middle of it. The providers'
own truth then says what each tenant's balance must be.
"""

import os
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from shared.clock import MINUTE_US, SECOND_US
from tests.standins.town import Town
from tests.system.waiting import wait_for

pytestmark = [pytest.mark.process, pytest.mark.timeout(400)]

Provider = Literal["stripe", "vnpay"]
ORDERS = 3
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("pay", "pay", "pay", "decline", "later", "other amount"),
                *("lose", "double", "hold", "release", "repeat", "return page", "click again"),
                *("refund part", "refund all", "refund elsewhere", "fail refund"),
                *("dispute", "withdraw", "win", "lose dispute"),
                *("reconcile", "time", "kill payment", "kill balance"),
            ]
        ),
        st.integers(0, ORDERS - 1),
    ),
    min_size=6,
    max_size=16,
)
STORIES = st.tuples(st.lists(st.sampled_from(["stripe", "vnpay"]), min_size=ORDERS, max_size=ORDERS), STEPS)
PAID = 100_000
# Each takes seconds; more of them are worth an hour now and then.
EXAMPLES = int(os.environ.get("TOLLKEEPER_TEST_STORIES", "6"))


@dataclass
class Life:
    """One order of a story, with a tenant of its own."""

    town: Town
    tenant: str
    order: dict[str, Any]
    provider: Provider
    refunds: int = 0
    disputes: list[str] = field(default_factory=list)

    @property
    def truth(self) -> dict[str, Any] | None:
        """The provider's own word on the payment of this order."""
        for item in self.town.truth(self.provider):
            named = item.get("order_id") or item.get("reference")
            if named in (self.order["order_id"], self.order["order_id"].replace("-", "")):
                return item
        return None

    def expected(self) -> int:
        """What the tenant's balance must be in the end, in dong, by the provider's truth alone."""
        truth = self.truth
        if truth is None:
            return 0
        units = 1 if self.provider == "stripe" else 100
        if truth["amount"] // units != PAID:
            return 0
        gone = sum(item["amount"] for item in truth["refunds"] if item["status"] not in ("failed", "canceled", "09"))
        gone += sum(item["amount"] for item in truth.get("disputes", ()) if item["withdrawn"])
        return PAID - min(PAID, int(gone) // units)


class Story:
    """Plays steps; one that makes no sense now does nothing, as with people."""

    def __init__(self, town: Town, number: int, providers: list[Provider]) -> None:
        self._town = town
        self.lives = []
        for index, provider in enumerate(providers):
            tenant = f"story-{number}-{index}"
            order = town.order(tenant, provider=provider, key=f"{tenant}-click")
            self.lives.append(Life(town, tenant, order, provider))

    def play(self, kind: str, life: Life) -> None:
        getattr(self, "_" + kind.replace(" ", "_"))(life)

    def _submit(self, life: Life, action: str) -> None:
        """As `Town.pay`, also where the page is closed already."""
        if life.provider == "stripe":
            data = {"action": action, "email": "an@example.com"}
            self._town.http.post(life.order["page_url"], data=data)
            return
        code = {"pay": "00", "decline": "24", "pay-later": "00"}[action]
        self._town.http.get(life.order["page_url"])
        reference = life.order["order_id"].replace("-", "")
        self._town.http.post(f"{self._town.standin('vnpay')}/paymentv2/pay/{reference}", data={"code": code})

    def _pay(self, life: Life) -> None:
        self._submit(life, "pay")

    def _decline(self, life: Life) -> None:
        self._submit(life, "decline")

    def _later(self, life: Life) -> None:
        self._submit(life, "pay-later")

    def _other_amount(self, life: Life) -> None:
        if life.truth is None:
            amount = 90_000 if life.provider == "stripe" else 9_000_000
            self._town.control(life.provider, "/capture", amount=amount)
            self._submit(life, "pay")
            if life.provider == "stripe":
                self._town.control("stripe", "/capture")

    def _lose(self, life: Life) -> None:
        self._town.control(life.provider, "/callbacks/lose", times=3)

    def _double(self, life: Life) -> None:
        self._town.control(life.provider, "/callbacks/duplicate", times=2, copies=3)
        if life.provider == "stripe":
            self._town.control("stripe", "/events/double", times=2)

    def _hold(self, life: Life) -> None:
        self._town.control(life.provider, "/callbacks/hold")

    def _release(self, life: Life) -> None:
        self._town.control(life.provider, "/callbacks/release", reverse=True)

    def _repeat(self, life: Life) -> None:
        callbacks = self._town.http.get(f"{self._town.standin(life.provider)}/_control/callbacks").json()["callbacks"]
        for callback in callbacks[-3:]:
            self._town.control(life.provider, f"/callbacks/{callback['id']}/repeat")

    def _return_page(self, life: Life) -> None:
        self._town.http.get(life.order["order_url"])

    def _click_again(self, life: Life) -> None:
        again = self._town.order(life.tenant, provider=life.provider, key=f"{life.tenant}-click")
        assert again["order_id"] == life.order["order_id"]

    def _refund(self, life: Life, **fields: Any) -> None:
        history = self._town.history(life.tenant)[0]["payments"]
        if history:
            life.refunds += 1
            self._town.refund(history[0]["payment_id"], f"{life.tenant}-{life.refunds}", **fields)

    def _refund_part(self, life: Life) -> None:
        self._refund(life, amount_micros=30_000_000_000)

    def _refund_all(self, life: Life) -> None:
        self._refund(life, full=True)

    def _bank(self, path: str, **body: Any) -> dict[str, Any] | None:
        """A control request that the stand-in may find senseless."""
        answer = self._town.http.post(f"{self._town.standin('stripe')}/_control{path}", json=body)
        return dict(answer.json()) if answer.is_success else None

    def _refund_elsewhere(self, life: Life) -> None:
        if life.provider == "stripe" and (truth := life.truth) is not None:
            self._bank("/refunds", payment_intent=truth["payment_intent"], amount=20_000)

    def _fail_refund(self, life: Life) -> None:
        if life.provider == "stripe" and (truth := life.truth) is not None and truth["refunds"]:
            self._bank(f"/refunds/{truth['refunds'][0]['id']}/fail")

    def _dispute(self, life: Life) -> None:
        if life.provider == "stripe" and (truth := life.truth) is not None:
            dispute = self._bank("/disputes", payment_intent=truth["payment_intent"], amount=60_000, withdrawn=False)
            life.disputes += [dispute["id"]] if dispute else []

    def _withdraw(self, life: Life) -> None:
        if (truth := life.truth) is not None:
            for dispute in truth.get("disputes", ()):
                if dispute["status"] == "warning_needs_response":
                    self._bank(f"/disputes/{dispute['id']}/withdraw")

    def _close(self, life: Life, status: str) -> None:
        if (truth := life.truth) is not None:
            for dispute in truth.get("disputes", ()):
                self._bank(f"/disputes/{dispute['id']}/close", status=status)

    def _win(self, life: Life) -> None:
        self._close(life, "won")

    def _lose_dispute(self, life: Life) -> None:
        self._close(life, "lost")

    def _reconcile(self, _life: Life) -> None:
        self._town.reconcile()

    def _time(self, _life: Life) -> None:
        self._town.move_clock(2 * MINUTE_US)

    def _kill_payment(self, _life: Life) -> None:
        self._town.cluster.kill("payment")
        self._town.cluster.start("payment")

    def _kill_balance(self, _life: Life) -> None:
        self._town.cluster.kill("balance")
        self._town.cluster.start("balance")

    def end(self) -> None:
        """Bad luck ends, banks decide, what is out is delivered, and providers are asked about everything."""
        for provider in ("stripe", "vnpay"):
            self._town.control(provider, "/callbacks/lose", times=0)
            self._town.control(provider, "/callbacks/duplicate", times=0)
            self._town.control(provider, "/callbacks/release", reverse=True)
        self._town.control("stripe", "/capture")
        self._town.move_clock(30 * SECOND_US)
        wait_for(self._nothing_is_under_way, what="banks have decided")
        wait_for(self._is_agreed, timeout_seconds=60, what=self._tell)

    def _nothing_is_under_way(self) -> bool:
        if self._town.processing():
            return False
        truths = [life.truth for life in self.lives if life.provider == "stripe"]
        return all(item["status"] != "pending" for truth in truths if truth for item in truth["refunds"])

    def _is_agreed(self) -> bool:
        try:
            differences = self._town.reconcile()
        except httpx.TransportError:
            return False
        # Payment hears of a credit after balance has posted it; what was paid and given back moves no balance.
        return not differences and all(
            self._town.balance(life.tenant) == life.expected()
            and self._town.state(life.order) != "paid"
            and posted_payments(self._town, life) == captured_payments(self._town, life)
            for life in self.lives
        )

    def _tell(self) -> str:
        told = [
            f"{life.tenant} {life.provider} {self._town.state(life.order)}: {self._town.balance(life.tenant)},"
            f" expected {life.expected()}, truth {life.truth}, history {self._town.history(life.tenant)}"
            for life in self.lives
        ]
        return "agreement:\n" + "\n".join(told) + f"\n{self._town.reconcile()}\n{self._town.cluster.logs()}"


NUMBER = iter(range(10_000))


@settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.generate])
@given(STORIES)
def test_whatever_happens_provider_orders_ledger_and_events_agree(
    town: Town, story: tuple[list[Provider], list[tuple[str, int]]]
) -> None:
    providers, steps = story
    played = Story(town, next(NUMBER), providers)
    for kind, index in steps:
        played.play(kind, played.lives[index])
    played.end()
    check_books(town, played)


def posted_payments(town: Town, life: Life) -> list[tuple[str, int]]:
    """The ledger's payments of a tenant, with their amounts in micros."""
    return sorted(
        (str(fact_id), int(amount))
        for fact_id, amount in town.cluster.query(
            "balance",
            "select fact_id, amount_micros from entry join account using (account_id)"
            f" where tenant_id = '{life.tenant}' and class = 'payment'",
        )
    )


def captured_payments(town: Town, life: Life) -> list[tuple[str, int]]:
    """The payments that payment says are worth a credit."""
    payments = [item for order in town.history(life.tenant) for item in order["payments"]]
    return sorted(
        (f"captured/{item['payment_id']}", PAID * 1_000_000) for item in payments if item["credit_micros"] is not None
    )


def check_books(town: Town, played: Story) -> None:
    """Each captured payment was credited exactly once, nothing else ever was, and the ledger is in order."""
    assert town.cluster.audit() == []
    for life in played.lives:
        credited = captured_payments(town, life)
        assert posted_payments(town, life) == credited
        state = town.state(life.order)
        truth = life.truth
        if truth is None:
            assert state in ("pending", "failed", "expired"), state
        elif not credited:
            assert state in ("mismatched", "refunded"), state
        else:
            open_disputes = [item for item in truth.get("disputes", ()) if item["status"] not in ("won", "lost")]
            assert (state == "disputed") == bool(open_disputes), (state, truth)
            assert state in ("credited", "refunded", "disputed"), state
