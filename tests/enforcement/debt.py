"""A tenant in debt, ready for its deletion: what the tests of deletion cases begin with."""

from services.enforcement.rules.account import Account, AccountKey
from shared.clock import HOUR_US, SECOND_US
from shared.errors import TransientFault
from tests.enforcement.conftest import Open
from tests.enforcement.world import ACME, World, account, happened
from tests.support.eventually import eventually

GRACE_US = 24 * HOUR_US
_known_prefixes: set[str] = set()


def debtor(world: World, version: int = 2, *, key: AccountKey = ACME) -> Account:
    return account("negative", version, since_us=world.clock.now_us(), key=key)


async def open_debt(open_world: Open, *resource_ids: str, **changes: object) -> World:
    """A world with a simulator in which acme has resources and has just fallen below zero."""
    values: dict[str, object] = {"runtime": "simulator", "enforcement_deletion_retry_seconds": 3600, **changes}
    world = await open_world(**values)
    # A topic can be there before every broker knows it; a case would wait, and so would the test.
    prefix = world.service.settings.topic_prefix
    if prefix not in _known_prefixes:
        known: bool = await eventually(lambda: _knows_topics(world), what="the topics")
        assert known
        _known_prefixes.add(prefix)
    created_us = world.clock.now_us() - HOUR_US
    facts = [happened("created", resource_id, created_us) for resource_id in resource_ids]
    await world.learn(*facts, debtor(world))
    return world


async def _knows_topics(world: World) -> bool:
    try:
        await world.service.positions.load_ends()
    except TransientFault:
        return False
    return True


async def open_due(open_world: Open, *resource_ids: str, **changes: object) -> World:
    """The same world when acme's case has just become due."""
    world = await open_debt(open_world, *resource_ids, **changes)
    world.move(GRACE_US / SECOND_US)
    return world


async def examine(world: World) -> None:
    """One pass over the due cases, after the pauses; each is looked at once."""
    await end_pauses(world)
    world.service.deletions.survey.forget()
    await world.service.deletions.examine_due()


async def end_pauses(world: World) -> None:
    await world.execute("update deletion_case set next_look_at = 'epoch'")
