"""Facts about payments that are not known yet, kept until the payment is captured."""

from dataclasses import dataclass
from typing import Final

import orjson

from services.payment.providers import ProviderName, provider_of
from services.payment.rules.facts import DisputeClosed, Disputed, Money, PaymentFact, Refunded, RefundFailed
from shared.db import Connection
from shared.ids import fact_id

# What a fact that could not be applied is called where it is set aside (shared.set_aside).
EARLY_KIND: Final = "early"
_KINDS: dict[str, type[PaymentFact]] = {
    kind.__name__: kind for kind in (Refunded, RefundFailed, Disputed, DisputeClosed)
}


async def insert_early_fact(connection: Connection, fact: PaymentFact, cause: str, now_us: int) -> None:
    """Keep a fact; the same one is kept once. The caller holds the payment's id."""
    body = orjson.dumps({"kind": type(fact).__name__, "fact": fact}, option=orjson.OPT_SORT_KEYS)
    await connection.execute(
        """
        insert into early_fact (fact_id, payment_id, fact, cause, received_at) values ($1, $2, $3, $4, $5)
        on conflict do nothing
        """,
        fact_id("early", body.decode()),
        fact.payment_id,
        body.decode(),
        cause,
        now_us,
    )


@dataclass(frozen=True, slots=True)
class EarlyFact:
    """A fact that waits for its payment, as it was kept, and why it was told."""

    fact_id: str
    body: str
    cause: str
    provider: ProviderName

    def read(self) -> PaymentFact:
        """Raises whatever reading a row makes of it that this version does not understand."""
        return _read(self.body)


async def load_early_facts(connection: Connection, payment_id: str) -> list[EarlyFact]:
    """The facts that wait for a payment, in the order of arrival."""
    rows = await connection.fetch(
        "select fact_id, fact, cause from early_fact where payment_id = $1 order by fact_number", payment_id
    )
    provider = provider_of(payment_id)
    return [EarlyFact(row["fact_id"], row["fact"], row["cause"], provider) for row in rows]


async def delete_early_fact(connection: Connection, fact_id: str) -> None:
    await connection.execute("delete from early_fact where fact_id = $1", fact_id)


async def load_late_payments(connection: Connection, now_us: int, limit: int) -> list[str]:
    """Payments that are known and for which facts still wait, as they could not be applied; without paused ones."""
    rows = await connection.fetch(
        """
        select distinct f.payment_id from early_fact f join payment p using (payment_id)
        where f.fact_id not in (select item from set_aside s where kind = $1 and still_held(s, $2))
        order by f.payment_id limit $3
        """,
        EARLY_KIND,
        now_us,
        limit,
    )
    return [row["payment_id"] for row in rows]


def _read(text: str) -> PaymentFact:
    body = orjson.loads(text)
    fields = body["fact"]
    return _KINDS[body["kind"]](**{**fields, "money": Money(**fields["money"])})


async def delete_old_facts(connection: Connection, before_us: int) -> int:
    """Forget facts whose payment never came: those of somebody else's payments. Answer how many."""
    status = await connection.execute(
        """
        delete from early_fact where received_at < $1
          and not exists (select from payment p where p.payment_id = early_fact.payment_id)
        """,
        before_us,
    )
    return int(status.rpartition(" ")[2])


async def count_early_facts(connection: Connection) -> int:
    return int(await connection.fetchval("select count(*) from early_fact"))
