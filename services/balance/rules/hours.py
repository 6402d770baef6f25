"""Lines summed up by resource and hour: what Credit History is made of."""

from collections.abc import Iterator

from services.balance.wire import WireShares
from shared.clock import HOUR_US

# (resource_id, kind) → [slots, amount_micros]
Sums = dict[tuple[str, str], list[int]]


def hour_of(instant_us: int) -> int:
    """The beginning of the hour that holds an instant."""
    return instant_us - instant_us % HOUR_US


def add_shares(sums: dict[tuple[str, str], Sums], batch: WireShares) -> None:
    """Add a batch's lines to the sums of its accounts, by (region, tenant_id). Raises ValueError."""
    columns = batch.columns()
    lines = zip(columns.resource_ids, columns.kinds, columns.slots, columns.amounts_micros, strict=True)
    for account in batch.accounts:
        own = sums.setdefault((account.region, account.tenant_id), {})
        _add(own, lines, account.lines)


def add_share(sums: Sums, batch: WireShares, region: str, tenant_id: str) -> None:
    """Add the lines of one account; a batch that does not charge it is not decoded further. Raises ValueError."""
    first = 0
    for account in batch.accounts:
        if (account.region, account.tenant_id) == (region, tenant_id):
            columns = batch.columns()
            own = slice(first, first + account.lines)
            lines = zip(
                columns.resource_ids[own],
                columns.kinds[own],
                columns.slots[own],
                columns.amounts_micros[own],
                strict=True,
            )
            _add(sums, lines, account.lines)
        first += account.lines


def _add(sums: Sums, lines: Iterator[tuple[str, str, int, int]], count: int) -> None:
    for _, (resource_id, kind, slots, amount_micros) in zip(range(count), lines, strict=False):
        key = resource_id, kind
        held = sums.get(key)
        if held is None:
            sums[key] = [slots, amount_micros]
        else:
            held[0] += slots
            held[1] += amount_micros
