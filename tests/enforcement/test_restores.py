"""Other services' databases and this one's are set back: deletions wait for an operator, debtors are stopped."""

from collections.abc import Sequence
from typing import Any

import pytest

from services.enforcement.app.catch_up import learn_newest
from services.enforcement.handlers import read_account
from services.enforcement.main import notice_restore
from services.enforcement.rules.account import Account, AccountKey
from shared.clock import format_instant
from shared.db import transaction
from shared.errors import RecordError
from shared.events.service import SOURCES
from shared.restore_records import confirm_restores
from shared.settings import Region
from shared.topic_reader import TopicReader
from shared.topics import COMMANDS, SERVICE_EVENTS
from tests.conftest import MakeDatabase
from tests.enforcement.conftest import Open
from tests.enforcement.debt import examine, open_due
from tests.enforcement.world import World, account, happened
from tests.support.eventually import eventually
from tests.support.topics import prefix_of


@pytest.fixture
def topic_prefix(request: pytest.FixtureRequest) -> str:
    """These tests publish: their topics are their own."""
    return prefix_of(request.node.nodeid)


def service_event(world: World, kind: str, service: str, incarnation: int) -> dict[str, Any]:
    now = format_instant(world.clock.now_us())
    words = (
        {"restored_at": now, "told_until": None}
        if kind == "restored"
        else {"confirmed_at": now, "actor": "sre", "reason": "looked"}
    )
    return {
        "specversion": "1.0",
        "id": f"{service}/{kind}/{incarnation}",
        "source": SOURCES[service],
        "type": f"service.{kind}",
        "subject": service,
        "time": now,
        "datacontenttype": "application/json",
        "data": {"service": service, "incarnation": incarnation, **words},
    }


@pytest.mark.parametrize("service", ["metering", "balance", "payment"])
async def test_nothing_is_deleted_after_a_restore_before_it_is_confirmed(open_world: Open, service: str) -> None:
    world = await open_due(open_world, "ctr-1")
    world.start("consumer")
    await world.publish(SERVICE_EVENTS, service_event(world, "restored", service, 1))
    await world.publish(SERVICE_EVENTS, service_event(world, "restored", service, 2))
    await world.settle_intake()
    await examine(world)
    assert await world.deleted() == []
    [case] = await world.cases()
    assert case["state"] == "frozen"
    for incarnation in (1, 2):
        assert f"restore {incarnation} of {service} is not confirmed" in case["reason"]

    # The confirmation of the second covers the first, whichever of them compaction left.
    await world.publish(SERVICE_EVENTS, service_event(world, "restore_confirmed", service, 2))
    await world.settle_intake()
    await examine(world)
    assert await world.deleted() == ["ctr-1"]


async def test_a_debtor_of_a_ledger_that_was_set_back_is_stopped_and_nobody_deleted(open_world: Open) -> None:
    """Balance's answer is older than an event of a future that it lost."""
    world = await open_due(open_world, "ctr-1")
    await world.learn(account("ok", 7), happened("started", "ctr-1", world.clock.now_us()))
    world.balance.set(account("negative", 3, since_us=world.clock.now_us()))
    await world.service.sweep.sweep()
    await world.send_due_stops()
    [command] = await world.sent(COMMANDS)
    assert (command["type"], command["subject"]) == ("container.stop", "ctr-1")
    [row] = await world.fetch("select account_version, state from enforced_account")
    assert tuple(row.values()) == (3, "negative")
    [halt] = await world.fetch("select reason from halt where resumed_at is null")
    assert "version 3 of vn/acme" in halt["reason"]


async def test_an_answer_that_crossed_an_event_is_no_contradiction(open_world: Open) -> None:
    world = await open_due(open_world, "ctr-1")
    await world.learn(account("exhausted", 7))
    stale = account("negative", 3, since_us=world.clock.now_us())
    await world.service.sweep._apply([stale])
    [row] = await world.fetch("select account_version, state from enforced_account")
    assert tuple(row.values()) == (7, "exhausted")
    assert await world.fetch("select * from halt") == []


async def test_the_newest_of_an_account_is_learnt_before_what_was_missed(open_world: Open) -> None:
    """An account that was empty while this service was away, and is not any more, is not stopped."""
    world = await open_world()
    await world.learn(happened("created", "ctr-1", world.clock.now_us()))
    await world.learn(happened("started", "ctr-1", world.clock.now_us()))
    for seen in (account("exhausted", 2), account("ok", 3)):
        await world.tell_account(seen)
    settings = world.service.settings
    reader = TopicReader(settings.kafka_bootstrap, settings.topic_prefix)
    assert await learn_newest(world.service.enforce, reader) == 1
    world.start("consumer")
    await world.settle_intake()
    assert await world.sent(COMMANDS) == []


async def test_no_id_of_a_lost_command_means_something_else_after_a_restore(
    open_world: Open, make_database: MakeDatabase
) -> None:
    world = await open_world()
    await notice_restore(world.service)
    await world.learn(happened("created", "ctr-1", 1), happened("started", "ctr-1", 2, "run-1"))
    world.start("relay")
    await world.learn(account("exhausted", 2))
    commands: list[dict[str, Any]] = await eventually(world.commands, what="the first command")
    assert len(commands) == 1
    await world.stop("relay")
    # The database is the one from before anything happened.
    _, backup_url = await make_database("enforcement")
    world = await open_world(enforcement_database_url=backup_url)
    await notice_restore(world.service)
    await world.learn(happened("created", "ctr-1", 1), happened("started", "ctr-1", 2, "run-1"))
    world.start("relay")
    await world.learn(account("exhausted", 2))

    async def both() -> bool:
        return len(await world.commands()) == 2

    done: bool = await eventually(both, what="two commands")
    assert done
    first, second = await world.commands()
    assert first["data"]["attempt"] == second["data"]["attempt"] == 1
    assert first["id"] != second["id"]
    [restored] = await world.read(SERVICE_EVENTS)
    assert restored["data"]["service"] == "enforcement"
    async with transaction(world.service.pool) as connection:
        assert await confirm_restores(connection, 1, "sre", "looked", world.clock.now_us()) == 1


async def test_an_account_that_cant_be_learnt_keeps_the_service_from_nothing(
    open_world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start, before any loop: the consumer buries it later, and the others are learnt."""
    world = await open_world()
    huge = account("exhausted", 2**62, key=AccountKey("vn", "huge"))
    for seen in (
        huge,
        account("exhausted", 2, key=AccountKey("vn", "bolt")),
        account("negative", 3, since_us=world.clock.now_us(), key=AccountKey("vn", "core")),
    ):
        await world.tell_account(seen)
    apply = world.service.enforce.apply_answers

    async def failing(accounts: Sequence[Account]) -> int:
        if huge.key in {item.key for item in accounts}:
            raise OverflowError("too large for anything")
        return await apply(accounts)

    monkeypatch.setattr(world.service.enforce, "apply_answers", failing)
    settings = world.service.settings
    reader = TopicReader(settings.kafka_bootstrap, settings.topic_prefix)
    assert await learn_newest(world.service.enforce, reader) == 2


@pytest.mark.parametrize("version", [2**63, 2**64 - 1, -1, 1.5, "7", None])
def test_a_version_that_is_none_is_refused(version: object) -> None:
    data = {"region": "vn", "tenant_id": "acme", "state": "ok", "balance_micros": 0, "negative_since": None}
    envelope: dict[str, object] = {"specversion": "1.0", "data": {**data, "account_version": version}}
    with pytest.raises(RecordError, match="account_version"):
        read_account(envelope, {"vn": Region(currency="VND", opened_at="2026-01-01T00:00:00Z")})
