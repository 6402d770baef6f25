"""Facts about payments that are not known yet, kept until the payment is captured."""

import orjson

from services.payment.rules.facts import DisputeClosed, Disputed, Money, PaymentFact, Refunded, RefundFailed
from shared.db import Connection
from shared.ids import fact_id

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


async def take_early_facts(connection: Connection, payment_id: str) -> list[tuple[PaymentFact, str]]:
    """Remove and answer the facts that waited for a payment, each with its cause, in the order of arrival."""
    rows = await connection.fetch(
        "delete from early_fact where payment_id = $1 returning fact_number, fact, cause", payment_id
    )
    return [(_read(row["fact"]), row["cause"]) for row in sorted(rows, key=lambda row: int(row["fact_number"]))]


def _read(text: str) -> PaymentFact:
    body = orjson.loads(text)
    fields = body["fact"]
    return _KINDS[body["kind"]](**{**fields, "money": Money(**fields["money"])})


async def delete_old_facts(connection: Connection, before_us: int) -> int:
    """Forget facts whose payment never came: those of somebody else's payments. Answer how many."""
    status = await connection.execute("delete from early_fact where received_at < $1", before_us)
    return int(status.rpartition(" ")[2])


async def count_early_facts(connection: Connection) -> int:
    return int(await connection.fetchval("select count(*) from early_fact"))
