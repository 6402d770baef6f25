"""`tollkeeper explain`: arithmetic of lines by property, and the whole command over services that lie or do not."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.cli import evidence
from deploy.cli.explain_rules import PostedLine, compare, explain_line, sum_lines, tell_usage
from services.metering.rules.charge import charge
from services.metering.rules.history import Event, History
from services.metering.rules.lines import Line, correction_lines, tick_lines
from services.metering.rules.prices import PriceBook, PriceTable, ServiceRate
from services.metering.rules.usage import usage_amount
from shared.clock import HOUR_US, MINUTE_US, format_instant, parse_instant
from tests.cli.conftest import Ended, Fakes, Tollkeeper

NOON_US = parse_instant("2026-11-01T12:00:00Z")
PRICES = PriceTable().with_book(
    PriceBook("vn", 1, 0, {"h100": 2_540_001}, {"persistent": 131}, {"tokens": ServiceRate(1000, "tokens", 401)})
)


def event(name: str, at_us: int, **stated: Any) -> Event:
    return Event("platform", name, f"container.{name.partition('-')[0]}", at_us, **stated)


CREATED = event("created", NOON_US, gpu_sku="h100", gpu_count=1, storage_gb=7)


def posted(lines: Sequence[Line], seq: int, cause: str = "") -> list[PostedLine]:
    return [
        PostedLine(
            *(seq, "ctr-1", line.kind, line.class_, line.sku, line.slot_from, line.slots),
            *(line.price_micros, line.amount_micros, cause),
        )
        for line in lines
    ]


@given(
    ticks=st.lists(st.integers(1, 400 * 60), min_size=1, max_size=8),
    toggles=st.lists(st.integers(1, 2 * 3600), max_size=6),
    slot_seconds=st.sampled_from([1, 60, 900]),
)
def test_every_tick_line_of_an_unchanged_history_is_explained(
    ticks: list[int], toggles: list[int], slot_seconds: int
) -> None:
    events, at_us = [CREATED], NOON_US
    for number, seconds in enumerate(toggles):
        at_us += seconds * 1_000_000
        events.append(event(f"{'stopped' if number % 2 else 'started'}-{number}", at_us))
    history = History(tuple(events), slot_seconds)
    through_us, lines = NOON_US, list[PostedLine]()
    before = charge(history, PRICES, through_us)
    for seq, seconds in enumerate(ticks):
        through_us += seconds * 1_000_000
        after = charge(history, PRICES, through_us)
        lines += posted(tick_lines(before, after), seq)
        before = after
    told = [explain_line(line, before, slot_seconds) for line in lines]
    assert all(arithmetic.agrees for arithmetic in told)
    assert all(item.agrees for item in compare(sum_lines(lines), before))


def test_a_correction_is_named_by_its_cause_and_the_sum_still_agrees() -> None:
    before = charge(History((CREATED, event("started", NOON_US)), 60), PRICES, NOON_US + HOUR_US)
    stopped = event("stopped", NOON_US + 10 * MINUTE_US)
    after = charge(History((CREATED, event("started", NOON_US), stopped), 60), PRICES, NOON_US + HOUR_US)
    lines = posted(tick_lines((), before), 1) + posted(correction_lines(before, after), 2, "platform/stopped")
    told = [explain_line(line, after, 60) for line in lines]
    assert [arithmetic.agrees for arithmetic in told] == [None, True, None]
    assert "platform/stopped" in told[2].text
    assert [(item.kind, item.agrees) for item in compare(sum_lines(lines), after)] == [("gpu", True), ("storage", True)]
    assert [item.agrees for item in compare(sum_lines(lines[:2]), after)] == [False, True]


@given(quantities=st.lists(st.integers(0, 5000), min_size=1, max_size=10), wrong=st.integers(0, 9))
def test_usage_is_rounded_over_the_sum(quantities: list[int], wrong: int) -> None:
    lines, used = [], 0
    for seq, quantity in enumerate(quantities):
        amount = usage_amount(used, quantity, 1000, 401)
        used += quantity
        lines.append(PostedLine(seq, "tokens", "tokens", "charge", "tokens", 0, quantity, 401, amount, f"svc/{seq}"))
    told, compared = tell_usage(lines, PRICES)
    assert all(item.arithmetic.agrees for item in told)
    assert [item.agrees for item in compared] == [True]
    assert compared[0].charge_micros == used * 401 // 1000
    number = wrong % len(lines)
    line = lines[number]
    lines[number] = replace(line, amount_micros=line.amount_micros + 1)
    told, compared = tell_usage(lines, PRICES)
    assert not told[number].arithmetic.agrees
    assert not compared[0].agrees


@dataclass
class Ledger:
    """A small balance and metering: one container, charged by ticks, beside a neighbour's lines."""

    fakes: Fakes
    history: History
    seq: int = 0
    through_us: int = NOON_US
    entries: list[dict[str, Any]] = field(default_factory=list)
    charged: dict[str, int] = field(default_factory=dict)

    def batch(self, lines: Sequence[Line], resource: str, cause: str = "", *, off_micros: int = 0) -> None:
        """Post lines in a batch, in which a neighbour comes first."""
        self.seq += 1
        neighbour = Line("gpu", "charge", "h100", 0, 1, 60, 1)
        everything = [neighbour, *lines]
        accounts = [
            {**owner(tenant), "totals": totals(part), "lines": len(part)}
            for tenant, part in (("aaa", [neighbour]), ("acme", lines))
        ]
        columns = {
            "resource_ids": ["other", *([resource] * len(lines))],
            "kinds": [line.kind for line in everything],
            "classes": [line.class_ for line in everything],
            "skus": [line.sku for line in everything],
            "slots_from": [line.slot_from for line in everything],
            "slots": [line.slots for line in everything],
            "prices_micros": [line.price_micros for line in everything],
            "amounts_micros": [line.amount_micros for line in everything],
            "causes": ["", *([cause] * len(lines))],
        }
        head = {"shard": 3, "seq": self.seq, "charged_at": format_instant(self.through_us), "function_version": 1}
        document = {**head, "book_version": 1, "accounts": accounts, "lines": columns}
        self.fakes.balance.on("GET", f"/v1/evidence/3/{self.seq}", document)
        for line in lines:
            if resource == "ctr-1":
                self.charged[line.kind] = self.charged.get(line.kind, 0) + line.amount_micros
        for kind, class_, amount in totals(lines):
            self.entries.append(self.entry(kind, class_, amount + off_micros))

    def entry(self, kind: str, class_: str, amount_micros: int) -> dict[str, Any]:
        sides = ["customer", f"revenue:{kind}"]
        debit, credit = sides if amount_micros > 0 else reversed(sides)
        return {
            "entry_number": len(self.entries) + 1,
            "posted_at": format_instant(self.through_us),
            "debit_account": debit,
            "credit_account": credit,
            "amount_micros": abs(amount_micros),
            "balance_after_micros": 0,
            "class": class_,
            "shard": 3,
            "seq": self.seq,
            "adjustment_key": None,
        }

    def tick(self, seconds: int, *, off_micros: int = 0) -> None:
        before = charge(self.history, PRICES, self.through_us)
        self.through_us += seconds * 1_000_000
        self.batch(tick_lines(before, charge(self.history, PRICES, self.through_us)), "ctr-1", off_micros=off_micros)

    def serve(self) -> None:
        """Answer as the services would now."""
        metering, balance = self.fakes.metering, self.fakes.balance
        resource = {
            "region": "vn",
            "resource_id": "ctr-1",
            "tenant_id": "acme",
            "shard": 3,
            "slot_seconds": 60,
            "function_version": 1,
            "commanded_at": None,
            "confirmed_until": None,
            "without_effect": [],
            "events": [{**asdict(item), "time": format_instant(item.time_us)} for item in self.history.events],
            "book_version": 1,
            "through": format_instant(self.through_us),
            "seq": self.seq,
            "segments": [],
        }
        metering.on("GET", "/v1/resources/vn/ctr-1", resource)
        book = {
            "region": "vn",
            "effective_from": "2020-01-01T00:00:00Z",
            "version": 1,
            "published_at": "2026-01-01T00:00:00Z",
            "gpu": {"h100": "2.540001"},
            "storage": {"persistent": "0.000131"},
            "services": {"tokens": {"unit": "1000-tokens", "price": "0.000401"}},
        }
        metering.on("GET", "/v1/price-books/vn", {"books": [book]})
        balance.on("GET", "/v1/status", {"streams": [{"shard": 3, "seq": self.seq}]})
        kinds = [{"kind": kind, "slots": 1, "amount_micros": amount} for kind, amount in self.charged.items()]
        balance.on("GET", "/v1/accounts/vn/acme/charged", {"shard": 3, "seq": self.seq, "kinds": kinds})
        balance.on("GET", "/v1/accounts/vn/acme/entries", {"entries": self.entries, "next": None})


def owner(tenant: str) -> dict[str, Any]:
    return {"region": "vn", "tenant_id": tenant, "burn_micros_per_hour": 0}


def totals(lines: Sequence[Line]) -> list[tuple[str, str, int]]:
    sums: dict[tuple[str, str], int] = {}
    for line in lines:
        sums[line.kind, line.class_] = sums.get((line.kind, line.class_), 0) + line.amount_micros
    return [(kind, class_, amount) for (kind, class_), amount in sums.items()]


@pytest.fixture
def ledger(fakes: Fakes) -> Ledger:
    made = Ledger(fakes, History((CREATED, event("started", NOON_US + MINUTE_US)), 60))
    made.tick(600)
    made.batch([Line("tokens", "charge", "tokens", 0, 1500, 401, 601)], "tokens", "svc/use-1")
    made.tick(3000)
    paid = {"seq": None, "entry_number": 99, "fact_id": "captured/p-1", "credit_account": "customer"}
    made.entries.insert(2, {**made.entry("x", "payment", -5), **paid, "debit_account": "payment:stripe"})
    made.serve()
    return made


def verdicts(ended: Ended) -> list[bool]:
    document = ended.document
    return [part["ok"] for name in ("entries", "resources", "services") for part in document[name]] + [document["ok"]]


@pytest.mark.usefixtures("ledger")
def test_the_last_charge_an_entry_an_hour_a_resource(tollkeeper: Tollkeeper) -> None:
    last = tollkeeper("explain", "vn/acme", "--json")
    assert last.code == 0
    assert [entry["kind"] for entry in last.document["entries"]] == ["storage"]
    assert last.document["resources"][0]["kinds"] == [
        {"kind": "gpu", "lines_micros": 2_497_667, "charge_micros": 2_497_667, "ok": True},
        {"kind": "storage", "lines_micros": 917, "charge_micros": 917, "ok": True},
    ]
    usage = tollkeeper("explain", "vn/acme", "--entry", 3, "--json")
    assert usage.document["services"] == [{"kind": "tokens", "lines_micros": 601, "charge_micros": 601, "ok": True}]
    assert usage.document["entries"][0]["lines"][0]["arithmetic"].startswith("1500·401//1000 - 0·401//1000 = 601")
    hour = tollkeeper("explain", "vn/acme", "--hour", "2026-11-01T12:30:00Z", "--json")
    assert [entry["kind"] for entry in hour.document["entries"]] == ["gpu", "storage", "tokens"]
    life = tollkeeper("explain", "vn/acme", "--resource", "ctr-1", "--json")
    assert [entry["kind"] for entry in life.document["entries"]] == ["gpu", "storage", "gpu", "storage"]
    for ended in (last, usage, hour, life):
        assert all(verdicts(ended))
        assert ended.code == 0


@pytest.mark.parametrize(
    "entry",
    [
        {"class": "payment", "debit_account": "payment:stripe", "fact_id": "captured/p-1"},
        {"class": "grant", "debit_account": "promo", "fact_id": "grant/g-1"},
        {"class": "adjustment", "debit_account": "adjustment", "adjustment_key": "k", "actor": "kim", "reason": "fair"},
        {"class": "of-tomorrow", "debit_account": "nobody knows", "fact_id": "new/1"},
    ],
)
def test_what_is_no_charge_is_told_with_its_cause(
    entry: dict[str, Any], ledger: Ledger, tollkeeper: Tollkeeper
) -> None:
    stated = {"seq": None, "entry_number": 7, "credit_account": "customer", **entry}
    ledger.entries.append({**ledger.entry("x", "x", -5), **stated})
    ledger.serve()
    told = tollkeeper("explain", "vn/acme", "--entry", 7)
    assert (told.code, entry["class"] in told.out) == (0, True)
    assert next(value for name, value in entry.items() if name in ("fact_id", "actor")) in told.out
    assert tollkeeper("explain", "vn/acme", "--json").code == 0


@pytest.mark.usefixtures("ledger")
def test_one_charge_reads_its_own_batch_alone(ledger: Ledger, tollkeeper: Tollkeeper) -> None:
    for _ in range(20):
        ledger.tick(60)
    ledger.serve()
    assert tollkeeper("explain", "vn/acme").code == 0
    read = [asked.path for asked in ledger.fakes.balance.asked if asked.path.startswith("/v1/evidence")]
    assert read == [f"/v1/evidence/3/{ledger.seq}"]


@pytest.mark.usefixtures("ledger")
def test_it_is_spelled_out_for_a_person(tollkeeper: Tollkeeper) -> None:
    told = tollkeeper("explain", "vn/acme", "--resource", "ctr-1")
    assert told.code == 0
    assert "59·2540001·60//3600 - 9·2540001·60//3600 = 2116667 micros OK" in told.out
    assert "container.started platform started" in told.out
    assert told.out.endswith("vn/acme: OK\n")


def test_a_ledger_that_differs_from_its_evidence_is_found(ledger: Ledger, tollkeeper: Tollkeeper) -> None:
    ledger.entries[-1]["amount_micros"] += 1
    ended = tollkeeper("explain", "vn/acme", "--json")
    assert ended.code == 1
    assert verdicts(ended) == [False, True, False]
    assert "DIFFERS" in tollkeeper("explain", "vn/acme").out


def test_lines_that_differ_from_the_rules_are_found(ledger: Ledger, tollkeeper: Tollkeeper) -> None:
    ledger.batch([Line("gpu", "charge", "h100", 59, 1, 2_540_001, 42_333)], "ctr-1")
    ledger.serve()
    ended = tollkeeper("explain", "vn/acme", "--resource", "ctr-1", "--json")
    assert ended.code == 1
    assert [item["ok"] for item in ended.document["resources"][0]["kinds"]] == [False, True]


def test_a_history_that_changed_without_a_correction_is_found(ledger: Ledger, tollkeeper: Tollkeeper) -> None:
    ledger.history = History((*ledger.history.events, event("stopped", NOON_US + 5 * MINUTE_US)), 60)
    ledger.serve()
    assert tollkeeper("explain", "vn/acme").code == 1


def test_what_can_not_be_explained_says_why(
    ledger: Ledger, tollkeeper: Tollkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "POSTING_SECONDS", 0)
    ended = tollkeeper("explain", "vn/acme", "--entry", 1000)
    assert (ended.code, "no entry of those asked for" in ended.err) == (1, True)
    assert tollkeeper("explain", "vn/acme", "--hour", "noon").code == 1
    ledger.fakes.balance.on("GET", "/v1/status", {"streams": []})
    ended = tollkeeper("explain", "vn/acme")
    assert (ended.code, "wait-settled" in ended.err) == (69, True)
