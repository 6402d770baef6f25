"""What may still become a credit of an account: read before anything of it is deleted."""

from dataclasses import dataclass
from typing import Literal

from shared.db import Connection

OpenKind = Literal["order", "payment", "queue"]


@dataclass(frozen=True, slots=True)
class OpenPayment:
    """An order without an outcome, a captured payment that balance has not acknowledged, or an item of the queue.

    `attempted`: money may have moved at the provider. `state`: the order's, `uncredited`, or the item's kind.
    """

    kind: OpenKind
    item_id: str
    state: str
    attempted: bool
    since_us: int


async def load_open_payments(connection: Connection, region: str, tenant_id: str, limit: int) -> list[OpenPayment]:
    """Everything of an account that the provider has not finally refused and balance has not acknowledged.

    Money in the queue that matches no order belongs to nobody yet; it counts for every account with the payer's e-mail,
    and for the one whose order it names, where a restore lost that.
    """
    rows = await connection.fetch(
        """
        select 'order' as kind, order_id as item_id, state, attempted or state = 'mismatched', created_at as since
        from payment_order where (region, tenant_id) = ($1, $2) and state in ('pending', 'mismatched')
        union all
        select 'payment', p.payment_id, 'uncredited', true, p.captured_at
        from payment p left join payment_order o using (order_id)
        where p.credit_micros is not null and p.credited_at is null
          and (coalesce(p.region, o.region), coalesce(p.tenant_id, o.tenant_id)) = ($1, $2)
        union all
        select 'queue', q.item_id, q.kind, true, q.opened_at
        from queue_item q left join payment p using (payment_id)
          left join payment_order o on o.order_id = coalesce(q.order_id, p.order_id)
        where q.settled_at is null and (
          (coalesce(p.region, o.region), coalesce(p.tenant_id, o.tenant_id)) = ($1, $2)
          or p.region is null and o.order_id is null and (
            lower(p.payer_email) in (
              select lower(email) from payment_order where (region, tenant_id) = ($1, $2) and email <> '')
            or exists (select from restore_lost l
              where (l.kind, l.region, l.tenant_id) = ('order', $1, $2)
                and position(l.item in q.subject || ' ' || q.detail) > 0)))
        order by since, kind, item_id limit $3
        """,
        region,
        tenant_id,
        limit,
    )
    return [OpenPayment(*row) for row in rows]
