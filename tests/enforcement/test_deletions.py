"""How a due case is carried out, on real PostgreSQL: every doubt freezes it or makes it wait, whoever dies."""

from collections.abc import Callable

import pytest

from services.enforcement.app.commanding import Commanding
from services.enforcement.clients.balance import BalanceClient, RedemptionAnswer
from services.enforcement.positions import Ends, Positions
from services.enforcement.rules.deletion import Grace
from services.enforcement.settings import Settings
from shared.clock import SECOND_US, format_instant
from shared.topics import ACCOUNT_EVENTS, COMMANDS, ENFORCEMENT_EVENTS, LIFECYCLE
from tests.enforcement.conftest import START_US, Open
from tests.enforcement.debt import GRACE_US, debtor, examine, open_debt, open_due
from tests.enforcement.fake_balance import FakeBalance
from tests.enforcement.world import ACME, World, account, happened


async def test_every_resource_is_redeemed_before_its_command_and_the_case_ends_when_all_are_gone(
    open_world: Open,
) -> None:
    world = await open_due(open_world, "vol-1", "ctr-2", "ctr-1")
    await world.learn(happened("deleted", "ctr-2", world.clock.now_us()))
    await examine(world)
    commands = await world.sent(COMMANDS, "container.delete", "volume.delete")
    assert [command["subject"] for command in commands] == ["ctr-1", "vol-1"]
    for command in commands:
        assert (command["data"]["permit_id"], command["subject"]) in world.balance.redeemed
    for resource_id in ("ctr-1", "vol-1"):
        await world.learn(happened("deleted", resource_id, world.clock.now_us()))
    assert [case["state"] for case in await world.cases()] == ["done"]
    assert (await world.told())[-1] == "deletion.done"


async def open_done(open_world: Open) -> World:
    """A world in which everything that acme had is deleted, and acme is still below zero."""
    world = await open_due(open_world, "ctr-1")
    await examine(world)
    await world.learn(happened("deleted", "ctr-1", world.clock.now_us()))
    assert [case["state"] for case in await world.cases()] == ["done"]
    return world


async def test_what_is_created_below_zero_after_the_case_was_done_has_a_grace_period_of_its_own(
    open_world: Open,
) -> None:
    world = await open_done(open_world)
    world.move(3600)
    await world.learn(happened("created", "vol-2", world.clock.now_us()))
    await world.learn(happened("created", "vol-3", world.clock.now_us()))
    [case] = await world.cases()
    assert (case["state"], case["due_at"]) == ("scheduled", format_instant(world.clock.now_us() + GRACE_US))
    assert await world.told("deletion.scheduled") == ["deletion.scheduled"] * 2
    world.move(GRACE_US / SECOND_US - 1)
    await examine(world)
    assert await world.deleted() == ["ctr-1"]
    world.move(1)
    await examine(world)
    assert await world.deleted() == ["ctr-1", "vol-2", "vol-3"]
    for resource_id in ("vol-2", "vol-3"):
        await world.learn(happened("deleted", resource_id, world.clock.now_us()))
    assert [case["state"] for case in await world.cases()] == ["done"]
    ids = [event["id"] for event in await world.sent(ENFORCEMENT_EVENTS)]
    assert len(set(ids)) == len(ids)


async def test_what_is_created_as_the_account_recovers_or_is_gone_at_once_opens_nothing_again(open_world: Open) -> None:
    world = await open_done(open_world)
    now_us = world.clock.now_us()
    await world.learn(happened("created", "ctr-2", now_us), happened("deleted", "ctr-2", now_us + 1))
    await world.learn(happened("created", "ctr-3", now_us), account("ok", 3))
    await world.learn(happened("created", "ctr-4", now_us))
    assert [case["state"] for case in await world.cases()] == ["done"]


async def test_what_is_created_as_the_last_of_a_case_goes_has_a_grace_period_too(open_world: Open) -> None:
    world = await open_due(open_world, "ctr-1")
    await examine(world)
    now_us = world.clock.now_us()
    await world.learn(happened("created", "ctr-2", now_us), happened("deleted", "ctr-1", now_us))
    [case] = await world.cases()
    assert (case["state"], case["due_at"]) == ("scheduled", format_instant(now_us + GRACE_US))
    assert (await world.told())[-2:] == ["deletion.done", "deletion.scheduled"]
    await examine(world)
    assert await world.deleted() == ["ctr-1"]


async def test_a_case_that_was_opened_again_ends_when_the_account_recovers(open_world: Open) -> None:
    world = await open_done(open_world)
    await world.learn(happened("created", "ctr-2", world.clock.now_us()))
    await world.learn(account("ok", 3))
    assert [case["state"] for case in await world.cases()] == ["cancelled"]
    world.move(2 * GRACE_US / SECOND_US)
    await examine(world)
    assert await world.deleted() == ["ctr-1"]


async def test_a_refused_permit_freezes_with_its_reason_and_evidence_and_waits(open_world: Open) -> None:
    world = await open_due(open_world, "ctr-1")
    world.balance.refuse_permits = True
    await examine(world)
    await examine(world)
    [case] = await world.cases()
    assert case["state"] == "frozen"
    assert case["reason"] == "permit-refused: the account is not to be deleted"
    assert case["evidence"]["account"]["balance_micros"] == -5
    assert await world.told("deletion.frozen") == ["deletion.frozen"], "news is told once"
    assert await world.deleted() == []
    world.balance.refuse_permits = False
    await examine(world)
    assert await world.deleted() == ["ctr-1"]


async def test_a_redemption_refused_for_the_second_resource_leaves_it_alone(open_world: Open) -> None:
    world = await open_due(open_world, "ctr-1", "ctr-2")
    world.balance.refuse_redemptions_after = 1
    await examine(world)
    assert await world.deleted() == ["ctr-1"]
    [case] = await world.cases()
    assert (case["state"], case["reason"]) == ("frozen", "redemption-refused: the permit is void")


async def test_a_case_frozen_half_way_is_done_when_everything_is_gone(open_world: Open) -> None:
    world = await open_due(open_world, "ctr-1", "ctr-2")
    world.balance.refuse_redemptions_after = 1
    await examine(world)
    for resource_id in ("ctr-1", "ctr-2"):
        await world.learn(happened("deleted", resource_id, world.clock.now_us()))
    assert [case["state"] for case in await world.cases()] == ["done"]


async def test_nothing_is_deleted_while_balance_is_out_of_reach(open_world: Open) -> None:
    world = await open_due(open_world, "ctr-1")
    world.balance.down = True
    await examine(world)
    assert await world.deleted() == []
    world.balance.down = False
    await examine(world)
    assert await world.deleted() == ["ctr-1"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda balance: balance.set(account("ok", 9)), None),
        (lambda balance: balance.set(account("negative", 1, since_us=START_US - 1)), "an older version"),
        (lambda balance: balance.accounts.clear(), "does not know the account"),
        (lambda balance: setattr(balance, "reversed_micros", 5), "without refunds, disputes and operators' debits"),
        (lambda balance: setattr(balance, "ahead_seconds", 3600), "clocks of balance and enforcement differ"),
        (
            lambda balance: balance.streams.extend({"shard": n, "stopped": "a gap"} for n in range(16)),
            "balance stopped posting",
        ),
    ],
)
async def test_each_doubt_about_balance_keeps_everything(
    open_world: Open, spoil: Callable[[FakeBalance], None], reason: str | None
) -> None:
    world = await open_due(open_world, "ctr-1")
    spoil(world.balance)
    await examine(world)
    assert await world.deleted() == []
    [case] = await world.cases()
    if reason is None:
        assert case["state"] == "cancelled", "what balance answers is learnt like an event"
    else:
        assert case["state"] == "frozen"
        assert reason in case["reason"]


async def test_records_that_are_just_being_applied_are_waited_for(
    open_world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await open_due(open_world, "ctr-1", enforcement_catch_up_seconds_max=20)
    unseen = iter((2, 1, 0))

    async def count(_positions: Positions, _ends: Ends) -> int:
        return next(unseen)

    monkeypatch.setattr(Positions, "count_unseen", count)
    await examine(world)
    assert await world.deleted() == ["ctr-1"]


async def test_outside_the_simulator_a_due_case_is_a_plan_that_can_be_read(open_world: Open) -> None:
    world = await open_due(open_world, "ctr-1", runtime="docker")
    await examine(world)
    await examine(world)
    [case] = await world.cases()
    assert case["state"] == "plan"
    assert [target["resource_id"] for target in case["targets"]] == ["ctr-1"]
    assert await world.told() == ["deletion.scheduled"]
    assert await world.deleted() == []
    assert not [question for question in world.balance.asked if "permit" in question]
    await world.learn(account("ok", 3))
    assert [case["state"] for case in await world.cases()] == ["cancelled"]


async def test_what_metering_charges_somebody_else_for_is_not_deleted(open_world: Open) -> None:
    """Two tenants claimed it, and this service heard the debtor first."""
    world = await open_due(open_world, "ctr-1", "ctr-2")
    world.metering.others = {"ctr-1"}
    await examine(world)
    assert await world.deleted() == ["ctr-2"]
    [case] = await world.cases()
    assert (case["state"], "does not charge the account for ctr-1" in case["reason"]) == ("frozen", True)
    world.metering.others = set()
    world.move(400)
    await examine(world)
    assert "ctr-1" in await world.deleted()


async def test_a_plan_is_carried_out_once_the_runtime_does(open_world: Open) -> None:
    world = await open_due(open_world, "ctr-1", runtime="docker")
    await examine(world)
    assert [case["state"] for case in await world.cases()] == ["plan"]
    world.service.deletions._settings = world.service.deletions._settings.model_copy(update={"runtime": "simulator"})
    world.move(20)
    await examine(world)
    assert await world.deleted() == ["ctr-1"]


async def test_the_breaker_bounds_deletions_and_says_so(open_world: Open) -> None:
    world = await open_due(open_world, "ctr-1", "ctr-2", "ctr-3", enforcement_deletions_per_hour_max=2)
    await examine(world)
    await examine(world)
    assert await world.deleted() == ["ctr-1", "ctr-2"]
    [case] = await world.cases()
    assert case["state"] == "frozen"
    assert "breaker" in case["reason"]
    world.move(3600)
    for resource_id in ("ctr-1", "ctr-2"):
        await world.learn(happened("deleted", resource_id, world.clock.now_us()))
    await examine(world)
    assert (await world.deleted())[2:] == ["ctr-3"]


async def test_cases_that_stay_frozen_do_not_stand_in_the_way_of_others(
    open_world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.enforcement.app.deletions.CASES_MAX", 2)
    world = await open_debt(open_world, "ctr-9")
    for number in range(3):
        key = ACME._replace(tenant_id=f"a-{number}")
        await world.learn(debtor(world, key=key))
        world.balance.accounts.pop(key)
    world.move(86400)
    for _ in range(2):
        await world.service.deletions.examine_due()
    assert await world.deleted() == ["ctr-9"]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (BalanceClient, "ask_permit"),
        (BalanceClient, "redeem"),
        (Commanding, "command"),
    ],
)
async def test_whoever_dies_after_a_step_nothing_is_commanded_unredeemed_or_twice(
    open_world: Open, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    """The process dies right after each call of the step; the next one goes on from the database alone."""
    world = await open_due(open_world, "ctr-1", "ctr-2")
    for _ in range(3):
        await die_after(monkeypatch, owner, name, world)
        await check_commands(world.balance, await world.sent(COMMANDS, "container.delete"))
    await examine(world)
    commands = await world.sent(COMMANDS, "container.delete")
    assert sorted(command["subject"] for command in commands) == ["ctr-1", "ctr-2"]
    await check_commands(world.balance, commands)


async def test_a_command_and_the_note_of_it_are_one(open_world: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies between the command's row and the note, in one transaction: neither is there."""
    world = await open_due(open_world, "ctr-1")
    with monkeypatch.context() as patch:
        patch.setattr("services.enforcement.app.commanding.mark_commanded", _die)
        with pytest.raises(Died):
            await examine(world)
    assert await world.deleted() == []
    await examine(world)
    [command] = await world.sent(COMMANDS, "container.delete")
    assert command["id"].endswith("/ctr-1/delete/1")


async def test_a_redemption_from_before_a_long_pause_commands_nothing(
    open_world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await open_due(open_world, "ctr-1")
    redeem = BalanceClient.redeem

    async def redeem_and_sleep(client: BalanceClient, permit_id: str, resource_id: str) -> RedemptionAnswer:
        answer = await redeem(client, permit_id, resource_id)
        world.move(61)
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(BalanceClient, "redeem", redeem_and_sleep)
        await examine(world)
    assert await world.deleted() == []
    await examine(world)
    [command] = await world.sent(COMMANDS, "container.delete")
    assert command["data"]["permit_id"] == "permit-2"


async def test_an_account_that_rises_after_the_redemption_loses_nothing(
    open_world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await open_due(open_world, "ctr-1")
    redeem = BalanceClient.redeem

    async def redeem_then_credit(client: BalanceClient, permit_id: str, resource_id: str) -> RedemptionAnswer:
        answer = await redeem(client, permit_id, resource_id)
        await world.learn(account("ok", 3))
        return answer

    monkeypatch.setattr(BalanceClient, "redeem", redeem_then_credit)
    await examine(world)
    assert await world.deleted() == []


class Died(BaseException):
    """The process ends here: nothing of ours catches it."""


async def _die(*_arguments: object, **_named: object) -> None:
    raise Died


async def die_after(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, world: World) -> None:
    step = getattr(owner, name)

    async def step_and_die(*arguments: object, **named: object) -> None:
        await step(*arguments, **named)
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, step_and_die)
        try:
            await examine(world)
        except Died:
            return


async def check_commands(balance: FakeBalance, commands: list[dict[str, object]]) -> None:
    """Each command has its redemption, and no resource has two."""
    subjects = [command["subject"] for command in commands]
    assert len(subjects) == len(set(subjects))
    for command in commands:
        data = command["data"]
        assert isinstance(data, dict)
        assert (data["permit_id"], command["subject"]) in balance.redeemed


async def test_a_longer_grace_period_holds_for_cases_that_are_open_and_ends(
    open_world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Balance asks for today's: a case that named its old due time would be refused for ever."""
    world = await open_due(open_world, "vol-1")
    monkeypatch.setattr(Settings, "grace_of", lambda _self, _region: Grace(2 * GRACE_US // SECOND_US))
    await examine(world)
    assert [case["state"] for case in await world.cases()] == ["frozen"]
    assert await world.deleted() == []
    world.move(GRACE_US / SECOND_US)
    await examine(world)
    assert await world.deleted() == ["vol-1"]


class Broker:
    """Tells ends and positions: of a topic, records arrive and are read as the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, topic: str) -> None:
        self.end, self.position, self._topic = 0, 0, topic
        monkeypatch.setattr(Positions, "load_ends", self.load_ends)
        monkeypatch.setattr(Positions, "load", self.load)

    async def load_ends(self) -> Ends:
        return {(self._topic, 0): self.end}

    async def load(self) -> dict[str, dict[int, int]]:
        return {self._topic: {0: self.position}}


@pytest.mark.parametrize(
    ("topic", "seconds", "deletes"),
    [(LIFECYCLE, 30, True), (LIFECYCLE, 400, False), (ACCOUNT_EVENTS, 30, False)],
)
async def test_a_platform_that_always_has_a_transaction_open_holds_up_nobody(
    open_world: Open, monkeypatch: pytest.MonkeyPatch, topic: str, seconds: int, *, deletes: bool
) -> None:
    """Of its topic a reader is never at the end, but past every end of a while ago."""
    world = await open_due(open_world, "ctr-1", enforcement_catch_up_seconds_max=0.001)
    broker = Broker(monkeypatch, topic)
    for _ in range(3):
        broker.position, broker.end = broker.end, broker.end + 10
        await examine(world)
        world.move(seconds)
    assert await world.deleted() == (["ctr-1"] if deletes else [])
