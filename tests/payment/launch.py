"""`python -m tests.payment.launch SERVICE serve`: as tests.system.launch, but payment talks to providers that we play.

Everything else of payment is as in production: database, broker, balance, HTTP. Callbacks are JSON (`callback`).
"""

import os
import sys

import orjson
import uvloop

import shared.consumer
from services.payment.providers import BadSignature, Notice
from services.payment.rules.facts import Money, Paid
from services.payment.running import Edges, run_payment
from services.payment.settings import PaymentSettings
from shared.clock import open_clock
from shared.log import configure_logging
from shared.settings import SharedSettings
from tests.payment.fake_provider import FakeProvider
from tests.system import launch
from tests.system.failpoints import FAULTS, decode_faults, install

SIGNATURE = "signed"


def callback(event_id: str, order_id: str, payment_id: str, money: Money, at_us: int) -> bytes:
    """A webhook's body that says that an order was paid."""
    paid = {"order_id": order_id, "payment_id": payment_id, "at_us": at_us}
    money_fields = {"amount_micros": money.amount_micros, "currency": money.currency}
    return orjson.dumps({"event_id": event_id, "paid": paid, "money": money_fields})


def read_callback(body: bytes, signature: str, _now_us: int) -> Notice:
    if signature != SIGNATURE:
        raise BadSignature("nobody signed this")
    said = orjson.loads(body)
    paid = said["paid"]
    fact = Paid(paid["order_id"], paid["payment_id"], Money(**said["money"]), paid["at_us"], None, paid["payment_id"])
    return Notice(said["event_id"], "paid", "vn", paid["order_id"], (fact,))


def read_no_query(_query: str) -> Notice:
    raise BadSignature("this launcher plays Stripe only")


def read_no_event(_body: bytes) -> Notice:
    raise BadSignature("the provider that is played lists no events")


async def serve() -> None:
    shared, settings = SharedSettings(), PaymentSettings()
    edges = Edges({"stripe": FakeProvider("stripe")}, read_callback, read_no_event, read_no_query)
    await run_payment(shared, settings, open_clock(shared.test_clock), edges)


def main() -> None:
    if sys.argv[1] != "payment":
        launch.main()
        return
    setattr(shared.consumer, "AIOKafkaConsumer", launch.open_consumer)  # noqa: B010 - a name in another module
    for fault in decode_faults(os.environ.get(FAULTS, "[]")):
        install(fault)
    configure_logging("payment")
    uvloop.run(serve())


if __name__ == "__main__":
    main()
