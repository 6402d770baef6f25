"""When everything that was published by an instant has become money: decided from the services' own reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from shared.clock import format_instant
from shared.errors import TollkeeperError
from shared.events.cloudevents import Instant

Offsets = Mapping[str, Mapping[int, int]]


class StoppedLineError(TollkeeperError):
    """A shard is stopped or the tick is halted: nothing settles until an operator has decided."""


class ShardReport(BaseModel):
    shard: int
    seq: int


class MeteringReport(BaseModel):
    """What wait-settled reads of metering's `/v1/status`; `through` is the least of all shards, null before any."""

    now: Instant
    through: Instant | None
    test_clock: bool = False
    through_target: Instant | None = None
    halted: Any = None
    positions: dict[str, dict[int, int]]
    shards: list[ShardReport]
    unpublished: int
    pending: int
    parked: int
    dead: int


class StreamReport(BaseModel):
    shard: int
    seq: int
    stopped: Any = None


class BalanceReport(BaseModel):
    """What wait-settled reads of balance's `/v1/status`."""

    streams: list[StreamReport]
    unpublished: int
    dead: int


@dataclass(frozen=True, slots=True)
class Target:
    """What has to be reached: the end of each partition and the instant, both as at the time of the call."""

    offsets: Offsets
    through_us: int

    @classmethod
    def of(cls, offsets: Offsets, report: MeteringReport) -> "Target":
        """A test clock stands while one waits: there metering says how far it can get."""
        if report.test_clock and report.through_target is not None:
            return cls(offsets, report.through_target)
        return cls(offsets, report.now)


@dataclass(slots=True)
class Wait:
    """How far a wait has come. What was once reached stays reached: a busy stack is never idle all at once."""

    target: Target
    seqs: dict[int, int] | None = None
    relayed: set[str] = field(default_factory=set)
    posted: bool = False

    def observe(self, metering: MeteringReport, balance: BalanceReport) -> list[str]:
        """What is still waited for, in words; nothing when settled. Raises StoppedLineError.

        Balance's report must have been asked for after metering's.
        """
        _refuse_stopped(metering, balance)
        missing = self._unapplied(metering)
        if missing:
            return missing
        if self.seqs is None:
            self.seqs = {shard.shard: shard.seq for shard in metering.shards}
        if metering.unpublished == 0:
            self.relayed.add("metering")
        behind = {stream.shard: stream.seq for stream in balance.streams}
        late = sorted(shard for shard, seq in self.seqs.items() if behind.get(shard, 0) < seq)
        self.posted = self.posted or not late
        if self.posted and balance.unpublished == 0:
            self.relayed.add("balance")
        return self._unposted(metering, balance, late)

    def _unapplied(self, metering: MeteringReport) -> list[str]:
        missing = []
        for topic, ends in sorted(self.target.offsets.items()):
            done = metering.positions.get(topic, {})
            records = sum(max(end - done.get(partition, 0), 0) for partition, end in ends.items())
            if records:
                missing.append(f"metering to apply {records} records of {topic}")
        if metering.through is None or metering.through < self.target.through_us:
            missing.append(f"metering's through to pass {format_instant(self.target.through_us)}")
        return missing

    def _unposted(self, metering: MeteringReport, balance: BalanceReport, late: list[int]) -> list[str]:
        missing = []
        if "metering" not in self.relayed:
            missing.append(f"metering to relay {metering.unpublished} messages")
        if not self.posted:
            missing.append(f"balance to post the charges of {len(late)} shards ({_some(late)})")
        elif "balance" not in self.relayed:
            missing.append(f"balance to relay {balance.unpublished} messages")
        return missing


def _refuse_stopped(metering: MeteringReport, balance: BalanceReport) -> None:
    if metering.halted:
        raise StoppedLineError(f"metering's tick is halted: {_reason(metering.halted)}")
    stopped = [stream for stream in balance.streams if stream.stopped]
    if stopped:
        told = "; ".join(f"shard {stream.shard} is stopped: {_reason(stream.stopped)}" for stream in stopped)
        raise StoppedLineError(f"balance's {told}")


def _reason(value: object) -> str:
    if isinstance(value, dict):
        return str(value.get("reason") or value)
    return "no reason given" if value is True else str(value)


def _some(shards: list[int]) -> str:
    text = ", ".join(map(str, shards[:8]))
    return text + (", …" if len(shards) > 8 else "")
