"""Questions to payment: what may still become a credit."""

from urllib.parse import quote

import httpx

from services.enforcement.clients.asking import Answer, Asker
from services.enforcement.rules.account import AccountKey
from services.enforcement.rules.guards import OpenPayment, PaymentsSeen
from shared.events.cloudevents import Instant


class _OpenPayment(Answer):
    kind: str
    id: str
    state: str
    attempted: bool
    asked: bool = False


class _OpenPayments(Answer):
    now: Instant
    open_payments: list[_OpenPayment]


class _PaymentStatus(Answer):
    now: Instant


class PaymentClient:
    """`client` has payment's address as its base."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._asker = Asker("payment", client)

    async def check(self) -> None:
        """Raises OutOfReachError unless payment answers at all."""
        await self._asker.ask(_PaymentStatus, "GET", "/v1/status")

    async def load_open(self, key: AccountKey) -> PaymentsSeen:
        """Raises OutOfReachError."""
        path = f"/v1/accounts/{quote(key.region, safe='')}/{quote(key.tenant_id, safe='')}/open-payments"
        answer = await self._asker.ask(_OpenPayments, "GET", path)
        named = (
            OpenPayment(f"{item.kind} {item.id} ({item.state})", item.attempted, item.asked)
            for item in answer.open_payments
        )
        return PaymentsSeen(answer.now, tuple(named))
