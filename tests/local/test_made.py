"""A home is started with what it was made with, or the person is told what would change and what to do."""

import json
from pathlib import Path

import pytest

from deploy.local.environment import REGIONS, apply_demo
from deploy.local.faults import StackError
from deploy.local.made import find_changes, require_as_made
from deploy.local.processes import identify
from deploy.local.services import Service
from deploy.local.settings import LocalSettings
from deploy.local.stack import require_twin_down
from deploy.local.state import Home, ServiceState, StackState, find_home

PLAIN = {"TOLLKEEPER_REGIONS": json.dumps(REGIONS), "TOLLKEEPER_SHARDS": "16", "TOLLKEEPER_RUNTIME": "plan"}
DEMO = apply_demo({}) | {"TOLLKEEPER_SHARDS": "16", "TOLLKEEPER_RUNTIME": "simulator"}


def with_region(**settings: object) -> dict[str, str]:
    return {"TOLLKEEPER_REGIONS": json.dumps(REGIONS | {"vn": REGIONS["vn"] | settings})}


def refuse(remembered: dict[str, str], wanted: dict[str, str], *, change: bool = False, demo: bool = False) -> str:
    with pytest.raises(StackError) as refused:
        require_as_made(Path("/home/of/it"), remembered, wanted, change_settings=change, demo=demo)
    return str(refused.value)


def test_a_new_home_and_one_that_stays_as_it_was_made_start() -> None:
    for remembered, wanted in (({}, DEMO), (PLAIN, {}), (PLAIN, PLAIN), (DEMO, apply_demo({}))):
        assert find_changes(remembered, wanted) == []
    assert find_changes(PLAIN, PLAIN | {"TOLLKEEPER_TICK_SECONDS": "60"}) == []


def test_a_region_may_come_to_the_others_and_none_may_go() -> None:
    more = {"TOLLKEEPER_REGIONS": json.dumps(REGIONS | {"us": REGIONS["vn"] | {"currency": "USD"}})}
    assert find_changes(PLAIN, more) == []
    assert "region us was USD, would be gone" in refuse(more, PLAIN, change=True)


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (with_region(currency="USD"), "vn's currency was VND, would be USD"),
        (with_region(opened_at="2021-01-01T00:00:00Z"), "vn's opened_at was 2020-01-01T00:00:00Z, would be 2021-"),
        ({"TOLLKEEPER_SHARDS": "8"}, "the number of shards was 16, would be 8"),
    ],
)
def test_what_its_data_holds_for_good_never_changes(wanted: dict[str, str], told: str) -> None:
    for change in (False, True):
        message = refuse(PLAIN, wanted, change=change)
        assert "/home/of/it was made with other settings" in message
        assert told in message
        assert "set TOLLKEEPER_HOME" in message
        assert "--change-settings" not in message


def test_what_holds_for_what_comes_changes_only_if_it_is_meant() -> None:
    wanted = with_region(slot_seconds=10, grace_seconds=60)
    message = refuse(PLAIN, wanted)
    assert "vn's slot_seconds was 60, would be 10" in message
    assert "vn's grace_seconds was 86400, would be 60" in message
    assert "--change-settings" in message
    require_as_made(Path("/home/of/it"), PLAIN, wanted, change_settings=True, demo=False)
    assert "currency" in refuse(PLAIN, with_region(slot_seconds=10, currency="USD"), change=True)


def test_the_demos_home_says_how_it_is_started() -> None:
    message = refuse(DEMO, PLAIN, demo=False)
    assert "It was made with the demo, whose settings are short: start it with `tollkeeper up`, or" in message
    message = refuse(PLAIN, DEMO, demo=True)
    assert "start it with `tollkeeper up --no-demo`, or" in message


def test_regions_that_make_no_sense_are_told() -> None:
    for text in ("vn", '{"vn": {"currency": "dong"}}'):
        assert "TOLLKEEPER_REGIONS makes no sense" in refuse(PLAIN, {"TOLLKEEPER_REGIONS": text})


def test_a_stack_beside_the_demo_is_named_where_it_has_the_ports(tmp_path: Path) -> None:
    demo = Home(tmp_path / ".tollkeeper-demo")
    demo.path.mkdir()
    identity = identify(1)
    assert identity is not None
    demo.write_state(StackState(identity, "ready", services={"metering": ServiceState(None, 4711, "log")}))
    services = (Service("metering", "tests.local.fake_service", 4711),)
    with pytest.raises(StackError, match=r"a stack runs on .*/\.tollkeeper-demo \(process 1\).*`tollkeeper down`"):
        require_twin_down(Home(tmp_path / ".tollkeeper"), {}, services)
    require_twin_down(Home(tmp_path / ".tollkeeper"), {"TOLLKEEPER_METERING_PORT": "4712"}, services)
    require_twin_down(Home(tmp_path / "elsewhere"), {}, services)
    require_twin_down(demo, {}, services)


def test_the_demo_has_a_home_of_its_own_where_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain, demo = LocalSettings.read({}).home, LocalSettings.read({}, demo=True).home
    assert (plain.name, demo.name) == (".tollkeeper", ".tollkeeper-demo")
    named = {"TOLLKEEPER_HOME": str(tmp_path / "mine")}
    assert LocalSettings.read(named, demo=True).home == LocalSettings.read(named).home == find_home(named).path
    # Without a name, commands mean the one on which something runs.
    assert find_home({}).path == plain
    identity = identify(1)
    assert identity is not None
    for home in (demo, plain):
        home.mkdir()
        Home(home).write_state(StackState(identity, "ready"))
        assert find_home({}).path == home
