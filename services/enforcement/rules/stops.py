"""Which runs must be stopped, and how often they are told."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from services.enforcement.rules.account import Account
from services.enforcement.rules.lifecycle import RunKey
from services.enforcement.rules.resource import Resource
from shared.clock import SECOND_US


@dataclass(frozen=True, slots=True)
class StopDecision:
    """What changes for one container: a run to stop from now on, runs whose stop is confirmed or no longer wanted."""

    request: RunKey | None = None
    confirmed: tuple[RunKey, ...] = ()
    cancelled: tuple[RunKey, ...] = ()


# An account that balance put at or below zero within this time is stopped at once; of any other it is asked again.
NEWS_US_MAX = 2 * SECOND_US


def is_news(account: Account, now_us: int) -> bool:
    """Whether balance has only just said what is known of an account. What is older may be true no more."""
    return account.told_at_us is not None and abs(now_us - account.told_at_us) <= NEWS_US_MAX


class Backoff(NamedTuple):
    """Seconds to the first repeat, and the most that they grow to."""

    first_seconds: int
    most_seconds: int


def decide_stops(account: Account, resource: Resource, requested: Iterable[RunKey]) -> StopDecision:
    """Compare what runs with the open requests of one container.

    A request ends as confirmed when its run is over (stopped, deleted, or followed by a newer one), and only then;
    as cancelled when the account may run again. Nothing starts anything.
    """
    running = resource.running
    open_runs = sorted(set(requested))
    over = tuple(run for run in open_runs if run != running)
    if running is None or not account.must_stop:
        return StopDecision(None, over, tuple(run for run in open_runs if run == running))
    return StopDecision(None if running in open_runs else running, over)


def next_attempt_us(now_us: int, attempts: int, backoff: Backoff) -> int:
    """When to repeat after the `attempts`-th command: the pause doubles up to its limit."""
    pause_seconds = backoff.first_seconds << min(max(attempts - 1, 0), 16)
    return now_us + min(pause_seconds, max(backoff.most_seconds, backoff.first_seconds)) * SECOND_US
