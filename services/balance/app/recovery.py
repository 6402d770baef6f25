"""What balance does about a database that was set back (docs/adr/0013).

Charges and payments are on their topics, and their offsets were set back with the ledger: they are posted again. What
came over HTTP is lost: adjustments, grants, vouchers, registrations. What was told of each account since the backup is
kept for an operator, and every account concerned is told as it stands.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from services.balance.events import account_message
from services.balance.rules.crossing import Told
from services.balance.store.accounts import (
    Account,
    Opening,
    insert_accounts,
    load_account_ids,
    load_accounts_of,
    save_standings,
)
from services.balance.store.restores import (
    add_restated,
    delete_restated,
    load_known_adjustments,
    load_payment_credits,
    load_restated,
    lost_credit,
    raise_versions,
)
from shared.clock import Clock, parse_instant
from shared.consumer import OffsetConsumer
from shared.db import Connection, Pool, ensure_partitions
from shared.events.account import is_account_event
from shared.ids import shard_of
from shared.log import get_logger
from shared.outbox import Message, append_messages
from shared.own_records import read_own_events
from shared.restore_records import Lost, Restore, insert_lost
from shared.restores import Offsets, Recovery, consume_to_end
from shared.settings import SharedSettings
from shared.topic_reader import TopicReader
from shared.topics import ACCOUNT_EVENTS, CHARGES, PAYMENT_EVENTS, PRICE_BOOKS

logger = get_logger(__name__)

BATCH = 1000
# Credits that came over HTTP; all others are facts on a topic.
LOST_CREDITS = ("adjustment", "voucher", "promotion")
Key = tuple[str, str]


@dataclass(slots=True)
class _Told:
    """What the topic says of accounts: the last event of each, and the credits that nobody sends again."""

    last: dict[Key, dict[str, Any]] = field(default_factory=dict)
    credits: list[Lost] = field(default_factory=list)

    def add(self, event: Mapping[str, Any]) -> None:
        data = {**event["data"], "time": event["time"]}
        key = data["region"], data["tenant_id"]
        if event["type"] == "account.credited" and data.get("credit_kind") in LOST_CREDITS:
            item = lost_credit(*key, data["credit_kind"], data["credit_id"])
            detail = {name: data[name] for name in ("credit_kind", "credit_id", "amount_micros")}
            self.credits.append(Lost("credit", item, *key, parse_instant(data["time"]), detail))
        known = self.last.get(key)
        if known is None or data["account_version"] > known["account_version"]:
            self.last[key] = data

    @property
    def accounts(self) -> list[Lost]:
        names = ("account_version", "state", "balance_micros", "spendable_micros", "negative_since")
        return [
            Lost(
                "account",
                f"{key[0]}/{key[1]}",
                *key,
                parse_instant(data["time"]),
                {name: data[name] for name in names},
            )
            for key, data in self.last.items()
        ]


class BalanceRecovery(Recovery):
    """`consumers` are of charges and payments and tell nobody what they post."""

    def __init__(
        self,
        pool: Pool,
        clock: Clock,
        settings: SharedSettings,
        *,
        reader: TopicReader,
        consumers: Sequence[OffsetConsumer],
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._settings = settings
        self._reader = reader
        self._consumers = tuple(consumers)

    async def adopt(self, connection: Connection, restore: Restore, starts: Offsets) -> None:
        """Raise all versions, and keep what was told since the backup."""
        told = _Told()
        async for event in read_own_events(self._reader, "balance", ACCOUNT_EVENTS, starts[ACCOUNT_EVENTS]):
            if is_account_event(event):
                told.add(event)
        await raise_versions(connection, restore.incarnation)
        keys = [key for key in told.last if key[0] in self._settings.regions]
        await self._open_missing(connection, keys, restore)
        for first in range(0, len(keys), BATCH):
            known = await load_account_ids(connection, keys[first : first + BATCH])
            await add_restated(connection, [account_id for account_id, _ in known.values()])
        await insert_lost(connection, restore.incarnation, [*told.accounts, *told.credits])
        logger.error("restore.lost", accounts=len(told.last), credits=len(told.credits))

    async def _open_missing(self, connection: Connection, keys: Sequence[Key], restore: Restore) -> None:
        """Open again the accounts that were opened since the backup: peers know them and must hear of them."""
        known = await load_account_ids(connection, keys)
        await insert_accounts(
            connection,
            [
                Opening(
                    *key,
                    shard_of(*key, self._settings.shards),
                    self._settings.regions[key[0]].currency,
                    restore.restored_at_us,
                )
                for key in keys
                if key not in known
            ],
        )

    async def catch_up(self, restore: Restore) -> None:  # noqa: ARG002 - the protocol's
        """Post again what is on the topics; what it makes of accounts on the way is told to nobody."""
        await consume_to_end(self._pool, self._reader, self._consumers, (CHARGES, PAYMENT_EVENTS, PRICE_BOOKS))

    async def settle(self, connection: Connection, restore: Restore) -> None:
        """Tell every account concerned as it stands, and payments that were credited meanwhile."""
        now_us = self._clock.now_us()
        await ensure_partitions(connection, "outbox", now_us)
        after_id = 0
        while accounts := await load_restated(connection, after_id, BATCH):
            credits_ = await load_payment_credits(
                connection, [account.account_id for account in accounts], restore.restored_at_us
            )
            standings, messages = [], list[Message]()
            for account in accounts:
                standing = account.standing
                for credit in [*credits_.get(account.account_id, []), None]:
                    standing = replace(standing, account_version=standing.account_version + 1)
                    told = Told("account.credited" if credit else "account.restated", standing, credit)
                    messages.append(_message(account, told, now_us))
                standings.append((account.account_id, standing))
            await save_standings(connection, standings)
            await append_messages(connection, messages, now_us)
            after_id = accounts[-1].account_id
        await delete_restated(connection)


def _message(account: Account, told: Told, now_us: int) -> Message:
    return account_message(account.shard, account.region, account.tenant_id, account.currency, told, now_us)


async def load_present(connection: Connection, lost: Sequence[Lost]) -> list[dict[str, Any] | None]:
    """How accounts stand now, and which lost credits an operator has given again under the same key."""
    if not lost:
        return []
    accounts = await load_accounts_of(connection, sorted({(item.region, item.tenant_id) for item in lost}))
    given = await load_known_adjustments(
        connection, [(item.region, item.tenant_id, str(item.detail.get("credit_id"))) for item in lost]
    )
    found: list[dict[str, Any] | None] = []
    for item in lost:
        account = accounts.get((item.region, item.tenant_id))
        if item.kind == "credit":
            key = item.region, item.tenant_id, str(item.detail["credit_id"])
            found.append({"given_again": key in given})
        elif account is None:
            found.append(None)
        else:
            standing = account.standing
            found.append(
                {
                    "account_version": standing.account_version,
                    "state": standing.state,
                    "balance_micros": standing.balance_micros,
                    "spendable_micros": standing.spendable_micros,
                }
            )
    return found
