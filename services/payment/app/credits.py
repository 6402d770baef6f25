"""Kafka in: balance says that a payment was credited, and its order is credited."""

from collections.abc import Mapping
from typing import Literal, get_args

from services.payment.metrics import UNKNOWN_CREDITS
from services.payment.store.payments import lock_payment_ids, mark_credited
from shared.clock import Clock
from shared.consumer import Poll
from shared.db import Connection
from shared.errors import RecordError
from shared.events.account import AccountEventType
from shared.events.cloudevents import Identifier, Instant, load_envelope
from shared.events.reading import Read, is_known_type, read_as
from shared.kafka import Record
from shared.log import get_logger
from shared.topics import ACCOUNT_EVENTS

logger = get_logger(__name__)


_ACCOUNT_TYPES = frozenset(get_args(AccountEventType))


class _CreditRead(Read):
    credit_kind: Identifier | None
    credit_id: Identifier | None


class _CreditedRead(Read):
    specversion: Literal["1.0"]
    time: Instant
    data: _CreditRead


def read_credit(record: Record) -> tuple[str, int] | None:
    """The payment that a record says was credited, and when; None for every other account event. Raises RecordError."""
    envelope = load_envelope(record)
    if not is_known_type(envelope, _ACCOUNT_TYPES, ACCOUNT_EVENTS) or envelope["type"] != "account.credited":
        return None
    event = read_as(_CreditedRead, envelope)
    if event.data.credit_kind != "payment" or event.data.credit_id is None:
        return None
    return event.data.credit_id, event.time


class Credits:
    """Marks payments, and with them orders, as credited: once, whatever is repeated."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def apply(self, connection: Connection, poll: Poll) -> None:
        credited: dict[str, int] = {}
        for record in poll.records:
            if record.topic != ACCOUNT_EVENTS:
                continue
            try:
                found = read_credit(record)
            except RecordError as error:
                poll.bury(record, error.reason, error.detail)
            else:
                if found is not None:
                    credited.setdefault(*found)
        if not credited:
            return
        await lock_payment_ids(connection, list(credited))
        await self.credit(connection, credited)

    async def credit(self, connection: Connection, credited: Mapping[str, int]) -> None:
        """Mark payments, whose ids the caller has locked, with the instant of each one's credit."""
        for payment_id in await mark_credited(connection, credited, "account.credited", self._clock.now_us()):
            # Only after a restore of this database; reconciliation finds the payment at its provider again.
            UNKNOWN_CREDITS.inc()
            logger.warning("credit.of_unknown_payment", payment_id=payment_id)
