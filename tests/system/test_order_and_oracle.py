"""The order of lifecycle events, written twice from one text: the services' and the oracle's place everything alike."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.metering.rules.history import Event
from shared import lifecycle_order
from shared.lifecycle_order import order_lifecycle
from tests.oracle.order import in_order
from tests.oracle.reading import Fact

IDLE = {"": "", "ends_no_run": "ends no run", "run_has_begun": "run has begun", "after_the_end": "after deletion"}

# Few instants, numbers, names and sources, so that they meet: restarts within one tick of the clock, clocks that step.
happenings = st.fixed_dictionaries(
    {
        "verb": st.sampled_from(["started", "stopped", "started", "stopped", "resized", "deleted"]),
        "time_us": st.integers(-1, 4),
        "sequence": st.none() | st.integers(0, 4),
        "run_id": st.sampled_from([None, None, "r1", "r2"]),
        "source": st.sampled_from(["a", "b"]),
    }
)
lives = st.lists(happenings, max_size=7)


def fact(number: int, made: dict[str, Any]) -> Fact:
    verb = made["verb"]
    named = made["run_id"] if verb in ("started", "stopped") else None
    return Fact(
        *(number, made["source"], f"e{number}", "container", verb, "vn", "ctr-1", "acme"),
        *(made["time_us"], made["sequence"], None, None, None, None, named),
    )


def event(made: Fact) -> Event:
    return Event(
        *(made.source, made.event_id, f"container.{made.verb}", made.time_us, made.sequence), run_id=made.run_id
    )


def place_both(made: list[dict[str, Any]], created_number: int | None, seed: int) -> tuple[list[Any], list[Any]]:
    """(instant, event, why it has no effect) by the services and by the oracle, of events that came in any order."""
    first = {"verb": "created", "source": "a", "time_us": 0, "sequence": created_number, "run_id": None}
    created, *others = (fact(number, item) for number, item in enumerate([first, *made]))
    came = [created, *others]
    random.Random(seed).shuffle(came)
    order = order_lifecycle([event(item) for item in came])
    placed = [(item.at_us, item.event.event_id, IDLE[item.effect]) for item in order.placed]
    steps = [(step.at_us, step.fact.event_id, step.idle) for step in in_order(created, others)]
    # In which order what comes after the end is listed costs nobody anything.
    ended = [number for number, item in enumerate(steps) if item[2] == "after deletion"]
    first_late = min(ended, default=len(steps))
    late = [sorted(name for _, name, _ in found[first_late:]) for found in (placed, steps)]
    return [*placed[:first_late], late[0]], [*steps[:first_late], late[1]]


@given(lives, st.none() | st.integers(0, 2), st.integers(0, 2**32))
@settings(max_examples=600)
def test_services_and_oracle_place_every_event_alike(
    made: list[dict[str, Any]], created_number: int | None, seed: int
) -> None:
    placed, steps = place_both(made, created_number, seed)
    assert placed == steps


def _no_clamp_of_named_stops(items: Any, _starts: Any) -> Any:
    return list(items), False


def _numbers_never_repeat(events: Any, *, one_chain: bool) -> Any:  # noqa: ARG001 - the signature of what it stands for
    return _ASSIGN(events, one_chain=True)


_ASSIGN = lifecycle_order._assign_times
PLANTS = {"_move_named_stops": _no_clamp_of_named_stops, "_assign_times": _numbers_never_repeat}


@pytest.mark.parametrize("name", PLANTS)
def test_a_bug_in_the_order_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle_order, name, PLANTS[name])
    draw = random.Random(1)

    def drawn() -> list[dict[str, Any]]:
        return [
            {
                "verb": draw.choice(["started", "stopped", "resized"]),
                "time_us": draw.randrange(4),
                "sequence": draw.choice([None, 1, 2, 3]),
                "run_id": draw.choice([None, "r1", "r2"]),
                "source": draw.choice("ab"),
            }
            for _ in range(6)
        ]

    differing = [seed for seed in range(300) if (pair := place_both(drawn(), None, seed))[0] != pair[1]]
    assert differing, f"{name} went unnoticed in 300 lives"
