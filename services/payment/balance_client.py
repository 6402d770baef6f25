"""The only place that talks to balance: orders are registered there before anything is attempted."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from services.payment.store.orders import StoredOrder
from shared.clock import format_instant, parse_instant
from shared.errors import Refusal, TransientFault
from shared.http_client import open_http_client

TIMEOUT_SECONDS = 5


class OrderFault(TransientFault):
    """Balance is there and failed over this one order: it is tried again, and no other waits for it."""


@dataclass(frozen=True, slots=True)
class PostedPayment:
    """What the ledger has of a payment: its credit less what was reversed, and when it was credited."""

    net_micros: int
    credited_at_us: int


@dataclass(frozen=True, slots=True)
class PendingOrder:
    """An order that balance has as pending."""

    order_id: str
    region: str
    tenant_id: str
    provider: str
    credit_micros: int
    registered_at_us: int
    attempted: bool


class BalanceClient:
    """`client` has balance's address as its base."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def register(self, order: StoredOrder) -> None:
        """Register an order, or that it was attempted; repeating changes nothing.

        Raises TransientFault without a clear answer, Refusal when balance refuses: no registration, no attempt.
        """
        parts = [quote(part, safe="") for part in (order.region, order.tenant_id, order.order_id)]
        body = {
            "provider": order.provider,
            "credit_micros": order.credit_micros,
            "expires_at": format_instant(order.expires_at),
            "attempted": order.attempted,
        }
        try:
            answer = await self._client.put("/v1/accounts/{}/{}/orders/{}".format(*parts), json=body)
        except httpx.HTTPError as error:
            raise TransientFault(f"balance is out of reach: {error!r}") from error
        if answer.is_success:
            return
        if answer.is_client_error:
            raise Refusal("registration-refused", f"balance does not take the order: {_detail(answer)}")
        if answer.status_code == httpx.codes.INTERNAL_SERVER_ERROR:
            raise OrderFault("balance can't register this order: it answered 500")
        raise TransientFault(f"balance answered {answer.status_code} to a registration")

    async def list_pending_orders(self) -> AsyncIterator[list[PendingOrder]]:
        """Pages of every order that is pending. Raises TransientFault, also half-way."""
        after = ""
        while True:
            found = await self._ask(f"/v1/pending-orders{after}")
            if found is None:
                raise TransientFault("balance does not list its pending orders")
            yield [
                PendingOrder(
                    item["order_id"],
                    item["region"],
                    item["tenant_id"],
                    item["provider"],
                    item["credit_micros"],
                    parse_instant(item["registered_at"]),
                    item["attempted"],
                )
                for item in found["orders"]
            ]
            if found["next"] is None:
                return
            after = f"?after={quote(found['next'], safe='')}"

    async def find_balance(self, region: str, tenant_id: str) -> int | None:
        """An account's balance in micros; None where there is no account.

        Raises TransientFault, also where the ledger was set back and may lack credits until an operator confirms it,
        and while balance works out what a grant pays of it.
        """
        parts = [quote(part, safe="") for part in (region, tenant_id)]
        found = await self._ask("/v1/accounts/{}/{}".format(*parts))
        if found is not None and found.get("unconfirmed_restore") is not None:
            raise TransientFault("balance's ledger was set back, and no operator has confirmed it")
        if found is not None and found.get("working_out"):
            raise TransientFault("balance is working out what a grant pays")
        return None if found is None else int(found["balance_micros"])

    async def find_payment(self, region: str, tenant_id: str, payment_id: str) -> PostedPayment | None:
        """What balance posted for a payment; None before it is credited. Raises TransientFault."""
        parts = [quote(part, safe="") for part in (region, tenant_id, payment_id)]
        found = await self._ask("/v1/accounts/{}/{}/payments/{}".format(*parts))
        if found is None:
            return None
        credited = next(fact for fact in found["facts"] if fact["fact_id"].startswith("captured/"))
        return PostedPayment(found["net_micros"], parse_instant(credited["posted_at"]))

    async def _ask(self, path: str) -> dict[str, Any] | None:
        """An answer; None for 404. Raises TransientFault without a clear one."""
        try:
            answer = await self._client.get(path)
        except httpx.HTTPError as error:
            raise TransientFault(f"balance is out of reach: {error!r}") from error
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        if not answer.is_success:
            raise TransientFault(f"balance answered {answer.status_code} to a question")
        return dict(answer.json())


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])[:500]
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}"


def open_client(url: str) -> httpx.AsyncClient:
    return open_http_client(TIMEOUT_SECONDS, url)
