"""Payment, balance and both stand-ins as processes on a test clock; customers, operators and banks are played."""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from deploy.local.ports import find_free_port
from deploy.local.processes import ManagedProcess
from tests.support.databases import Databases
from tests.system.cluster import REPOSITORY, Cluster
from tests.system.waiting import wait_for

START_US = 1_767_225_600_000_000
_OPENED = {"opened_at": "2020-01-01T00:00:00Z"}
REGIONS = {"vn": {"currency": "VND", **_OPENED}, "jp": {"currency": "JPY", **_OPENED}}
PROVIDERS = ("stripe", "vnpay")
STRIPE_KEY, STRIPE_SECRET, VNPAY_CODE, VNPAY_SECRET = "sk_test_town", "whsec_town", "TOWNTEST", "TOWNSECRET"


class Town:
    """A context manager: whatever runs at its end is ended. `names` are its services, each with `processes`."""

    def __init__(
        self,
        home: Path,
        databases: Databases,
        bootstrap: str,
        prefix: str,
        *,
        names: Sequence[str] = ("balance", "payment"),
        processes: int = 1,
        regions: Mapping[str, Mapping[str, Any]] = REGIONS,
    ) -> None:
        self._ports = {name: find_free_port() for name in PROVIDERS}
        self.cluster = Cluster(
            home,
            databases=databases,
            bootstrap=bootstrap,
            prefix=prefix,
            regions=regions,
            start_us=START_US,
            names=names,
            processes=processes,
            settings=self._settings(),
        )
        self._home = home
        self._stack = ExitStack()
        self._standins: dict[str, ManagedProcess] = {}
        self._orders = 0
        self.http = httpx.Client(timeout=20, trust_env=False)

    def _settings(self) -> dict[str, str]:
        stripe, vnpay = (f"http://127.0.0.1:{self._ports[name]}" for name in PROVIDERS)
        return {
            "TOLLKEEPER_HOME": "unused",
            "TOLLKEEPER_PAYMENT_STRIPE_SECRET_KEY": STRIPE_KEY,
            "TOLLKEEPER_PAYMENT_STRIPE_WEBHOOK_SECRETS": json.dumps([STRIPE_SECRET]),
            "TOLLKEEPER_PAYMENT_STRIPE_API_BASE": stripe,
            "TOLLKEEPER_PAYMENT_VNPAY_TMN_CODE": VNPAY_CODE,
            "TOLLKEEPER_PAYMENT_VNPAY_HASH_SECRETS": json.dumps([VNPAY_SECRET]),
            "TOLLKEEPER_PAYMENT_VNPAY_PAY_URL": f"{vnpay}/paymentv2/vpcpay.html",
            "TOLLKEEPER_PAYMENT_VNPAY_API_URL": f"{vnpay}/merchant_webapi/api/transaction",
            "TOLLKEEPER_PAYMENT_AUTO_TOP_UP_POLL_SECONDS": "0.2",
            # Longer than the outage that a test makes.
            "TOLLKEEPER_PAYMENT_ORDER_SECONDS": "7200",
        }

    def __enter__(self) -> Self:
        self._stack.enter_context(self.cluster)
        for name in PROVIDERS:
            self.start_standin(name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._standins.values():
            if process.running:
                process.kill()
        self.http.close()
        self._stack.__exit__(kind, error, trace)

    def start_standin(self, name: str) -> None:
        environment = self.cluster.environment() | {
            "TOLLKEEPER_HOME": str(self._home),
            f"TOLLKEEPER_{name.upper()}_STANDIN_PORT": str(self._ports[name]),
            "TOLLKEEPER_PAYMENT_URL": self.cluster.url("payment"),
            "TOLLKEEPER_PAYMENT_PUBLIC_URL": self.cluster.url("payment"),
        }
        process = ManagedProcess(
            f"{name}-standin",
            [sys.executable, "-m", f"deploy.local.providers.{name}", "serve"],
            log=self._home / f"{name}-standin.log",
            environment=environment,
            directory=REPOSITORY,
        )
        self._standins[name] = process
        process.start()
        wait_for(lambda: self._answers(name), what=lambda: f"{name} stand-in\n{process.log_tail()}")

    def kill_standin(self, name: str) -> None:
        self._standins[name].kill()

    def _answers(self, name: str) -> bool:
        try:
            return self.http.get(f"{self.standin(name)}/readyz").is_success
        except httpx.TransportError:
            return False

    # A customer

    def order(
        self, tenant: str, amount: str = "100000", *, provider: str = "stripe", key: str | None = None, **fields: Any
    ) -> dict[str, Any]:
        self._orders += 1
        body = {
            "region": "vn",
            "tenant_id": tenant,
            "amount": amount,
            "currency": "VND",
            "provider": provider,
            **fields,
        }
        headers = {"Idempotency-Key": key or f"key-{self._orders}"}
        answer = self.http.post(f"{self.payment}/v1/top-ups", json=body, headers=headers)
        assert answer.is_success, answer.text
        return dict(answer.json())

    def pay(self, order: dict[str, Any], action: str = "", **fields: str) -> httpx.Response:
        """Submit the provider's page: Stripe's action (pay, pay-later, decline, …) or VNPay's code."""
        url = order["page_url"]
        assert self.http.get(url).is_success
        if order["provider"] == "stripe":
            return self.http.post(url, data={"action": action or "pay", "email": "an@example.com", **fields})
        reference = order["order_id"].replace("-", "")
        return self.http.post(f"{self.standin('vnpay')}/paymentv2/pay/{reference}", data={"code": action or "00"})

    def state(self, order: dict[str, Any]) -> str:
        answer = self.http.get(f"{self.payment}/v1/top-ups/{order['order_id']}")
        return str(answer.json()["state"])

    def wait_state(self, order: dict[str, Any], state: str) -> None:
        wait_for(
            lambda: self.state(order) == state,
            what=lambda: f"{order['order_id']} {state}, it is {self.state(order)}\n{self.cluster.logs()}",
        )

    def balance(self, tenant: str) -> int:
        answer = self.http.get(f"{self.cluster.url('balance')}/v1/accounts/vn/{tenant}")
        return int(answer.json()["balance_micros"]) // 1_000_000 if answer.is_success else 0

    def wait_balance(self, tenant: str, units: int) -> None:
        wait_for(
            lambda: self.balance(tenant) == units,
            what=lambda: f"{tenant} at {units}, it is at {self.balance(tenant)}\n{self.cluster.logs()}",
        )

    def history(self, tenant: str) -> list[dict[str, Any]]:
        answer = self.http.get(f"{self.payment}/v1/accounts/vn/{tenant}/payments")
        return list(answer.json()["payments"])

    def payment_id(self, order: dict[str, Any]) -> str:
        answer = self.http.get(f"{self.payment}/v1/top-ups/{order['order_id']}")
        return str(answer.json()["payment_id"])

    # An operator

    def reconcile(self) -> list[str]:
        answer = self.http.post(f"{self.payment}/v1/reconciliations", json={"days": 30})
        assert answer.is_success, answer.text
        return sorted(item["kind"] for item in answer.json()["differences"])

    def queue(self, tenant_order: dict[str, Any]) -> list[dict[str, Any]]:
        answer = self.http.get(f"{self.payment}/v1/queue")
        return [item for item in answer.json()["items"] if item["order_id"] == tenant_order["order_id"]]

    def refund(self, payment_id: str, key: str, **fields: Any) -> httpx.Response:
        body = {"reason": "asked for", "actor": "kim", **fields}
        url = f"{self.payment}/v1/payments/{payment_id}/refunds"
        return self.http.post(url, json=body, headers={"Idempotency-Key": key})

    # A bank, and bad luck

    def control(self, provider: str, path: str, **body: Any) -> dict[str, Any]:
        answer = self.http.post(f"{self.standin(provider)}/_control{path}", json=body)
        assert answer.is_success, answer.text
        return dict(answer.json())

    def truth(self, provider: str) -> list[dict[str, Any]]:
        return list(self.http.get(f"{self.standin(provider)}/_control/truth").json()["payments"])

    def processing(self) -> list[str]:
        """What a bank of Stripe's has yet to decide."""
        return list(self.http.get(f"{self.standin('stripe')}/_control/truth").json()["processing"])

    def standin(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}"

    @property
    def payment(self) -> str:
        return self.cluster.url("payment")

    def move_clock(self, us: int) -> None:
        self.cluster.set_clock(self.cluster.now_us + us)
