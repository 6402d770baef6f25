"""What to do with the batches of one shard's stream: post in order, drop repeats, wait at a gap, stop on a conflict."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from services.balance.wire import WireBatch


@dataclass(frozen=True, slots=True)
class Arrival:
    """A decoded batch with its bytes and their hash. `waited` says that it comes out of the waiting table."""

    batch: WireBatch
    value: bytes
    sha256: bytes
    waited: bool = False


@dataclass(slots=True)
class Verdict:
    """What becomes of a stream's arrivals. `settled` are waiting ones that need to wait no more."""

    seq: int
    posted: list[Arrival] = field(default_factory=list)
    kept: list[Arrival] = field(default_factory=list)
    settled: list[Arrival] = field(default_factory=list)
    stopped_reason: str | None = None


def judge(
    seq: int,
    stopped_reason: str | None,
    arrivals: Sequence[Arrival],
    known: Mapping[int, AbstractSet[bytes]],
    refuse: Callable[[WireBatch], str | None],
) -> Verdict:
    """Decide over a stream that stands at `seq`.

    `known` are the hashes of what was posted or set aside under the arrivals' numbers; a number whose evidence is gone
    is taken for a repeat. `refuse` gives the reason why a batch may not be posted here, which stops the stream at it.
    """
    hashes = dict(known)
    verdict = Verdict(seq, stopped_reason=stopped_reason)
    for arrival in sorted(arrivals, key=lambda arrival: (arrival.batch.seq, not arrival.waited)):
        if verdict.stopped_reason is None and arrival.batch.seq == verdict.seq + 1:
            verdict.stopped_reason = refuse(arrival.batch)
            if verdict.stopped_reason is None:
                verdict.seq += 1
                verdict.posted.append(arrival)
                hashes[verdict.seq] = {arrival.sha256}
                _settle(verdict, arrival)
                continue
        if arrival.batch.seq <= verdict.seq and arrival.sha256 in hashes.get(arrival.batch.seq, {arrival.sha256}):
            _settle(verdict, arrival)
            continue
        if arrival.batch.seq <= verdict.seq and verdict.stopped_reason is None:
            verdict.stopped_reason = f"batch {arrival.batch.seq} came again with other contents"
        if not arrival.waited:
            verdict.kept.append(arrival)
    return verdict


def _settle(verdict: Verdict, arrival: Arrival) -> None:
    if arrival.waited:
        verdict.settled.append(arrival)
