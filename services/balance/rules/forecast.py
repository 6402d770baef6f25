"""How long a balance lasts at a steady burn, with promotional credit that ends on the way."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from shared.clock import HOUR_US


@dataclass(frozen=True, slots=True)
class Bucket:
    """Credit that is burnt as one; `ends_at_us` None: it has no end."""

    amount_micros: int
    ends_at_us: int | None = None


def _cost(burn_micros_per_hour: int, us: int) -> int:
    """What a burn takes in a time, a part of a micro as one."""
    return -(-burn_micros_per_hour * us // HOUR_US)


def find_below(buckets: Sequence[Bucket], burn_micros_per_hour: int, now_us: int, threshold_micros: int) -> int | None:
    """The first instant at which what is left is at most `threshold_micros`; None: that never comes.

    `buckets` are in the order in which they are burnt; of one with an end the rest is gone there.
    """
    left, at_us = list(buckets), now_us
    while True:
        spare_micros = sum(bucket.amount_micros for bucket in left) - threshold_micros
        if spare_micros <= 0:
            return at_us
        reached_us = _until(spare_micros, burn_micros_per_hour, at_us)
        ends_us = min((bucket.ends_at_us for bucket in left if bucket.ends_at_us is not None), default=None)
        if ends_us is None or (reached_us is not None and reached_us <= ends_us):
            return reached_us
        left, _ = burn_until(left, burn_micros_per_hour, at_us, ends_us)
        at_us = max(at_us, ends_us)


def _until(spare_micros: int, burn_micros_per_hour: int, at_us: int) -> int | None:
    if burn_micros_per_hour <= 0:
        return None
    return at_us + -(-spare_micros * HOUR_US // burn_micros_per_hour)


def burn_until(
    buckets: Sequence[Bucket], burn_micros_per_hour: int, from_us: int, to_us: int
) -> tuple[list[Bucket], int]:
    """Burn from one instant to another within which nothing ends; return what is left then, and what was lacking."""
    lacking_micros = _cost(burn_micros_per_hour, max(0, to_us - from_us))
    left: list[Bucket] = []
    for bucket in buckets:
        taken = min(bucket.amount_micros, lacking_micros) if bucket.amount_micros > 0 else 0
        lacking_micros -= taken
        if bucket.ends_at_us is None or bucket.ends_at_us > to_us:
            left.append(replace(bucket, amount_micros=bucket.amount_micros - taken))
    return left, lacking_micros


def find_top_up(buckets: Sequence[Bucket], burn_micros_per_hour: int, now_us: int, until_us: int) -> int:
    """The smallest bought credit with which the balance is above zero until `until_us`; 0: it is already."""
    left, at_us = list(buckets), now_us
    # Bought credit is burnt last, so what is lacking on the way is lacking in all, and a debt comes first.
    lacking_micros = sum(-bucket.amount_micros for bucket in left if bucket.amount_micros < 0)
    while at_us < until_us:
        ends = [bucket.ends_at_us for bucket in left if bucket.ends_at_us is not None and bucket.ends_at_us > at_us]
        to_us = min([until_us, *ends])
        left, lacking = burn_until(left, burn_micros_per_hour, at_us, to_us)
        lacking_micros += lacking
        at_us = to_us
    return lacking_micros
