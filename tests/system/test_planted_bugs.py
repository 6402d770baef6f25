"""The proof that the oracle sees: bugs switched on one at a time in a service process, each of them caught.

The same stories without a bug pass (here, and those of kills in test_kills.py). Bugs of the pure rules are planted in
test_rules_and_oracle.py.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.balance.rules import crossing
from shared.clock import MINUTE_US, SECOND_US
from tests.fleet.making import Fleet, make_fleet
from tests.system.checking import check_totals
from tests.system.cluster import Cluster
from tests.system.conftest import START_US, MakeCluster
from tests.system.failpoints import Kill, PlantBug
from tests.system.plants import PLANTS
from tests.system.plants_services import SERVICE_PLANTS

# How long a system with a bug gets to settle; a healthy one needs a second.
SETTLE_SECONDS = 12
STEPS = 6
PIECE = 20

Story = Callable[[Cluster, Fleet, tuple[PlantBug, ...]], None]


def publish_in_steps(cluster: Cluster, fleet: Fleet) -> None:
    """Events twice, some of them late, while the clock moves all the time: ticks and intake meet."""
    size = len(fleet.events) // STEPS + 1
    lines = fleet.lines()
    chunks = [lines[max(0, (step - 1) * size) : (step + 1) * size] for step in range(STEPS)]
    with ThreadPoolExecutor(1) as thread:
        for step, chunk in enumerate(chunks):
            sending = thread.submit(publish_bit_by_bit, cluster, chunk)
            moved_us = step * 10 * MINUTE_US
            while not sending.done() and moved_us < (step + 1) * 10 * MINUTE_US:
                moved_us += 6 * SECOND_US
                cluster.reach(START_US + moved_us)
                cluster.status("metering")
            sending.result()


def publish_bit_by_bit(cluster: Cluster, lines: list[str]) -> None:
    for first in range(0, len(lines), PIECE):
        cluster.publish(lines[first : first + PIECE])


def finish(cluster: Cluster, fleet: Fleet) -> None:
    cluster.reach(fleet.end_us)
    assert cluster.settle(SETTLE_SECONDS) == fleet.end_us
    check_totals(cluster, fleet, fleet.lines(), fleet.end_us)


def busy(cluster: Cluster, fleet: Fleet, bugs: tuple[PlantBug, ...]) -> None:
    """Metering as it lives every day."""
    cluster.start("metering", *bugs)
    for book in fleet.books:
        cluster.put_book(book)
    publish_in_steps(cluster, fleet)
    finish(cluster, fleet)


def killed_while_applying(cluster: Cluster, fleet: Fleet, bugs: tuple[PlantBug, ...]) -> None:
    """Metering dies with a poll half applied."""
    die_and_return(cluster, fleet, (*bugs, Kill("services.metering.store.resources:write_resources", "after")))


def killed_while_sending(cluster: Cluster, fleet: Fleet, bugs: tuple[PlantBug, ...]) -> None:
    """Metering dies before the broker has what it committed."""
    die_and_return(cluster, fleet, (*bugs, Kill("shared.outbox:Relay._send")))


def die_and_return(cluster: Cluster, fleet: Fleet, faults: tuple[PlantBug | Kill, ...]) -> None:
    cluster.start("metering")
    for book in fleet.books:
        cluster.put_book(book)
    cluster.settle()
    cluster.stop("metering")
    cluster.publish(fleet.lines())
    cluster.start("metering", *faults, wait=False)
    cluster.reach(START_US + 30 * MINUTE_US)
    cluster.wait_killed("metering")
    cluster.start("metering")
    finish(cluster, fleet)


def sent_twice(cluster: Cluster, fleet: Fleet, bugs: tuple[PlantBug, ...]) -> None:
    """The relay dies between acknowledgement and mark, and sends again what balance has posted."""
    cluster.start("metering")
    cluster.start("balance", *bugs)
    for book in fleet.books:
        cluster.put_book(book)
    cluster.publish(fleet.lines())
    cluster.settle(SETTLE_SECONDS)
    cluster.stop("metering")
    cluster.reach(START_US + 30 * MINUTE_US)
    cluster.start("metering", Kill("shared.outbox:Relay._mark"), wait=False)
    cluster.wait_killed("metering")
    cluster.start("metering")
    finish(cluster, fleet)


STORIES: dict[str, tuple[Story, tuple[str, ...]]] = {
    "no_shard_lock": (busy, ("metering",)),
    "stale_cache": (busy, ("metering",)),
    "corrections_up_to_now": (busy, ("metering",)),
    "corrections_without_lines": (busy, ("metering",)),
    "usage_is_not_deduplicated": (busy, ("metering",)),
    "float_rounding": (busy, ("metering",)),
    "offset_first": (killed_while_applying, ("metering",)),
    "cursor_before_acknowledgement": (killed_while_sending, ("metering",)),
    "clamped_balance": (sent_twice, ("metering", "balance")),
    "batches_are_posted_again": (sent_twice, ("metering", "balance")),
}


@pytest.mark.process
@pytest.mark.parametrize("name", STORIES)
def test_a_planted_bug_is_caught(name: str, make_cluster: MakeCluster) -> None:
    story, names = STORIES[name]
    cluster = make_cluster(names=names, shards=4, started=False)
    with pytest.raises(AssertionError, match=r"accounts differ|not in|two contents|has a gap|books are not in order"):
        story(cluster, make_fleet(51, START_US, hours=1), (PlantBug(name),))


@pytest.mark.process
@pytest.mark.parametrize("story", [busy, sent_twice])
def test_the_same_story_without_a_bug_is_right(story: Story, make_cluster: MakeCluster) -> None:
    names = ("metering", "balance") if story is sent_twice else ("metering",)
    story(make_cluster(names=names, shards=4, started=False), make_fleet(51, START_US, hours=1), ())


def test_every_plant_has_its_catcher() -> None:
    assert set(SERVICE_PLANTS) <= {*STORIES, "netted_crossings"}
    assert len(PLANTS) >= 12


def walk(balance_micros: int, deltas: list[int]) -> list[str]:
    """What must be told of an account that starts above zero, one entry after another."""
    told: list[str] = []
    for delta in deltas:
        before, balance_micros = balance_micros, balance_micros + delta
        if before > 0 >= balance_micros or (before < 0 and balance_micros == 0):
            told.append("account.exhausted")
        if before >= 0 > balance_micros or before < balance_micros < 0:
            told.append("account.negative")
        if before <= 0 < balance_micros:
            told.append("account.recovered")
    return told


def tell(balance_micros: int, deltas: list[int]) -> list[str]:
    """What balance's rules tell, two entries to a posting, one posting a second."""
    standing = crossing.Standing("ok", balance_micros)
    told: list[str] = []
    for number, first in enumerate(range(0, len(deltas), 2)):
        movements = [crossing.Movement(delta) for delta in deltas[first : first + 2]]
        standing, events = crossing.cross(standing, movements, 0, number * SECOND_US, low_cooldown_us=0)
        told += [event.type for event in events]
    return told


DELTAS = st.lists(st.sampled_from([-30, -20, -10, 15, 40]), max_size=12)


@given(st.integers(1, 30), DELTAS)
def test_crossings_are_told_entry_by_entry(balance_micros: int, deltas: list[int]) -> None:
    told, expected = tell(balance_micros, deltas), walk(balance_micros, deltas)
    # A grace period that begins and is begun anew at one instant is told once.
    assert [kind for kind in told if kind != "account.negative"] == [k for k in expected if k != "account.negative"]
    assert told.count("account.negative") <= expected.count("account.negative")


def test_netted_crossings_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tell(5, [-10, 20]) == walk(5, [-10, 20]) == ["account.exhausted", "account.negative", "account.recovered"]
    PLANTS["netted_crossings"](monkeypatch.setattr)
    assert tell(5, [-10, 20]) != walk(5, [-10, 20])
