"""Holding a cluster's balances against the oracle."""

from collections.abc import Mapping, Sequence

from shared.events.charges import read_batch
from shared.topics import CHARGES
from tests.fleet.making import Fleet
from tests.oracle.accounts import Answer, answer, differences
from tests.system.cluster import Account, Cluster


def expect(
    cluster: Cluster,
    fleet: Fleet,
    lines: Sequence[str | bytes],
    through_us: int,
    commanded: Mapping[tuple[str, str], int] | None = None,
) -> Answer:
    """What the oracle says of these lines at the fleet's prices."""
    return answer(lines, fleet.books, fleet.regions, through_us, now_us=cluster.now_us, commanded=commanded)


def check_totals(
    cluster: Cluster,
    fleet: Fleet,
    lines: Sequence[str | bytes],
    through_us: int,
    commanded: Mapping[tuple[str, str], int] | None = None,
) -> Answer:
    """Fail unless every account was charged right to the micro, on the charge topic and in the ledger's balances."""
    found = expect(cluster, fleet, lines, through_us, commanded)
    assert found.totals(), "nothing was charged: this proves nothing"
    on_topic = {account: -micros for account, micros in charged_on_topic(cluster).items()}
    _refuse(differences(found.totals(), on_topic, {}), "on the charge topic")
    if "balance" in cluster.names:
        _refuse(differences(found.totals(), cluster.balances(), cluster.credits), "in the ledger")
        assert not (wrong := cluster.audit()), f"the books are not in order: {wrong[:10]}"
    return found


def _refuse(wrong: Sequence[object], where: str) -> None:
    assert not wrong, f"{where} {len(wrong)} accounts differ (account, must be, is): {wrong[:10]}"


def charged_on_topic(cluster: Cluster) -> dict[Account, int]:
    """What the batches on the charge topic add up to, each (shard, seq) once; sequence numbers must have no gap."""
    batches: dict[tuple[int, int], bytes] = {}
    for _, value in cluster.broker.read(CHARGES):
        assert value is not None
        batch = read_batch(value)
        assert batches.setdefault((batch.shard, batch.seq), value) == value, "one sequence number, two contents"
    totals: dict[Account, int] = {}
    for (shard, seq), value in batches.items():
        assert seq == 1 or (shard, seq - 1) in batches, f"shard {shard} has a gap before {seq}"
        for account in read_batch(value).accounts:
            key = (account.region, account.tenant_id)
            totals[key] = totals.get(key, 0) + sum(total[2] for total in account.totals)
    return {account: total for account, total in totals.items() if total}
