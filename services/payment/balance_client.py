"""The only place that talks to balance: orders are registered there before anything is attempted."""

from urllib.parse import quote

import httpx

from services.payment.store.orders import StoredOrder
from shared.clock import format_instant
from shared.errors import Refusal, TransientFault

TIMEOUT_SECONDS = 5


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
        raise TransientFault(f"balance answered {answer.status_code} to a registration")


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])[:500]
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}"


def open_client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=TIMEOUT_SECONDS)
