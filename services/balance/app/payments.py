"""Facts of payment become entries: exactly one each, however often they are told."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter

from services.balance import metrics
from services.balance.app.post import Poster
from services.balance.rules.payments import Effect, effect_of
from services.balance.rules.posting import post_facts
from services.balance.store.accounts import Account, Opening, insert_accounts, load_accounts_of
from services.balance.store.chain import Head, lock_heads
from services.balance.store.orders import end_orders
from services.balance.store.payments import PostedFact, hold, insert_facts, load_fact_hashes
from services.balance.store.posting import prefer_plans_by_size
from shared.clock import Clock
from shared.consumer import Poll
from shared.db import Connection
from shared.errors import RecordError
from shared.events.cloudevents import load_envelope
from shared.events.payments import PAYMENT_TYPES, PaymentEvent
from shared.events.reading import is_known_type, read_union
from shared.ids import content_hash, shard_of
from shared.kafka import Record
from shared.log import get_logger
from shared.settings import SharedSettings
from shared.topics import PAYMENT_EVENTS

logger = get_logger(__name__)

_READER: TypeAdapter[PaymentEvent] = TypeAdapter(PaymentEvent)

# What may differ between two tellings of one fact: older versions did not say the amounts that are the customer's.
_NO_CONTENT: Final[dict[str, bool | dict[str, bool]]] = {
    "time": True,
    "datacontenttype": True,
    "data": {"refunded_micros": True, "disputed_micros": True},
}

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Fact:
    record: Record
    event: PaymentEvent
    effect: Effect
    shard: int
    digest: bytes

    @property
    def key(self) -> Key:
        return self.event.data.region, self.event.data.tenant_id


class PaymentPoster:
    """Applies polls of payment events."""

    def __init__(self, clock: Clock, settings: SharedSettings, poster: Poster) -> None:
        self._clock = clock
        self._settings = settings
        self._poster = poster

    async def apply(self, connection: Connection, poll: Poll) -> None:
        """Post a poll's facts, each account's in order; what can't be understood is buried."""
        facts = []
        for record in poll.records:
            try:
                fact = self._read(record)
            except RecordError as error:
                poll.bury(record, error.reason, error.detail)
                continue
            if fact is not None:
                facts.append(fact)
        fresh = await self._drop_known(connection, facts, poll)
        if fresh:
            await self._post(connection, fresh, poll)

    def _read(self, record: Record) -> _Fact | None:
        """A record's fact; None for what concerns no account. Raises RecordError."""
        envelope = load_envelope(record)
        if not is_known_type(envelope, PAYMENT_TYPES, PAYMENT_EVENTS):
            return None
        event = read_union(_READER, envelope)
        data = event.data
        region = self._settings.regions.get(data.region)
        if region is None:
            raise RecordError("unknown region", f"{data.region!r} is no region of this deployment")
        if getattr(data, "currency", region.currency) != region.currency:
            raise RecordError("wrong currency", f"accounts of {data.region} are in {region.currency}")
        effect = effect_of(event)
        if effect is None:
            return None
        shard = shard_of(data.region, data.tenant_id, self._settings.shards)
        # Without what is null: a field that a later version knows must not make a repeat look like another fact.
        content = event.model_dump_json(exclude=_NO_CONTENT, exclude_none=True)
        return _Fact(record, event, effect, shard, content_hash(content.encode()))

    async def _drop_known(self, connection: Connection, facts: Sequence[_Fact], poll: Poll) -> list[_Fact]:
        """The facts that are new. One that is known under its id with other contents is a conflict.

        Chain heads are locked before, so that nobody posts the same fact meanwhile.
        """
        if not facts:
            return []
        await lock_heads(connection, sorted({fact.shard for fact in facts}))
        known = await load_fact_hashes(connection, [fact.event.id for fact in facts])
        posted, fresh = set(known), dict[str, _Fact]()
        for fact in facts:
            digest = known.setdefault(fact.event.id, fact.digest)
            if digest != fact.digest:
                metrics.CONFLICTING_FACTS.inc()
                logger.error("payment.conflict", fact_id=fact.event.id)
                poll.bury(fact.record, "conflict", f"{fact.event.id} was told before with other contents")
            elif fact.event.id not in posted:
                fresh.setdefault(fact.event.id, fact)
        return list(fresh.values())

    async def _post(self, connection: Connection, facts: Sequence[_Fact], poll: Poll) -> None:
        """Post in rounds, of every account one fact a round: so each sees what the one before left."""
        await prefer_plans_by_size(connection)
        rest = list(facts)
        while rest:
            first: dict[Key, _Fact] = {}
            for fact in rest:
                first.setdefault(fact.key, fact)
            await self._post_round(connection, list(first.values()), poll)
            rest = [fact for fact in rest if first[fact.key] is not fact]
        metrics.FACTS.inc(len(facts))

    async def _post_round(self, connection: Connection, facts: Sequence[_Fact], poll: Poll) -> None:
        heads = await lock_heads(connection, sorted({fact.shard for fact in facts}))
        now_us = self._clock.now_us()
        instants = {head.shard: head.posting_time(now_us) for head in heads}
        await self._poster.ensure_days(connection, list(instants.values()), poll.after_commit)
        accounts, opened = await self._require_accounts(connection, facts, instants)
        for fact in facts:
            if fact.effect.hold is not None:
                await hold(connection, accounts[fact.key].account_id, *fact.effect.hold)
        await self._move(connection, facts, heads, instants, accounts, opened)
        await insert_facts(
            connection,
            [
                PostedFact(
                    fact.event.id,
                    accounts[fact.key].account_id,
                    fact.digest,
                    fact.effect.payment_id,
                    fact.effect.moved_micros,
                    None,
                    instants[fact.shard],
                )
                for fact in facts
            ],
        )
        ended = {fact.effect.ended_order: fact.event.id for fact in facts if fact.effect.ended_order is not None}
        if ended:
            await end_orders(connection, ended, now_us)

    async def _move(
        self,
        connection: Connection,
        facts: Sequence[_Fact],
        heads: Sequence[Head],
        instants: dict[int, int],
        accounts: dict[Key, Account],
        opened: Sequence[Account],
    ) -> None:
        """Post the round's entries; accounts that were opened are told even if nothing moves."""
        moving = [fact for fact in facts if fact.effect.moved_micros]
        shards = {fact.shard for fact in moving} | {account.shard for account in opened}
        touched = [head for head in heads if head.shard in shards]
        if not touched:
            return
        places = {head.shard: place for place, head in enumerate(touched)}
        movements = {
            accounts[fact.key].account_id: (
                accounts[fact.key].standing.burn_micros_per_hour,
                [fact.effect.movement],
            )
            for fact in moving
        }
        entries = [
            fact.effect.entry(
                accounts[fact.key].account_id,
                accounts[fact.key].name,
                places[fact.shard],
                fact.event.id,
                accounts[fact.key].standing.burn_micros_per_hour,
            )
            for fact in moving
        ]
        await self._poster.post(
            connection,
            post_facts(entries),
            touched,
            [instants[head.shard] for head in touched],
            lambda account_id: [movements[account_id]],
            opened,
        )

    async def _require_accounts(
        self, connection: Connection, facts: Sequence[_Fact], instants: dict[int, int]
    ) -> tuple[dict[Key, Account], list[Account]]:
        """The accounts of the facts, opened where they are not there; the caller holds their chain heads."""
        keys = sorted({fact.key for fact in facts})
        shards = {fact.key: fact.shard for fact in facts}
        found = await load_accounts_of(connection, keys)
        openings = [
            Opening(*key, shards[key], self._settings.regions[key[0]].currency, instants[shards[key]])
            for key in keys
            if key not in found
        ]
        opened = await insert_accounts(connection, openings) if openings else []
        return found | {(account.region, account.tenant_id): account for account in opened}, opened
