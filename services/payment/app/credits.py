"""Kafka in: balance says that a payment was credited, and its order is credited."""

from collections.abc import Mapping

from pydantic import ValidationError

from services.payment.metrics import UNKNOWN_CREDITS
from services.payment.store.payments import lock_payment_ids, mark_credited
from shared.clock import Clock
from shared.consumer import Poll
from shared.db import Connection
from shared.errors import RecordError
from shared.events.account import AccountEvent
from shared.events.cloudevents import load_envelope
from shared.events.lifecycle import describe
from shared.kafka import Record
from shared.log import get_logger

logger = get_logger(__name__)


def read_credit(record: Record) -> tuple[str, int] | None:
    """The payment that a record says was credited, and when; None for every other account event. Raises RecordError."""
    try:
        event = AccountEvent.model_validate(load_envelope(record))
    except ValidationError as error:
        raise RecordError("invalid event", describe(error)) from error
    if event.type != "account.credited" or event.data.credit_kind != "payment" or event.data.credit_id is None:
        return None
    return event.data.credit_id, event.time


class Credits:
    """Marks payments, and with them orders, as credited: once, whatever is repeated."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def apply(self, connection: Connection, poll: Poll) -> None:
        credited: dict[str, int] = {}
        for record in poll.records:
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
