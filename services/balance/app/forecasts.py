"""Forecasts of an account: when it is low, stopped and deleted as things run now, or with something more."""

from dataclasses import dataclass

from services.balance.app.grants import Grants
from services.balance.rules.admission import Need, require_hour
from services.balance.rules.forecast import Bucket, find_below, find_top_up
from services.balance.store.accounts import Account, load_account
from services.balance.store.prices import load_prices
from shared.clock import SECOND_US, Clock
from shared.db import Connection, Pool
from shared.errors import Refusal
from shared.settings import SharedSettings


@dataclass(frozen=True, slots=True)
class Forecast:
    """When an account's next states begin at a burn; None: never, or not known.

    `deleted_at_us`: not before that instant. `top_up_micros`: with which it lasts until the instant asked for.
    """

    burn_micros_per_hour: int
    low_at_us: int | None
    stopped_at_us: int | None
    deleted_at_us: int | None
    top_up_micros: int | None


class Forecasts:
    def __init__(self, pool: Pool, clock: Clock, settings: SharedSettings, grants: Grants) -> None:
        self._pool = pool
        self._clock = clock
        self._settings = settings
        self._grants = grants

    async def load(
        self, region: str, tenant_id: str, more: Need | None, until_us: int | None
    ) -> tuple[Account, Forecast, Forecast | None, int]:
        """The account, its forecast as things run, and with `more`; and the instant of both. Raises Refusal."""
        async with (
            self._pool.acquire(timeout=30) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            account = await load_account(connection, region, tenant_id)
            if account is None:
                raise Refusal("account-not-found", f"there is no account {region}/{tenant_id}", status=404)
            now_us = self._clock.now_us()
            if until_us is not None and until_us <= now_us:
                raise Refusal("in-the-past", "`until` is an instant to come", status=422)
            buckets = await self._load_buckets(connection, account)
            burn_micros = account.standing.burn_micros_per_hour
            present = self._forecast(account, buckets, burn_micros, now_us, until_us)
            with_more = None
            if more is not None:
                prices = await load_prices(connection, region, more.quantities())
                burn_micros += require_hour(more, prices, now_us)
                with_more = self._forecast(account, buckets, burn_micros, now_us, until_us)
        return account, present, with_more, now_us

    async def _load_buckets(self, connection: Connection, account: Account) -> list[Bucket]:
        """What can be spent, in the order in which it is burnt: grants by priority and end, then all other credit."""
        found = [item for item in await self._grants.load_in(connection, account.account_id) if item.remaining_micros]
        found.sort(key=lambda item: (item.grant.priority, item.grant.expires_at_us))
        bought_micros = account.standing.spendable_micros - sum(item.remaining_micros for item in found)
        # What has ended pays for nothing that is still to come, though it may not be expired yet.
        grants = [Bucket(item.remaining_micros, item.grant.expires_at_us) for item in found if item.state == "active"]
        return [*grants, Bucket(bought_micros)]

    def _forecast(
        self, account: Account, buckets: list[Bucket], burn_micros: int, now_us: int, until_us: int | None
    ) -> Forecast:
        stopped_at_us = find_below(buckets, burn_micros, now_us, 0)
        grace_us = self._settings.regions[account.region].grace_seconds * SECOND_US
        # Storage takes the balance below zero after the stop: not before it.
        negative_us = account.standing.negative_since_us or stopped_at_us
        return Forecast(
            burn_micros,
            find_below(buckets, burn_micros, now_us, burn_micros - 1) if burn_micros > 0 else stopped_at_us,
            stopped_at_us,
            None if negative_us is None else negative_us + grace_us,
            None if until_us is None else find_top_up(buckets, burn_micros, now_us, until_us),
        )
