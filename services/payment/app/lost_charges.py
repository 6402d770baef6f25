"""Charges of saved cards that a restore lost are made again: their orders are named by a number, and nothing else.

Caps, the hour between two charges, and what is asked about count attempts: without its row a charge would be forgotten.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.payment.app.topups import TopUpRequest, automatic_request
from services.payment.rules.auto_top_up import Attempt, AttemptState
from services.payment.rules.conversion import RATE_ONE_E12
from services.payment.rules.facts import Money, SavedCard
from services.payment.store.auto_top_ups import (
    ATTEMPTS_PER_INCARNATION,
    StoredAttempt,
    insert_attempt,
    load_agreement,
    load_last_attempt_number,
)
from services.payment.store.orders import NewOrder, insert_order, mark_attempted
from services.payment.store.restores import load_incarnation
from shared.db import Connection
from shared.ids import shard_of

Account = tuple[str, str]
# Numbers follow one another; one is missing where nothing was told of its attempt.
_MISSING_MAX: Final = 20
# Of a charge whose agreement was lost nobody knows the card; it is not charged again.
_NO_CARD: Final = SavedCard("", "")
# An order's id does not hang on its amount.
_ANY_MONEY: Final = Money(1, "VND")


@dataclass(frozen=True, slots=True)
class LostCharge:
    """A charge as far as it is known: `money` in the account's currency, `at_us` when it was heard of."""

    region: str
    tenant_id: str
    number: int
    money: Money
    at_us: int

    @property
    def request(self) -> TopUpRequest:
        """The order's request, as the loop over agreements made it."""
        return automatic_request(self.region, self.tenant_id, self.number, self.money)


async def number_charges(connection: Connection, orders: Mapping[Account, Iterable[str]]) -> dict[str, int]:
    """Which of some accounts' orders that are not known are charges of their saved cards, and of which number."""
    # Also those of which the backup knows nothing.
    incarnations = range(1, await load_incarnation(connection) + 1)
    numbers: dict[str, int] = {}
    for account, order_ids in orders.items():
        last = await load_last_attempt_number(connection, *account)
        starts = {last, *(first for item in incarnations if (first := item * ATTEMPTS_PER_INCARNATION) > last)}
        for start in sorted(starts):
            numbers |= _walk(account, frozenset(order_ids), start)
    return numbers


def _walk(account: Account, order_ids: frozenset[str], after: int) -> dict[str, int]:
    found: dict[str, int] = {}
    number = last = after
    while number - last < _MISSING_MAX:
        number += 1
        order_id = automatic_request(*account, number, _ANY_MONEY).order_id
        if order_id in order_ids:
            found[order_id] = last = number
    return found


async def make_again(
    connection: Connection, charges: Sequence[LostCharge], state: AttemptState, shards: int
) -> list[str]:
    """Keep orders and attempts of lost charges; answer the orders. One that may be charged still needs its card."""
    made: list[str] = []
    for charge in charges:
        agreement = await load_agreement(connection, charge.region, charge.tenant_id)
        if agreement is None and state == "open":
            continue
        order_id = charge.request.order_id
        if not await insert_order(connection, _order_of(charge, shards)):
            continue
        await mark_attempted(connection, order_id)
        attempt = StoredAttempt(
            order_id,
            charge.region,
            charge.tenant_id,
            charge.number,
            Attempt(charge.at_us, charge.money.amount_micros, state),
            0 if agreement is None else agreement.number,
            _NO_CARD if agreement is None else agreement.card,
        )
        await insert_attempt(connection, attempt)
        made.append(order_id)
    return made


def _order_of(charge: LostCharge, shards: int) -> NewOrder:
    request, money = charge.request, charge.money
    return NewOrder(
        order_id=request.order_id,
        region=charge.region,
        tenant_id=charge.tenant_id,
        shard=shard_of(charge.region, charge.tenant_id, shards),
        idempotency_key=request.idempotency_key,
        request_hash=request.request_hash,
        provider="stripe",
        amount_micros=money.amount_micros,
        currency=money.currency,
        account_currency=money.currency,
        credit_micros=money.amount_micros,
        rate_e12=RATE_ONE_E12,
        rate_date=None,
        quote_id=None,
        email="",
        payer_name="",
        payer_ip="",
        locale="",
        bank_code="",
        save_card=False,
        created_at=charge.at_us,
        expires_at=charge.at_us,
    )
