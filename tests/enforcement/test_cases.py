"""Deletion cases, on real PostgreSQL: when they open, end, remind and are given up."""

import pytest

from services.enforcement.handlers import read_account
from services.enforcement.rules.account import Account, AccountKey
from shared.clock import HOUR_US, MINUTE_US, SECOND_US, format_instant, parse_instant
from shared.topics import ENFORCEMENT_EVENTS
from tests.enforcement.conftest import REGION, START_US, Open
from tests.enforcement.debt import GRACE_US, debtor, examine, open_debt, open_due
from tests.enforcement.world import ACME, account, account_event, happened

FAVOUR = "a correction in the customer's favour restarted the time"


async def test_below_zero_opens_a_case_that_is_due_after_the_grace_period(open_world: Open) -> None:
    world = await open_debt(open_world, "ctr-1")
    [event] = await world.sent(ENFORCEMENT_EVENTS, "deletion.scheduled")
    assert event["id"] == f"vn/acme/{format_instant(START_US)}/deletion.scheduled/1"
    assert parse_instant(event["data"]["due_at"]) == START_US + GRACE_US
    world.move(GRACE_US / SECOND_US - 1)
    await examine(world)
    assert await world.deleted() == []
    world.move(1)
    await examine(world)
    assert await world.deleted() == ["ctr-1"]


async def test_an_account_at_zero_has_no_case(open_world: Open) -> None:
    world = await open_world()
    await world.learn(account("exhausted", 2))
    assert await world.cases() == []


@pytest.mark.parametrize(
    "healed",
    [
        account("ok", 3),
        account("exhausted", 3),
        # Whatever the event is called: null says that there was a moment at or above zero.
        Account(ACME, 3, "negative", -5, None),
        Account(ACME, 3, "low", 1, None),
    ],
)
async def test_any_moment_at_or_above_zero_cancels_for_good(open_world: Open, healed: Account) -> None:
    world = await open_debt(open_world, "ctr-1")
    await world.learn(healed)
    world.move(10 * GRACE_US / SECOND_US)
    await examine(world)
    assert [case["state"] for case in await world.cases()] == ["cancelled"]
    assert await world.told() == ["deletion.scheduled", "deletion.cancelled"]
    assert await world.deleted() == []


async def test_a_favour_that_leaves_it_below_zero_begins_the_time_again(open_world: Open) -> None:
    world = await open_debt(open_world, "ctr-1")
    world.move(20 * 3600)
    await world.learn(debtor(world, 3))
    world.move(20 * 3600)
    await examine(world)
    assert [case["state"] for case in await world.cases()] == ["cancelled", "scheduled"]
    assert await world.deleted() == []
    world.move(4 * 3600)
    await examine(world)
    assert await world.deleted() == ["ctr-1"]


async def test_a_further_charge_does_not_begin_the_time_again(open_world: Open) -> None:
    world = await open_debt(open_world, "ctr-1")
    world.move(20 * 3600)
    await world.learn(Account(ACME, 3, "negative", -50, START_US))
    assert await world.told() == ["deletion.scheduled"]


async def test_what_came_and_went_within_one_poll_is_seen(open_world: Open) -> None:
    world = await open_debt(open_world, "ctr-1")
    world.move(3600)
    await world.learn(account("ok", 3), debtor(world, 4))
    assert await world.told() == ["deletion.scheduled", "deletion.cancelled", "deletion.scheduled"]


async def test_an_answer_older_than_what_is_known_changes_nothing(open_world: Open) -> None:
    """A sweep's page may have been read before the event that overtook it."""
    world = await open_debt(open_world, "ctr-1")
    world.move(3600)
    await world.learn(account("ok", 7))
    await world.service.sweep._apply([account("negative", 5, since_us=START_US)])
    assert [case["state"] for case in await world.cases()] == ["cancelled"]


async def test_reminders_are_told_once_each_until_the_case_is_due(open_world: Open) -> None:
    world = await open_debt(open_world, "ctr-1")
    told: list[str] = []
    for hours in (11, 1, 0, 9, 0.6, 0, 2.3, 0.1, 1):
        world.move(hours * 3600)
        await world.service.timers.remind_due()
        ids = [event["id"] for event in await world.sent(ENFORCEMENT_EVENTS, "deletion.reminder")]
        assert ids[: len(told)] == told
        told = ids
    case_id = f"vn/acme/{format_instant(START_US)}"
    assert told == [
        f"{case_id}/deletion.reminder/{format_instant(START_US + GRACE_US // 2)}",
        f"{case_id}/deletion.reminder/{format_instant(START_US + GRACE_US * 9 // 10)}",
    ]


async def test_of_missed_reminders_only_the_latest_is_told(open_world: Open) -> None:
    world = await open_debt(open_world, "ctr-1", enforcement_reminder_percents=(25, 50, 90))
    world.move(14 * 3600)
    await world.service.timers.remind_due()
    await world.service.timers.remind_due()
    [event] = await world.sent(ENFORCEMENT_EVENTS, "deletion.reminder")
    assert event["id"].endswith(format_instant(START_US + GRACE_US // 2))


async def test_nobody_is_reminded_of_a_cancelled_case_or_at_its_due_time(open_world: Open) -> None:
    world = await open_debt(open_world, "ctr-1")
    other = AccountKey("vn", "other")
    await world.learn(debtor(world, key=other))
    await world.learn(account("ok", 3))
    world.move(GRACE_US / SECOND_US)
    await world.service.timers.remind_due()
    assert await world.told("deletion.reminder") == []


async def test_a_debt_that_is_heard_of_late_has_its_whole_grace_period_from_then(open_world: Open) -> None:
    """Balance's clock may have been behind: nobody else can tell since when, and nobody could warn."""
    world = await open_world()
    await world.learn(account("negative", 2, since_us=START_US - 14 * HOUR_US))
    await world.service.timers.remind_due()
    assert await world.told() == ["deletion.scheduled"]
    [case] = await world.cases()
    assert case["due_at"] == format_instant(START_US + GRACE_US)
    world.move(13 * 3600)
    await world.service.timers.remind_due()
    assert await world.told("deletion.reminder") == ["deletion.reminder"]


async def test_a_debt_that_is_heard_of_within_a_minute_counts_from_its_instant(open_world: Open) -> None:
    world = await open_world()
    await world.learn(account("negative", 2, since_us=START_US - MINUTE_US))
    [case] = await world.cases()
    assert case["due_at"] == format_instant(START_US - MINUTE_US + GRACE_US)


async def test_a_case_opened_again_on_a_standing_clock_reminds_of_nothing_twice(open_world: Open) -> None:
    world = await open_debt(open_world, "ctr-1")
    world.move(13 * 3600)
    await world.service.timers.remind_due()
    await world.learn(account("ok", 3))
    await world.learn(Account(ACME, 4, "negative", -5, START_US))
    await world.service.timers.remind_due()
    assert await world.told("deletion.reminder") == ["deletion.reminder"]
    ids = [event["id"] for event in await world.sent(ENFORCEMENT_EVENTS)]
    assert len(ids) == len(set(ids))


async def test_a_command_of_a_cancelled_case_that_nobody_carried_out_is_given_up(open_world: Open) -> None:
    world = await open_due(open_world, "ctr-1", "ctr-2")
    await examine(world)
    await world.learn(account("ok", 3), happened("deleted", "ctr-1", world.clock.now_us()))
    await world.service.timers.abandon_expired()
    assert await world.told("deletion.abandoned") == [], "the command may still be obeyed"

    world.move(61 + 300)
    await world.service.timers.abandon_expired()
    await world.service.timers.abandon_expired()
    [event] = await world.sent(ENFORCEMENT_EVENTS, "deletion.abandoned")
    assert event["subject"] == "ctr-2"
    assert event["data"]["case_id"] == f"vn/acme/{format_instant(START_US)}"
    [case] = await world.cases()
    assert [(target["done"], target["abandoned"]) for target in case["targets"]] == [(True, False), (False, True)]


async def test_a_command_that_expires_on_an_account_in_debt_is_repeated_not_given_up(open_world: Open) -> None:
    world = await open_due(open_world, "ctr-1")
    await examine(world)
    await examine(world)
    assert await world.deleted() == ["ctr-1"], "not while the first may be obeyed"
    world.move(600)
    await world.service.timers.abandon_expired()
    await examine(world)
    assert await world.deleted() == ["ctr-1", "ctr-1"]
    assert await world.told("deletion.abandoned") == []
    await world.learn(happened("deleted", "ctr-1", world.clock.now_us()))
    assert (await world.told())[-1] == "deletion.done"


async def test_what_a_later_case_commands_again_is_not_given_up_by_the_earlier(open_world: Open) -> None:
    world = await open_due(open_world, "ctr-1", enforcement_abandon_seconds=2 * 86400)
    await examine(world)
    await world.learn(account("ok", 3))
    await world.learn(debtor(world, 4))
    world.move(GRACE_US / SECOND_US)
    await examine(world)
    world.move(2 * 86400)
    await world.service.timers.abandon_expired()
    assert await world.told("deletion.abandoned") == []


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (
            Account(ACME, 3, "ok", 5, None, "payment stripe:pi_1"),
            "credit payment stripe:pi_1; the balance is 5 micros",
        ),
        (account("exhausted", 3), "the account is at or above zero; the balance is 0 micros"),
        (Account(ACME, 3, "negative", -5, None), "balance ended the time below zero; the balance is -5 micros"),
        (
            Account(ACME, 3, "negative", -4, START_US + HOUR_US),
            f"{FAVOUR} at 2026-11-01T09:00:00Z; the balance is -4 micros",
        ),
        (
            Account(ACME, 4, "negative", -4, START_US + HOUR_US),
            (
                "the account is below zero since 2026-11-01T09:00:00Z: before that it was at or above zero, "
                f"or {FAVOUR}; the balance is -4 micros"
            ),
        ),
    ],
)
async def test_a_cancelled_case_says_why_it_ended(open_world: Open, seen: Account, reason: str) -> None:
    world = await open_debt(open_world, "ctr-1")
    world.move(3600)
    await world.learn(seen)
    case = (await world.cases())[0]
    assert (case["state"], case["reason"]) == ("cancelled", reason)
    [event] = await world.sent(ENFORCEMENT_EVENTS, "deletion.cancelled")
    assert event["data"]["reason"] == reason


def test_the_credit_that_ended_a_case_is_named_from_balances_own_event() -> None:
    event = account_event(account("ok", 3), START_US)
    event["data"] |= {"credit_id": "stripe:pi_1", "credit_kind": "payment", "amount_micros": 12}
    assert read_account(event, {"vn": REGION}).credited == "payment stripe:pi_1"


async def test_an_abandoned_deletion_says_why_its_case_ended(open_world: Open) -> None:
    world = await open_due(open_world, "ctr-1")
    await examine(world)
    await world.learn(debtor(world, 3))
    world.move(61 + 300)
    await world.service.timers.abandon_expired()
    [event] = await world.sent(ENFORCEMENT_EVENTS, "deletion.abandoned")
    assert "restarted the time" in event["data"]["reason"]


@pytest.mark.parametrize("days", [1, 10])
async def test_a_case_opened_again_reminds_from_its_new_beginning(open_world: Open, days: int) -> None:
    world = await open_due(open_world, "ctr-1")
    await examine(world)
    await world.learn(happened("deleted", "ctr-1", world.clock.now_us()))
    world.move(days * 86_400)
    begun_us = world.clock.now_us()
    await world.learn(happened("created", "vol-2", begun_us))
    for hours in (11, 2, 8, 1):
        world.move(hours * 3600)
        await world.service.timers.remind_due()
    events = await world.sent(ENFORCEMENT_EVENTS, "deletion.reminder")
    planned = [event["id"].rpartition("/")[2] for event in events]
    assert planned == [format_instant(begun_us + GRACE_US // 2), format_instant(begun_us + GRACE_US * 9 // 10)]
