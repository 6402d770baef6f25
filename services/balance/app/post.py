"""Posting: entries, chain links, crossings and events of one transaction, whatever caused them."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date

from services.balance.events import account_message
from services.balance.rules.chain import seal
from services.balance.rules.crossing import Movement, Standing, Told, cross
from services.balance.rules.posting import Posting
from services.balance.store.accounts import Account, save_standings
from services.balance.store.chain import Head, Link, insert_links
from services.balance.store.partitions import ensure_day
from services.balance.store.posting import Place, Touched, post_entries
from services.balance.store.restores import add_restated
from shared.db import Connection, day_of
from shared.outbox import Message, append_messages

# An account's movements in a posting, one group per batch: (burn per hour from then on, entries).
Steps = Sequence[tuple[int, Sequence[Movement]]]
AfterCommit = Callable[[Callable[[], None]], None]


class Poster:
    """Posts under chain heads that the caller holds. Keeps which days' partitions are there, and nothing else."""

    def __init__(self, *, low_cooldown_us: int, tells: bool = True) -> None:
        """With `tells` false it publishes nothing and remembers whose news it was: a restore tells it at its end."""
        self._low_cooldown_us = low_cooldown_us
        self._tells = tells
        self._days: set[date] = set()

    async def ensure_days(self, connection: Connection, instants_us: Sequence[int], after_commit: AfterCommit) -> None:
        """Make the partitions that posting at these instants needs, before anything is inserted."""
        for day in sorted({day_of(instant_us) for instant_us in instants_us} - self._days):
            await ensure_day(connection, day)
            after_commit(lambda day=day: self._days.add(day))  # type: ignore[misc]

    async def post(
        self,
        connection: Connection,
        posting: Posting,
        heads: Sequence[Head],
        posted_at_us: Sequence[int],
        steps: Callable[[int], Steps],
        opened: Sequence[Account],
    ) -> list[Told]:
        """Post at `posted_at_us` (one per head), seal the links and publish what is to be told; answer that.

        `steps` gives an account's movements when they are needed; `opened` are accounts opened in this transaction.
        """
        places = [
            Place(head.shard, instant_us, head.link_number + 1)
            for head, instant_us in zip(heads, posted_at_us, strict=True)
        ]
        await insert_links(connection, _links(posting, heads, places))
        touched = await post_entries(connection, posting, places)
        instants = {place.shard: place.posted_at_us for place in places}
        return await self._tell(connection, touched, instants, steps, opened)

    async def _tell(
        self,
        connection: Connection,
        touched: Sequence[Touched],
        instants: Mapping[int, int],
        steps: Callable[[int], Steps],
        opened: Sequence[Account],
    ) -> list[Told]:
        messages = [opening_message(account) for account in opened]
        standings: list[tuple[int, Standing]] = []
        told: list[Told] = []
        moved = [account.account_id for account in opened]
        for item in sorted(touched, key=lambda item: item.account_id):
            standing, events = item.before, list[Told]()
            for burn_micros, movements in steps(item.account_id):
                standing, more = cross(
                    standing, movements, burn_micros, instants[item.shard], low_cooldown_us=self._low_cooldown_us
                )
                events += more
            standings.append((item.account_id, standing))
            messages += [
                account_message(item.shard, item.region, item.tenant_id, item.currency, event, instants[item.shard])
                for event in events
            ]
            told += events
            moved += [item.account_id] if events else []
        if standings:
            await save_standings(connection, standings)
        if not self._tells:
            await add_restated(connection, moved)
        elif messages:
            await append_messages(connection, messages, max(instants.values()))
        return told


def opening_message(account: Account) -> Message:
    told = Told("account.opened", account.standing)
    return account_message(
        account.shard, account.region, account.tenant_id, account.currency, told, account.opened_at_us
    )


def _links(posting: Posting, heads: Sequence[Head], places: Sequence[Place]) -> list[Link]:
    links = []
    for head, place, lines in zip(heads, places, posting.chain_lines(len(heads)), strict=True):
        link = seal(head.link, head.shard, place.link_number, place.posted_at_us, lines)
        links.append(Link(head.shard, place.link_number, head.link, link, len(lines), place.posted_at_us))
    return links
