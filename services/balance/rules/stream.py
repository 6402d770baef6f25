"""What to do with the batches of one shard's stream: post in order, drop repeats, wait at a gap, stop at a bad one."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from services.balance.wire import WireAccount, WireBatch


@dataclass(frozen=True, slots=True)
class Arrival:
    """A batch with its bytes and their hash.

    `fault`: why it can never be posted, and of the batch only shard and number are known. `waited`: it comes out of the
    waiting table.
    """

    batch: WireBatch
    value: bytes
    sha256: bytes
    waited: bool = False
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a stream stops, and why."""

    seq: int
    reason: str


@dataclass(slots=True)
class Verdict:
    """What becomes of a stream's arrivals. `settled` are waiting ones that need to wait no more."""

    seq: int
    posted: list[Arrival] = field(default_factory=list)
    kept: list[Arrival] = field(default_factory=list)
    settled: list[Arrival] = field(default_factory=list)
    repeats: int = 0
    stop: Stop | None = None

    @property
    def charged_through_us(self) -> int | None:
        """Up to where everything is charged with what is posted now; None: none of it says so."""
        said = [arrival.batch.charged_through_us for arrival in self.posted]
        return max((through_us for through_us in said if through_us is not None), default=None)


def judge(
    seq: int,
    arrivals: Sequence[Arrival],
    known: Mapping[int, AbstractSet[bytes]],
    refuse: Callable[[WireBatch], str | None],
    *,
    is_stopped: bool = False,
    posted_max: int | None = None,
) -> Verdict:
    """Decide over a stream that stands at `seq`; of one that `is_stopped` only repeats are dropped.

    `known` are the hashes of what was posted or set aside under the arrivals' numbers; a number whose evidence is gone
    is taken for a repeat. `refuse` gives the reason why a batch may not be posted here. A batch that can't be posted
    stops the stream when its turn comes. No more than `posted_max` are posted, the rest waits.
    """
    hashes = dict(known)
    verdict = Verdict(seq)
    for arrival in sorted(arrivals, key=_in_turn):
        goes_on = not is_stopped and verdict.stop is None
        number = arrival.batch.seq
        if goes_on and number == verdict.seq + 1 and (posted_max is None or len(verdict.posted) < posted_max):
            reason = arrival.fault or refuse(arrival.batch)
            if reason is None:
                verdict.seq = number
                verdict.posted.append(arrival)
                hashes[number] = {arrival.sha256}
                _settle(verdict, arrival)
                continue
            verdict.stop = Stop(number, f"batch {number} can't be posted: {reason}")
        elif number <= verdict.seq:
            if arrival.sha256 in hashes.get(number, {arrival.sha256}):
                verdict.repeats += not arrival.waited
                _settle(verdict, arrival)
                continue
            if goes_on:
                verdict.stop = Stop(number, f"batch {number} came again with other contents")
        if not arrival.waited:
            verdict.kept.append(arrival)
    return verdict


def find_late(posted: Sequence[Arrival], charged_through_us: Mapping[int, int | None]) -> list[WireAccount]:
    """Who is charged for what was used before an instant up to which everything was charged already.

    `posted` are in order, per shard.
    """
    late: list[WireAccount] = []
    through = {shard: instant_us or 0 for shard, instant_us in charged_through_us.items()}
    for arrival in posted:
        batch = arrival.batch
        if batch.used_from_us is not None and batch.used_from_us < through[batch.shard]:
            late += batch.accounts
        through[batch.shard] = max(through[batch.shard], batch.charged_through_us or 0)
    return late


def _in_turn(arrival: Arrival) -> tuple[int, bool, bool]:
    """By number; of several under one, first those that can be posted."""
    return arrival.batch.seq, arrival.fault is not None, not arrival.waited


def _settle(verdict: Verdict, arrival: Arrival) -> None:
    if arrival.waited:
        verdict.settled.append(arrival)
