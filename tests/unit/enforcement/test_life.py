"""What enforcement keeps of a resource's events leads to the run that the shared order says, however they came."""

import random

from hypothesis import example, given
from hypothesis import strategies as st

from services.enforcement.rules.lifecycle import FACTS_KEPT, FACTS_MAX, Fact, FactKey, Life, RunKey, learn_fact
from services.enforcement.store.resources import decode_life, encode_life
from shared.lifecycle_order import order_lifecycle

VERBS = ("started", "stopped", "resized", "deleted")
FACTS = st.builds(
    Fact,
    st.sampled_from(VERBS + VERBS[:2] * 3),
    st.integers(0, 8),
    st.sampled_from(["a", "b"]),
    st.integers(0, 30).map(str),
    st.none() | st.integers(0, 9),
    st.none() | st.sampled_from(["r1", "r2"]),
)
CREATED = Fact("created", 0, "a", "created", None)


def lead(facts: list[Fact]) -> Life:
    life = Life()
    for fact in facts:
        life = learn_fact(life, fact)
    return life


@given(st.lists(FACTS, max_size=12, unique_by=lambda fact: fact.key), st.randoms(use_true_random=False))
@example([Fact("started", 6, "a", "1", 2), Fact("stopped", 3, "a", "2", 3)], random.Random(0))
def test_the_run_is_the_shared_orders_whatever_the_arrival(facts: list[Fact], chance: random.Random) -> None:
    facts = [CREATED, *facts]
    running = order_lifecycle(facts).running
    expected = None if running is None else RunKey(*running.key)
    arrivals = [*facts, *chance.sample(facts, len(facts) // 2)]
    chance.shuffle(arrivals)
    life = lead(arrivals)
    assert (life.running, life.created) == (expected, True)
    assert decode_life(encode_life(life)) == life


@given(
    st.lists(FACTS, min_size=1, max_size=10, unique_by=lambda fact: fact.key),
    st.data(),
    st.randoms(use_true_random=False),
)
def test_amended_facts_were_never_there_whatever_the_arrival(
    facts: list[Fact], data: st.DataObject, chance: random.Random
) -> None:
    wrong = data.draw(st.sampled_from(facts))
    mended = data.draw(st.none() | FACTS)
    amendment = (
        Fact("retracted", 9, "ops", "amendment", replaces=wrong.key)
        if mended is None
        else Fact(mended.verb, mended.time_us, "ops", "amendment", mended.sequence, mended.run_id, wrong.key)
    )
    left = [CREATED, *(fact for fact in facts if fact != wrong), *([] if mended is None else [amendment])]
    running = order_lifecycle(left).running
    arrivals = [CREATED, *facts, amendment, wrong]
    chance.shuffle(arrivals)
    life = lead(arrivals)
    assert life.running == (None if running is None else RunKey(*running.key))
    assert decode_life(encode_life(life)) == life


def test_what_is_replaced_is_not_replaced_again() -> None:
    start = Fact("started", 1, "a", "1")
    retraction = Fact("retracted", 2, "a", "2", replaces=start.key)
    life = lead([CREATED, start, retraction])
    again = learn_fact(life, Fact("started", 5, "a", "3", replaces=start.key))
    assert (again, life.is_disputed, again.is_disputed) == (life, False, True), "metering may have heard it first"
    assert life.running is None


def test_a_replacement_that_is_replaced_itself_still_takes_out_what_it_replaced() -> None:
    first = Fact("started", 1, "a", "1")
    second = Fact("started", 2, "a", "2", replaces=first.key)
    third = Fact("retracted", 3, "a", "3", replaces=second.key)
    assert lead([CREATED, third, second, first]).running is None
    assert lead([CREATED, first, second, third]).running is None


def test_a_second_creation_changes_nothing_and_a_replaced_one_takes_its_place() -> None:
    life = lead([CREATED, Fact("created", 5, "b", "again")])
    assert [fact.key for fact in life.facts] == [CREATED.key]
    mended = learn_fact(life, Fact("created", 5, "b", "mended", replaces=CREATED.key))
    assert [fact.event_id for fact in mended.facts] == ["mended"]
    # Metering refuses what takes a creation out without another one, whichever comes first.
    refused = Fact("retracted", 5, "b", "no", replaces=CREATED.key)
    assert learn_fact(life, refused) == life
    assert lead([refused, CREATED]).facts == (CREATED,)


@given(st.integers(0, 3), st.booleans())
def test_a_life_of_any_length_is_kept_in_a_bounded_row(extra: int, is_resized_in_the_end: bool) -> None:  # noqa: FBT001
    """Thousands of runs: what is kept leads to the same run, also when what was folded comes again."""
    facts = [CREATED]
    facts += [
        Fact("started" if number % 2 else "stopped", number, "a", str(number), number)
        for number in range(1, 3 * FACTS_MAX + extra)
    ]
    if is_resized_in_the_end:
        facts += [Fact("resized", 10_000 + number, "a", f"resize-{number}", 10_000 + number) for number in range(200)]
    life = lead(facts)
    running = order_lifecycle(facts).running
    expected = None if running is None else RunKey(*running.key)
    assert FACTS_KEPT <= len(life.facts) <= FACTS_MAX
    assert life.running == expected
    assert lead([*facts, *facts[: 2 * FACTS_MAX]]).running == expected


@given(st.integers(1, 120), st.integers(60, 110), st.randoms(use_true_random=False))
def test_what_is_folded_forgets_no_number_that_two_sources_used(more: int, before: int, chance: random.Random) -> None:
    """A second source counts from the beginning again: each has an order of its own, for good."""
    facts = [CREATED]
    for source, first_us, count in (("a", 0, before), ("b", 1000, more)):
        facts += [
            Fact("started" if number % 2 else "stopped", first_us + number, source, str(number), number)
            for number in range(1, count + 1)
        ]
    arrivals = [CREATED, *facts[1:]]
    if chance.random() < 0.5:
        # A little out of order, as partitions are.
        for place in range(1, len(arrivals) - 3, 3):
            arrivals[place], arrivals[place + 2] = arrivals[place + 2], arrivals[place]
    life = Life()
    for arrived, fact in enumerate(arrivals, start=1):
        life = learn_fact(life, fact)
        if arrived == len(arrivals):
            running = order_lifecycle(arrivals).running
            assert life.running == (None if running is None else RunKey(*running.key))
            assert life.order.sequences_conflict == order_lifecycle(arrivals).sequences_conflict


def test_the_key_of_a_fact_is_its_event() -> None:
    assert CREATED.key == FactKey("a", "created")
