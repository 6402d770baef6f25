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


@dataclass(frozen=True, slots=True)
class Charged:
    """Whom metering charges for a resource, and by which run it runs there."""

    tenant_id: str
    run: RunKey | None


def find_stop_objection(
    tenant_id: str, run: RunKey, charged: Charged | None, *, is_doubtful: bool, waited_us: int, wait_us_max: int
) -> str | None:
    """Why a run is not stopped now, or None. Metering is right: whoever is charged for a run is whose run it is.

    Without its answer, or where it does not know the run, our own books count: at once where nothing in them depends
    on the order in which events came, else after a while, for metering may only be behind.
    """
    if charged is not None and charged.tenant_id != tenant_id:
        return "metering charges another account for the resource"
    if not is_doubtful or waited_us >= wait_us_max or (charged is not None and charged.run == run):
        return None
    return "the resource's events contradict one another, and metering does not say that this run runs"


def next_attempt_us(now_us: int, attempts: int, backoff: Backoff) -> int:
    """When to repeat after the `attempts`-th command: the pause doubles up to its limit."""
    pause_seconds = backoff.first_seconds << min(max(attempts - 1, 0), 16)
    return now_us + min(pause_seconds, max(backoff.most_seconds, backoff.first_seconds)) * SECOND_US
