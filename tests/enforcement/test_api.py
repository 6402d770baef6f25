"""What an operator sees over HTTP and in the metrics."""

from typing import Any

import httpx
from prometheus_client import REGISTRY

from services.enforcement.api import create_routes
from services.enforcement.app.gauges import refresh_gauges
from shared.clock import HOUR_US, format_instant
from shared.http import create_api
from tests.enforcement.conftest import START_US, Open
from tests.enforcement.debt import GRACE_US, examine, open_due
from tests.enforcement.world import ACME, World, account, happened


async def get(world: World, path: str, *, status: int = 200) -> Any:
    api = create_api("Enforcement", readiness=dict)
    api.include_router(create_routes(world.service))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://enforcement") as client:
        answer = await client.get(path)
    assert answer.status_code == status, answer.text
    return answer.json()


def gauge(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"tollkeeper_enforcement_{name}", labels)


async def test_the_status_names_the_oldest_stop_and_why_cases_are_frozen(open_world: Open) -> None:
    world = await open_due(open_world, "ctr-1")
    other = ACME._replace(tenant_id="other")
    asked_us = world.clock.now_us()
    await world.learn(
        happened("created", "ctr-9", START_US, key=other),
        happened("started", "ctr-9", START_US, key=other),
        account("exhausted", 2, key=other),
    )
    world.balance.refuse_permits = True
    await examine(world)
    world.move(3600)
    await world.send_due_stops()

    status = await get(world, "/v1/status")
    assert status["stops"] == {
        "open": 1,
        "unsent": 0,
        "oldest_requested_at": format_instant(asked_us),
        "attempts_max": 2,
    }
    reason = "permit-refused: the account is not to be deleted"
    due_at = format_instant(START_US + GRACE_US)
    assert status["deletions"] == {
        "halts": [],
        "cases": {"frozen": 1},
        "overdue": 0,
        "oldest_overdue_at": None,
        "unconfirmed": 0,
        "frozen": [{"reason": reason, "cases": 1, "oldest_due_at": due_at}],
    }
    await refresh_gauges(world.service.pool, world.clock.now_us())
    assert gauge("oldest_open_stop_seconds") == 3600
    assert gauge("open_stops") == 1
    assert gauge("deletion_cases", state="frozen") == 1
    assert gauge("deletions_halted") == 0


async def test_a_case_that_waits_for_balance_is_seen_as_overdue(open_world: Open) -> None:
    world = await open_due(open_world, "ctr-1")
    world.balance.down = True
    await examine(world)
    world.move(HOUR_US // 1_000_000)
    deletions = (await get(world, "/v1/status"))["deletions"]
    assert (deletions["overdue"], deletions["oldest_overdue_at"]) == (1, format_instant(START_US + GRACE_US))
    await refresh_gauges(world.service.pool, world.clock.now_us())
    assert gauge("oldest_overdue_case_seconds") == 3600


async def test_commands_that_nobody_confirms_are_counted(open_world: Open) -> None:
    world = await open_due(open_world, "ctr-1", "ctr-2")
    await examine(world)
    await world.learn(happened("deleted", "ctr-1", world.clock.now_us()))
    assert (await get(world, "/v1/status"))["deletions"]["unconfirmed"] == 1


async def test_cases_are_listed_by_state_and_by_account(open_world: Open) -> None:
    world = await open_due(open_world, "ctr-1", runtime="plan")
    await examine(world)
    [plan] = (await get(world, "/v1/deletion-cases?state=plan"))["deletion_cases"]
    assert plan["targets"][0]["resource_id"] == "ctr-1"
    assert (await get(world, "/v1/deletion-cases?state=frozen"))["deletion_cases"] == []
    assert (await get(world, "/v1/deletion-cases/vn/acme"))["deletion_cases"] == [plan]
    await get(world, "/v1/deletion-cases/vn/nobody", status=404)
