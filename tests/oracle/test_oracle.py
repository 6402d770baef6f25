"""The oracle is itself checked: against sums done by hand, against every single slot, and against every instant."""

import ast
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle.accounts import answer, differences
from tests.oracle.instants import instant
from tests.oracle.lives import FOREVER_US, Life, Piece
from tests.oracle.prices import Prices, Rate, micros
from tests.oracle.slots import KINDS, Grid, add_up, by_the_block, by_the_slot

T0 = "2026-01-01T00:00:00Z"
REGIONS = {
    "vn": {"currency": "VND", "slot_seconds": 60, "opened_at": "2020-01-01T00:00:00Z"},
    "jp": {"currency": "JPY", "slot_seconds": 1, "opened_at": "2020-01-01T00:00:00Z"},
}
BOOK: dict[str, Any] = {
    "region": "vn",
    "effective_from": "2025-01-01T00:00:00Z",
    "gpu": {"h100": "2.54", "a30": "0.67"},
    "storage": {"persistent": "0.00013"},
    "services": {"tokens": {"unit": "1000-tokens", "price": "0.0004"}},
}


def line(kind: str, time: str, event_id: str, subject: str = "ctr-1", tenant: str = "acme", **data: object) -> str:
    body = {"specversion": "1.0", "id": event_id, "source": "platform/vn", "type": kind, "subject": subject}
    return json.dumps({**body, "time": time, "data": {"region": "vn", "tenant_id": tenant, **data}})


def charged(lines: list[str], through: str, books: list[dict[str, Any]] | None = None) -> dict[str, int]:
    found = answer(lines, [BOOK] if books is None else books, REGIONS, instant(through))
    return found.micros.get(("vn", "acme"), {})


CREATED = line("container.created", T0, "1", gpu_sku="h100", gpu_count=2, persistent_storage_gb=500)


def test_an_hour_costs_exactly_its_price() -> None:
    started = line("container.started", T0, "2")
    assert charged([CREATED, started], "2026-01-01T01:00:00Z") == {"gpu": 5_080_000, "storage": 65_000}


def test_what_has_begun_is_due_and_stopped_storage_is_charged() -> None:
    started = line("container.started", "2026-01-01T00:00:30Z", "2")
    stopped = line("container.stopped", "2026-01-01T00:00:40Z", "3")
    assert charged([CREATED, started, stopped], "2026-01-01T00:00:20Z") == {"storage": 65_000 // 60}
    assert charged([CREATED, started, stopped], "2026-01-01T00:00:30Z") == {"storage": 65_000 // 60}
    assert charged([CREATED, started, stopped], "2026-01-01T00:00:30.000001Z") == {
        "gpu": 5_080_000 // 60,
        "storage": 65_000 // 60,
    }
    assert charged([CREATED, started, stopped], "2026-01-01T00:01:00.000001Z") == {
        "gpu": 5_080_000 // 60,
        "storage": 65_000 * 2 // 60,
    }


def test_ten_restarts_within_a_slot_cost_one_slot_at_the_dearest_configuration() -> None:
    lines = [CREATED]
    for second in range(0, 50, 5):
        lines.append(line("container.started", f"2026-01-01T00:00:{second:02d}Z", f"s{second}"))
        lines.append(line("container.stopped", f"2026-01-01T00:00:{second + 2:02d}Z", f"p{second}"))
    lines.append(line("container.resized", "2026-01-01T00:00:23Z", "r1", gpu_count=4))
    lines.append(line("container.resized", "2026-01-01T00:00:28Z", "r2", gpu_count=1))
    assert charged(lines, "2026-01-01T00:05:00Z")["gpu"] == 4 * 2_540_000 // 60


def test_k_restarts_when_a_value_changes_and_not_when_a_book_repeats_it() -> None:
    lines = [CREATED, line("container.started", T0, "2")]
    repeated = {**BOOK, "effective_from": "2026-01-01T00:01:00Z"}
    changed = {**BOOK, "effective_from": "2026-01-01T00:01:00Z", "gpu": {"h100": "2.55"}}
    assert charged(lines, "2026-01-01T00:02:00Z", [BOOK, repeated])["gpu"] == 5_080_000 * 2 // 60
    assert charged(lines, "2026-01-01T00:02:00Z", [BOOK, changed])["gpu"] == 5_080_000 // 60 + 5_100_000 // 60


def test_order_is_the_producers_sequence_where_all_have_one() -> None:
    created = line("container.created", T0, "1", gpu_sku="a30", gpu_count=1, sequence=1)
    started = line("container.started", "2026-01-01T00:10:00Z", "2", sequence=2)
    stopped = line("container.stopped", "2026-01-01T00:05:00Z", "3", sequence=3)
    assert charged([stopped, started, created], "2026-01-01T01:00:00Z") == {}
    unordered = line("container.stopped", "2026-01-01T00:05:00Z", "3")
    assert charged([unordered, started, created], "2026-01-01T01:00:00Z") == {"gpu": 670_000 * 50 // 60}


def test_what_comes_before_creation_is_clamped_and_after_deletion_changes_nothing() -> None:
    early = line("container.started", "2025-12-31T23:00:00Z", "2")
    deleted = line("container.deleted", "2026-01-01T00:10:00Z", "3")
    late = line("container.deleted", "2026-01-01T00:30:00Z", "4")
    again = line("container.started", "2026-01-01T00:20:00Z", "5")
    found = answer([late, again, early, deleted, CREATED], [BOOK], REGIONS, instant("2026-01-01T01:00:00Z"))
    assert found.micros["vn", "acme"] == {"gpu": 5_080_000 // 6, "storage": 65_000 // 6}
    assert sorted(item.reason for item in found.left_out) == ["after deletion", "after deletion"]


def test_usage_is_rounded_over_its_sum() -> None:
    def usage(event_id: str, quantity: int) -> str:
        span: dict[str, Any] = {"sku": "tokens", "quantity": quantity, "from": T0, "to": T0}
        return line("service.usage", T0, event_id, **span)

    assert charged([usage(str(n), 1) for n in range(10)], T0) == {"tokens": 4}
    found = answer([usage("1", 5), usage("1", 5), usage("1", 6)], [BOOK], REGIONS, instant(T0))
    assert found.micros["vn", "acme"] == {"tokens": 2}
    assert [(item.line, item.reason) for item in found.left_out] == [(3, "conflict: same id, other content")]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "no CloudEvent"),
        (line("container.exploded", T0, "9"), "unknown type"),
        (CREATED.replace('"vn"', '"xx"'), "unknown region"),
        (CREATED.replace("500", "-500"), "persistent_storage_gb is no whole number of at least 0"),
        (line("container.stopped", "2019-12-31T00:00:00Z", "9"), "before the region opened"),
        (line("container.stopped", "2199-01-01T00:00:00Z", "9"), "in the future"),
        (line("container.stopped", "1970-01-01T00:00:00Z", "9"), "time is not between the years 2000 and 2200"),
        (line("container.stopped", "3000-01-01T00:00:00Z", "9"), "time is not between the years 2000 and 2200"),
        ('{"id": 1, "id": 2}', "duplicate key"),
        (line("container.stopped", T0, "9", labels={"x": "\0"}), "null character"),
        (line("container.created", T0, "9", gpu_count=0), "conflict: second creation"),
        (line("container.stopped", T0, "9", tenant="other"), "conflict: other tenant"),
        (line("volume.deleted", T0, "9"), "conflict: other family"),
        (line("container.stopped", T0, "9", subject="ctr-2"), "pending: never created"),
        (line("container.stopped", T0, "1"), "conflict: same id, other content"),
        (line("container.stopped", T0, "9", labels={"x": "y" * 300_000}), "too large"),
    ],
)
def test_bad_lines_charge_nothing_and_are_named(bad: str, reason: str) -> None:
    lines = [CREATED, line("container.started", T0, "2"), bad]
    found = answer(lines, [BOOK], REGIONS, instant("2026-01-01T01:00:00Z"))
    assert found.micros == {("vn", "acme"): {"gpu": 5_080_000, "storage": 65_000}}
    assert [(item.line, item.reason) for item in found.left_out] == [(3, reason)]


def test_an_unknown_sku_is_reported_as_unpriced() -> None:
    created = line("container.created", T0, "1", gpu_sku="h9000", gpu_count=1)
    found = answer([created, line("container.started", T0, "2")], [BOOK], REGIONS, instant("2026-01-01T01:00:00Z"))
    assert found.micros == {}
    assert found.unpriced == {("vn", "gpu", "h9000"): 1}


def test_unconfirmed_slots_and_commanded_deletions_are_free() -> None:
    regions = {"vn": {**REGIONS["vn"], "declares_inventory": True, "inventory_bound_seconds": 1800}}
    resources = [{"resource_id": "ctr-1", "tenant_id": "acme", "state": "running"}]
    body = {"specversion": "1.0", "id": "i1", "source": "platform/vn", "type": "inventory.observed"}
    data = {"region": "vn", "snapshot": "s1", "page": 1, "pages": 1, "resources": resources}
    listing = json.dumps({**body, "time": "2026-01-01T00:10:00Z", "data": data})
    through = instant("2026-01-02T00:00:00Z")
    lines = [CREATED, line("container.started", T0, "2")]
    assert answer(lines, [BOOK], regions, through).micros["vn", "acme"]["gpu"] == 5_080_000 * 30 // 60
    assert answer([*lines, listing], [BOOK], regions, through).micros["vn", "acme"]["gpu"] == 5_080_000 * 40 // 60
    commanded = {("vn", "ctr-1"): instant("2026-01-01T00:06:00Z")}
    found = answer(lines, [BOOK], REGIONS, through, commanded=commanded)
    assert found.micros["vn", "acme"]["gpu"] == 5_080_000 * 6 // 60


def test_differences_name_the_account_and_both_balances() -> None:
    a, b, c = ("vn", "a"), ("vn", "b"), ("vn", "c")
    assert differences({a: 5, b: 7}, {a: -5, b: 3}, {b: 10}) == []
    assert differences({a: 5, b: 7}, {a: -4, c: 1}, {b: 10}) == [(a, -5, -4), (b, 3, None), (c, 0, 1)]


def test_prices_are_read_exactly() -> None:
    assert micros("2.54") == 2_540_000
    assert micros("0.00013") == 130
    with pytest.raises(ValueError, match="below a millionth"):
        micros("0.0000001")
    assert instant("2026-11-01T08:00:05+07:00") == instant("2026-11-01T01:00:05.0Z")


SKUS = ("a", "b", "unpriced")


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """A life of a few hundred short slots with everything in it: gaps, resizes, empty pieces, prices that change."""
    slot_us = draw(st.sampled_from([1, 2, 3, 7])) * 1_000_000
    created_us = draw(st.integers(0, 5)) * 500_000
    cuts = sorted(draw(st.sets(st.integers(1, 60), max_size=8)))
    edges = [created_us, *(created_us + cut * 500_000 for cut in cuts), FOREVER_US]
    pieces = tuple(
        Piece(
            from_us,
            to_us,
            draw(st.booleans()),
            draw(st.sampled_from([*SKUS, None])),
            draw(st.integers(0, 3)),
            draw(st.integers(0, 2)),
        )
        for from_us, to_us in itertools.pairwise(edges)
    )
    end_us = draw(st.sampled_from([FOREVER_US, *edges]))
    changes = st.lists(
        st.tuples(st.integers(0, 70).map(lambda half: half * 500_000), st.integers(0, 4000)), min_size=1, max_size=4
    )
    prices = Prices()
    for kind, sku in (("gpu", "a"), ("gpu", "b"), ("storage", "persistent")):
        prices.changes["vn", kind, sku] = [(at, Rate(price)) for at, price in draw(changes)]
    through_us = created_us + draw(st.integers(-2, 80)) * 500_000
    unconfirmed_us = draw(st.none() | st.integers(0, 70).map(lambda half: half * 500_000))
    return Grid(Life("vn", "t", "r", created_us, end_us, pieces), prices, slot_us, through_us, unconfirmed_us)


@given(grids())
@settings(max_examples=300)
def test_blocks_are_the_same_as_slots(grid: Grid) -> None:
    for kind in KINDS:
        slots = [value for value, _ in by_the_slot(grid, kind)]
        blocks = [value for value, count in by_the_block(grid, kind) for _ in range(count)]
        assert blocks == slots
        assert add_up(by_the_block(grid, kind), grid.slot_us) == add_up(by_the_slot(grid, kind), grid.slot_us)


@given(grids())
@settings(max_examples=200)
def test_slots_are_the_same_as_looking_at_every_instant(grid: Grid) -> None:
    """Everything in these lives happens at half seconds: what holds at each of them, holds until the next."""
    last_us = min(grid.through_us, grid.life.end_us)
    slots: dict[int, list[Piece]] = {}
    for at_us in range(grid.life.created_us, last_us, 500_000):
        now = [piece for piece in grid.life.pieces if piece.from_us <= at_us < piece.to_us]
        slots.setdefault((at_us - grid.life.created_us) // grid.slot_us, []).extend(now)
    assert grid.count() == len(slots)
    for slot, pieces in slots.items():
        start_us = grid.start(slot)
        confirmed = grid.unconfirmed_us is None or start_us < grid.unconfirmed_us
        ran = [piece for piece in pieces if piece.running and piece.gpu_sku in {"a", "b"} and piece.gpu_count]
        costs = [
            (rate.price_micros * piece.gpu_count, position, piece)
            for position, piece in enumerate(ran)
            if (rate := grid.prices.at("vn", "gpu", str(piece.gpu_sku), start_us)) is not None
        ]
        value = grid.value("gpu", slot)
        if not costs or not confirmed:
            assert value is None
        else:
            cost, _, dearest = max(costs, key=lambda item: item[:2])
            assert value == (dearest.gpu_sku, dearest.gpu_count, cost // dearest.gpu_count)


def test_the_oracle_imports_only_the_standard_library() -> None:
    for path in Path(__file__).parent.glob("*.py"):
        if path.name.startswith("test_"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] in sys.stdlib_module_names or name.startswith("tests.oracle"), (path, name)


def test_the_command_compares_balances(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("\n".join([CREATED, line("container.started", T0, "2")]))
    (tmp_path / "prices.json").write_text(json.dumps(BOOK))
    (tmp_path / "regions.json").write_text(json.dumps(REGIONS))
    (tmp_path / "credits.json").write_text(json.dumps({"vn/acme": 6_000_000}))
    command = [
        sys.executable,
        "-m",
        "tests.oracle",
        str(tmp_path / "events.jsonl"),
        "--through",
        "2026-01-01T01:00:00Z",
    ]
    for name in ("prices", "regions", "credits", "balances"):
        command += [f"--{name}", str(tmp_path / f"{name}.json")]
    for balance, code in ((6_000_000 - 5_145_000, 0), (6_000_000 - 5_145_001, 1)):
        (tmp_path / "balances.json").write_text(json.dumps({"vn/acme": balance}))
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
        assert done.returncode == code, done.stderr
        assert ("vn/acme: must be 855000, is 854999" in done.stderr) == (code == 1)


A30 = line("container.created", T0, "1", gpu_sku="a30", gpu_count=1)


def minutes(found: dict[str, int]) -> float:
    return found.get("gpu", 0) * 60 / 670_000


def test_a_restart_within_one_tick_of_the_clock_goes_on_running() -> None:
    second = "2026-01-01T00:10:00Z"
    for verbs in (("stopped", "started"), ("started", "stopped")):
        lines = [A30, line("container.started", T0, "2")]
        lines += [line(f"container.{verb}", second, f"z{number}") for number, verb in enumerate(verbs)]
        assert round(minutes(charged(lines, "2026-01-01T01:00:00Z"))) == 60
    # Not running: started, then stopped at once, which is no time.
    lines = [A30, line("container.stopped", second, "a"), line("container.started", second, "b")]
    assert charged(lines, "2026-01-01T01:00:00Z") == {}


def test_a_stop_that_names_its_run_ends_it_whatever_its_clock_says() -> None:
    started = line("container.started", "2026-01-01T00:10:00Z", "2", run_id="r1")
    stopped = line("container.stopped", "2026-01-01T00:05:00Z", "3", run_id="r1")
    other = line("container.stopped", "2026-01-01T00:20:00Z", "4", run_id="r2")
    through = "2026-01-01T01:00:00Z"
    assert round(minutes(charged([A30, started, other], through))) == 50
    assert round(minutes(charged([stopped, A30, other, started], through))) == 0


def test_numbers_count_where_they_are_and_move_no_other() -> None:
    started = line("container.started", "2026-01-01T00:10:00Z", "2", sequence=1)
    stopped = line("container.stopped", "2026-01-01T00:05:00Z", "3", sequence=2)
    without = line("container.resized", "2026-01-01T00:02:00Z", "4", gpu_count=1)
    assert round(minutes(charged([A30, without, stopped, started], "2026-01-01T01:00:00Z"))) == 0
    # Two sources that number for themselves: each is a chain of its own.
    again = line("container.started", "2026-01-01T00:30:00Z", "5", sequence=2)
    agent = json.dumps({**json.loads(again), "source": "agent"})
    assert round(minutes(charged([A30, stopped, started, agent], "2026-01-01T01:00:00Z"))) == 30


def replacing(event: str, event_id: str, source: str = "platform/vn") -> str:
    body = json.loads(event)
    body["data"]["replaces"] = {"source": source, "id": event_id}
    return json.dumps(body)


def test_an_event_is_replaced_by_another_and_taken_out_by_a_retraction() -> None:
    through = "2026-01-01T01:00:00Z"
    lines = [A30, line("container.started", T0, "2"), line("container.stopped", "2026-01-01T00:30:00Z", "3")]
    earlier = replacing(line("container.stopped", "2026-01-01T00:20:00Z", "4"), "3")
    again = replacing(line("container.stopped", "2026-01-01T00:25:00Z", "5"), "4")
    retracted = replacing(line("event.retracted", through, "6"), "5")
    for amendments, expected in (([], 30), ([earlier], 20), ([earlier, again], 25), ([earlier, again, retracted], 60)):
        for order in itertools.permutations([*lines, *amendments]):
            assert round(minutes(charged(list(order), through))) == expected
    twice = answer([*lines, earlier, replacing(again, "3")], [BOOK], REGIONS, instant(through))
    assert [item.reason for item in twice.left_out] == ["conflict: already replaced"]
    bigger = replacing(line("container.created", T0, "7", gpu_sku="a30", gpu_count=2), "1")
    assert round(minutes(charged([*lines, bigger], through))) == 60
    nothing = answer([*lines, replacing(line("event.retracted", T0, "8"), "1")], [BOOK], REGIONS, instant(through))
    assert [item.reason for item in nothing.left_out] == ["conflict: only a creation replaces a creation"]


def test_usage_is_replaced_and_retracted() -> None:
    def usage(event_id: str, quantity: int, tenant: str = "acme") -> str:
        span: dict[str, Any] = {"sku": "tokens", "quantity": quantity, "from": T0, "to": T0}
        body = json.loads(line("service.usage", T0, event_id, tenant=tenant, **span))
        del body["subject"]
        return json.dumps(body)

    retraction = json.loads(line("event.retracted", T0, "9"))
    del retraction["subject"]
    taken_back = replacing(json.dumps(retraction), "u2")
    more = replacing(usage("u2", 50_000), "u1")
    assert charged([usage("u1", 10_000), more], T0) == {"tokens": 20_000}
    assert charged([taken_back, more, usage("u1", 10_000)], T0) == {}
    stolen = replacing(usage("u3", 1, tenant="other"), "u1")
    found = answer([usage("u1", 10_000), stolen], [BOOK], REGIONS, instant(T0))
    assert [item.reason for item in found.left_out] == ["conflict: other tenant"]
