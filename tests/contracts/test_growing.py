"""Contracts grow: every consumer of every topic goes on when its publisher says more than it knows (ADR 14)."""

import json
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from prometheus_client import REGISTRY

from deploy.cli.evidence import read_batch as read_evidence
from deploy.cli.lines import BadLine, Line, check_line
from services.enforcement.handlers import LifecycleFact, read_record
from services.enforcement.rules.account import Account
from services.payment.app.credits import read_credit
from shared.clock import HOUR_US, MINUTE_US, SECOND_US
from shared.consumer import Poll
from shared.db import transaction
from shared.errors import RecordError
from shared.events.account import AccountData, AccountEvent
from shared.events.charges import compress, decompress, read_batch
from shared.events.enforcement import EnforcementData, EnforcementEvent
from shared.events.incoming import IncomingEvent
from shared.events.payments import PaymentCaptured
from shared.events.prices import PriceBookPublished
from shared.events.reading import read_json
from shared.settings import Region
from shared.topics import ACCOUNT_EVENTS, ENFORCEMENT_EVENTS, LIFECYCLE, PAYMENT_EVENTS, USAGE
from tests.balance.batches import simple
from tests.balance.books import Books
from tests.balance.facts import captured, dispute_closed, disputed, refunded
from tests.conftest import MakeDatabase
from tests.contracts.growing import grow, grow_event, of_a_later_type, record
from tests.metering.meter import START_US, Meter, book, lifecycle, usage

REGIONS = {"vn": Region(currency="VND", opened_at="2020-01-01T00:00:00Z")}


def passed_over(topic: str) -> float:
    return REGISTRY.get_sample_value("tollkeeper_unknown_event_types_total", {"topic": topic}) or 0.0


def started() -> list[dict[str, Any]]:
    created = lifecycle("container.created", "ctr-1", START_US, gpu_count=1, gpu_sku="a30", labels={"team": "x"})
    return [created, lifecycle("container.started", "ctr-1", START_US)]


def account_event(**data: Any) -> dict[str, Any]:
    event = AccountEvent(
        id="vn/acme/7",
        type="account.credited",
        subject="vn/acme",
        time=START_US,
        data=AccountData(
            region="vn",
            tenant_id="acme",
            account_version=7,
            currency="VND",
            state="exhausted",
            balance_micros=0,
            spendable_micros=0,
            burn_micros_per_hour=5,
            negative_since=None,
            amount_micros=3,
            credit_id="stripe:pi_1",
            credit_kind="payment",
        ),
    )
    document: dict[str, Any] = orjson.loads(event.model_dump_json())
    document["data"] |= data
    return document


async def test_lifecycle_events_grow(make_database: MakeDatabase) -> None:
    _, url = await make_database("metering")
    meter = await Meter.open(url)
    try:
        await meter.put_book(book(START_US, gpu={"a30": "0.60"}))
        before = passed_over(LIFECYCLE)
        later = of_a_later_type(started()[1], "container.migrated")
        await meter.take(*map(grow_event, started()), later, grow_event(later))
        await meter.reach(START_US + HOUR_US - SECOND_US)
        assert (meter.dead, await meter.charged()) == ([], {("vn", "acme"): 600_000})
        assert passed_over(LIFECYCLE) == before + 2
    finally:
        await meter.close()
    [created, began] = [read_record(record(LIFECYCLE, grow_event(event)), REGIONS, START_US) for event in started()]
    assert isinstance(created, LifecycleFact)
    assert isinstance(began, LifecycleFact)
    assert (created.fact.verb, began.fact.verb) == ("created", "started")
    assert read_record(record(LIFECYCLE, later), REGIONS, START_US) is None
    # Who publishes is told: a misspelt type would charge nobody.
    refused = check_line(Line(1, orjson.dumps(later), 0))
    assert isinstance(refused, BadLine)
    assert refused.reason == "unknown type"
    assert isinstance(check_line(Line(1, orjson.dumps(grow_event(started()[0])), 0)), IncomingEvent)


async def test_usage_events_grow(make_database: MakeDatabase) -> None:
    _, url = await make_database("metering")
    meter = await Meter.open(url)
    try:
        await meter.put_book(book(START_US, services={"tokens": {"unit": "token", "price": "0.5"}}))
        before = passed_over(USAGE)
        event = usage("u1", START_US, 3)
        poll = Poll(
            [
                record(USAGE, grow_event(event)),
                record(USAGE, of_a_later_type(event, "service.reserved")),
                record(USAGE, usage("u2", START_US, 1)),
            ]
        )
        async with transaction(meter.pool) as connection:
            await meter.intake.apply(connection, poll)
        assert poll.dead == []
        assert await meter.charged() == {("vn", "acme"): 2_000_000}
        assert passed_over(USAGE) == before + 1
    finally:
        await meter.close()
    assert isinstance(check_line(Line(1, orjson.dumps(grow_event(event)), 0)), IncomingEvent)


async def test_charge_batches_grow(books: Books) -> None:
    grown = compress(orjson.dumps(grow(orjson.loads(decompress(simple(1, {"acme": 60}))))))
    await books.post(grown, simple(2, {"acme": 5}))
    assert (await books.balance("acme"), books.dead) == (-65, [])
    assert await books.audit() == []
    assert read_batch(grown).accounts[0].tenant_id == "acme"
    assert read_evidence(orjson.loads(decompress(grown))).lines.amounts_micros == [60]


async def test_payment_events_grow(books: Books) -> None:
    def as_bytes(event: Any) -> dict[str, Any]:
        document: dict[str, Any] = orjson.loads(event.model_dump_json())
        return document

    before = passed_over(PAYMENT_EVENTS)
    first = as_bytes(captured("stripe:pi_1", 500))
    by_another = grow_event(as_bytes(captured("momo:1", 40)))
    by_another["data"]["provider"] = "momo"
    held = as_bytes(disputed("stripe:pi_1", "d1", held=20))
    closed = as_bytes(dispute_closed("stripe:pi_1", "d1"))
    closed["data"]["outcome"] = "settled between them"
    later = of_a_later_type(first, "payment.authorised")
    events = [first, grow_event(first), by_another, later, held, closed]
    await books.pay(*map(orjson.dumps, events))
    assert books.dead == []
    assert await books.balance("acme") == 540
    assert passed_over(PAYMENT_EVENTS) == before + 1
    assert await books.audit() == []


async def test_a_fact_of_payment_told_without_the_amount_of_the_customer_is_the_same_fact(books: Books) -> None:
    """Older versions did not say it; what they told is not told anew by saying more."""
    await books.pay(captured("stripe:pi_1", 500).model_dump_json().encode())
    for fact in (refunded("stripe:pi_1", "re_1", 100), disputed("stripe:pi_1", "d1", withdrawn=20)):
        name = "refunded_micros" if "refund" in fact.id else "disputed_micros"
        document = orjson.loads(fact.model_dump_json())
        by_older, by_newer = ({**document, "data": {**document["data"], name: amount}} for amount in (None, 7))
        await books.pay(orjson.dumps(by_older), orjson.dumps(by_newer))
    assert (books.dead, await books.balance("acme")) == ([], 380)


def test_account_events_grow_for_enforcement() -> None:
    grown = grow_event(account_event(credit_kind="gift"))
    seen = read_record(record(ACCOUNT_EVENTS, grown), REGIONS, START_US)
    assert isinstance(seen, Account)
    assert (seen.version, seen.state, seen.negative_since_us) == (7, "exhausted", None)
    # A later type carries the account like every other: that it is not negative any more cancels a case.
    seen = read_record(record(ACCOUNT_EVENTS, {**grown, "type": "account.frozen"}), REGIONS, START_US)
    assert isinstance(seen, Account)
    assert read_record(record(ACCOUNT_EVENTS, {**grown, "type": "ledger.sealed"}), REGIONS, START_US) is None
    short = account_event()
    del short["data"]["negative_since"]
    with pytest.raises(RecordError, match=r"missing: data\.negative_since"):
        read_record(record(ACCOUNT_EVENTS, short), REGIONS, START_US)


def test_account_events_grow_for_payment() -> None:
    before = passed_over(ACCOUNT_EVENTS)
    grown = grow_event(account_event(state="under review"))
    assert read_credit(record(ACCOUNT_EVENTS, grown)) == ("stripe:pi_1", START_US)
    assert read_credit(record(ACCOUNT_EVENTS, grow_event(account_event(credit_kind="gift")))) is None
    assert read_credit(record(ACCOUNT_EVENTS, of_a_later_type(grown, "account.frozen"))) is None
    assert passed_over(ACCOUNT_EVENTS) == before + 1


async def test_enforcement_events_grow(make_database: MakeDatabase) -> None:
    _, url = await make_database("metering")
    meter = await Meter.open(url)
    try:
        await meter.put_book(book(START_US, gpu={"a30": "0.60"}))
        await meter.take(*started())
        event = EnforcementEvent(
            id="case/ctr-1/deletion.commanded/1",
            type="deletion.commanded",
            subject="ctr-1",
            time=START_US + 10 * MINUTE_US,
            data=EnforcementData(region="vn", tenant_id="acme", resource_id="ctr-1"),
        )
        before = passed_over(ENFORCEMENT_EVENTS)
        commanded = orjson.loads(event.model_dump_json())
        quarantined = of_a_later_type(commanded, "deletion.quarantined")
        poll = Poll([record(ENFORCEMENT_EVENTS, item) for item in (quarantined, grow_event(commanded))])
        async with transaction(meter.pool) as connection:
            await meter.intake.apply(connection, poll)
        await meter.reach(START_US + HOUR_US)
        assert poll.dead == []
        assert await meter.charged() == {("vn", "acme"): 100_000}
        assert passed_over(ENFORCEMENT_EVENTS) == before + 1
    finally:
        await meter.close()


def test_price_books_grow() -> None:
    stated = {"unit": "token", "price": "0.5", "a_later_field": 1}
    published = grow(
        {
            "region": "vn",
            "effective_from": "2026-01-01T00:00:00Z",
            "gpu": {"a30": "0.6"},
            "storage": {},
            "services": {"tokens": stated},
            "version": 3,
            "published_at": "2026-01-01T00:00:00Z",
        }
    )
    found = read_json(PriceBookPublished, json.dumps(published))
    assert (found.version, found.gpu["a30"], found.services["tokens"].price_micros) == (3, "0.6", 500_000)


def test_who_publishes_is_held_to_the_contract() -> None:
    document = captured("stripe:pi_1", 500).model_dump()
    for path, value in (("provider", "momo"), ("a_later_field", 1)):
        wrong = {**document, "data": {**document["data"], path: value}}
        with pytest.raises(ValueError, match=path):
            PaymentCaptured.model_validate(wrong)


@pytest.fixture
async def books(make_database: MakeDatabase) -> AsyncIterator[Books]:
    owner_url, app_url = await make_database("balance")
    made = await Books.open(owner_url, app_url)
    yield made
    await made.close()
