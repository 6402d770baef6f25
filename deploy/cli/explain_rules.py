"""A charge told from stored bytes: pure arithmetic over a ledger entry, its batch, the events and the prices."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from services.metering.rules.charge import charge
from services.metering.rules.history import Event, History
from services.metering.rules.prices import GPU, STORAGE, PriceTable
from services.metering.rules.segments import Segment
from services.metering.rules.usage import usage_amount
from shared.clock import parse_instant
from shared.events.charges import ChargeBatch
from shared.money import cumulative_charge

METERED_KINDS = (GPU, STORAGE)
_EVENT_FIELDS = ("source", "event_id", "type", "time_us", "sequence", "gpu_sku", "gpu_count", "storage_gb", "run_id")


@dataclass(frozen=True, slots=True)
class PostedLine:
    """A line of a batch that balance has posted; `seq` is the batch's in its shard's stream."""

    seq: int
    resource_id: str
    kind: str
    class_: str
    sku: str
    slot_from: int
    slots: int
    price_micros: int
    amount_micros: int
    cause: str


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How a line's amount comes about, in words; `agrees` is None where one line alone does not tell."""

    text: str
    agrees: bool | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was published of a resource (or a service) and kind against what it costs by the rules."""

    kind: str
    lines_micros: int
    charge_micros: int

    @property
    def agrees(self) -> bool:
        return self.lines_micros == self.charge_micros


def account_lines(batch: ChargeBatch, region: str, tenant_id: str) -> list[PostedLine]:
    """The account's own lines of a batch, in order."""
    columns = batch.lines
    found: list[PostedLine] = []
    first = 0
    for account in batch.accounts:
        if (account.region, account.tenant_id) == (region, tenant_id):
            rows = zip(
                *(columns.resource_ids, columns.kinds, columns.classes, columns.skus, columns.slots_from),
                *(columns.slots, columns.prices_micros, columns.amounts_micros, columns.causes),
                strict=True,
            )
            found += [PostedLine(batch.seq, *row) for row in islice(rows, first, first + account.lines)]
        first += account.lines
    return found


def read_history(resource: Mapping[str, Any]) -> History:
    """The history in metering's answer. Raises KeyError or ValueError for another shape."""
    return History(
        events=tuple(Event(**{name: event.get(name) for name in _EVENT_FIELDS}) for event in resource["events"]),
        slot_seconds=resource["slot_seconds"],
        function_version=resource["function_version"],
        commanded_us=_instant(resource["commanded_at"]),
        confirmed_until_us=_instant(resource["confirmed_until"]),
    )


def _instant(text: str | None) -> int | None:
    return None if text is None else parse_instant(text)


def recompute(resource: Mapping[str, Any], prices: PriceTable) -> tuple[Segment, ...]:
    """`charge()` of the events and prices, up to the instant to which metering had charged when it answered."""
    return charge(read_history(resource), prices, parse_instant(resource["through"]))


def compare(posted: Mapping[str, int], segments: Sequence[Segment]) -> list[Comparison]:
    """Per kind all that was posted of a resource against its charge."""
    kinds = [*METERED_KINDS, *(kind for kind in posted if kind not in METERED_KINDS)]
    charged = {kind: sum(part.amount_micros for part in segments if part.kind == kind) for kind in kinds}
    return [
        Comparison(kind, posted.get(kind, 0), charged[kind]) for kind in kinds if posted.get(kind, 0) or charged[kind]
    ]


def sum_lines(lines: Iterable[PostedLine]) -> dict[str, int]:
    """What lines charge, by kind."""
    sums: dict[str, int] = {}
    for line in lines:
        sums[line.kind] = sums.get(line.kind, 0) + line.amount_micros
    return sums


def explain_line(line: PostedLine, segments: Sequence[Segment], slot_seconds: int) -> Arithmetic:
    """The difference of two cumulative charges that a line of class charge is."""
    if line.class_ != "charge":
        return Arithmetic(
            f"the difference that {line.cause or 'the next tick'} made to all that was charged before", None
        )
    for part in segments:
        if (part.kind, part.sku, part.price_micros) == (line.kind, line.sku, line.price_micros):
            before = _slots_before(part, line.slot_from)
            if before is None or before + line.slots > part.slots:
                continue
            after = before + line.slots
            amount = cumulative_charge(after, line.price_micros, slot_seconds) - cumulative_charge(
                before, line.price_micros, slot_seconds
            )
            rate = f"{line.price_micros}·{slot_seconds}//3600"
            if amount == line.amount_micros:
                return Arithmetic(f"{after}·{rate} - {before}·{rate} = {amount} micros", True)
    return Arithmetic("charged by a history that corrections have changed since; the sum below is what counts", None)


def _slots_before(part: Segment, slot: int) -> int | None:
    """How many slots of a segment lie before `slot`; None if it does not hold that slot."""
    before = 0
    for start, stop in part.ranges:
        if start <= slot < stop:
            return before + slot - start
        before += stop - start
    return None


@dataclass(frozen=True, slots=True)
class UsageTold:
    """A service's line with its arithmetic."""

    line: PostedLine
    arithmetic: Arithmetic


def tell_usage(lines: Sequence[PostedLine], prices: PriceTable) -> tuple[list[UsageTold], list[Comparison]]:
    """All of an account's service lines, in posting order: rounded over the sum of each (SKU, price)."""
    used: dict[tuple[str, int, int], int] = {}
    told: list[UsageTold] = []
    posted: dict[str, int] = {}
    charged: dict[str, int] = {}
    for line in lines:
        size, before, amount = _usage_amount(line, used, prices)
        used[line.sku, line.price_micros, size] = before + line.slots
        posted[line.sku] = posted.get(line.sku, 0) + line.amount_micros
        charged[line.sku] = charged.get(line.sku, 0) + amount
        rate = f"{line.price_micros}//{size}"
        text = f"{before + line.slots}·{rate} - {before}·{rate} = {amount} micros, for {line.cause}"
        told.append(UsageTold(line, Arithmetic(text, amount == line.amount_micros)))
    return told, [Comparison(sku, posted[sku], charged[sku]) for sku in posted]


def _usage_amount(
    line: PostedLine, used: Mapping[tuple[str, int, int], int], prices: PriceTable
) -> tuple[int, int, int]:
    """Unit size, quantity before and amount. Of several unit sizes that had this price the one that agrees, if any."""
    rates = prices.rates.get(line.sku, ())
    found = []
    for size in [rate.unit_size for _, rate in rates if rate.price_micros == line.price_micros] or [1]:
        before = used.get((line.sku, line.price_micros, size), 0)
        low, high = sorted((before, before + line.slots))
        amount = usage_amount(max(low, 0), high - low, size, line.price_micros)
        found.append((size, before, amount if line.slots >= 0 else -amount))
    return next((option for option in found if option[2] == line.amount_micros), found[0])
