"""Registering the orders that payment is about to let somebody pay: each voids the account's deletion permits."""

from dataclasses import dataclass

from services.balance.app.accounts import Accounts
from services.balance.rules.permits import keeps_back
from services.balance.store.accounts import Account, lock_account
from services.balance.store.orders import Order, count_registration, insert_order, load_order, mark_attempted
from services.balance.store.permits import load_last_due
from shared.clock import SECOND_US, Clock
from shared.db import Connection, Pool, transaction
from shared.errors import Refusal
from shared.settings import SharedSettings


@dataclass(frozen=True, slots=True)
class Registration:
    """`attempted`: the customer tried at the provider, so that money may be under way; it never becomes false again."""

    order_id: str
    provider: str
    credit_micros: int
    expires_at_us: int
    attempted: bool


class Orders:
    """Use cases on pending orders."""

    def __init__(self, pool: Pool, clock: Clock, settings: SharedSettings, accounts: Accounts) -> None:
        self._pool = pool
        self._clock = clock
        self._settings = settings
        self._accounts = accounts

    async def register(self, region: str, tenant_id: str, asked: Registration) -> tuple[Order, bool]:
        """Register an order, or answer the one that is there, and whether it is new. Raises Refusal.

        The account is opened if it is not there. What is known of a registered order never changes, but for
        `attempted`.
        """
        await self._accounts.open(region, tenant_id)
        async with transaction(self._pool) as connection:
            account = await lock_account(connection, region, tenant_id)
            assert account is not None, "it was opened, and accounts are never deleted"
            known = await load_order(connection, asked.order_id)
            if known is None:
                return await self._insert(connection, account, asked), True
            if (known.account_id, known.provider, known.credit_micros) != (
                account.account_id,
                asked.provider,
                asked.credit_micros,
            ):
                raise Refusal("order-differs", f"order {asked.order_id} was registered with other contents")
            # An attempt may bring money, whenever it is: it always voids permits.
            if asked.attempted and not known.attempted:
                await mark_attempted(connection, asked.order_id)
                await count_registration(connection, account.account_id)
        return known, False

    async def _insert(self, connection: Connection, account: Account, asked: Registration) -> Order:
        order = Order(
            asked.order_id,
            account.account_id,
            asked.provider,
            asked.credit_micros,
            self._clock.now_us(),
            asked.expires_at_us,
            asked.attempted,
            None,
        )
        await insert_order(connection, order)
        since_us = account.standing.negative_since_us
        due_us = None if since_us is None else await load_last_due(connection, account.account_id, since_us)
        if keeps_back(
            attempted=asked.attempted,
            negative_since_us=since_us,
            permit_due_us=due_us,
            grace_us=self._settings.regions[account.region].grace_seconds * SECOND_US,
            now_us=order.registered_at_us,
        ):
            await count_registration(connection, account.account_id)
        return order
