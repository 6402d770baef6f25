"""What a home was made with: regions and shards, which its data holds for good. A start that differs is refused."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from deploy.local.environment import DEFAULTS, REGIONS
from deploy.local.faults import StackError
from shared.events.reading import describe
from shared.settings import Region

_REGIONS = TypeAdapter(dict[str, Region])
# A region's other settings may change: they hold for what happens from then on.
_FOR_GOOD = ("currency", "opened_at")


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that a start would change; `is_possible` if an operator may mean it."""

    what: str
    was: object
    would_be: object
    is_possible: bool = False

    def __str__(self) -> str:
        return f"{self.what} was {self.was}, would be {self.would_be}"


def read_regions(environment: Mapping[str, str]) -> dict[str, Region]:
    """The regions that services would be started with. Raises StackError where they make no sense."""
    text = environment.get("TOLLKEEPER_REGIONS") or json.dumps(REGIONS)
    try:
        return _REGIONS.validate_json(text)
    except ValidationError as error:
        raise StackError(
            f"TOLLKEEPER_REGIONS makes no sense ({describe(error)}). It is JSON such as "
            '{"vn": {"currency": "VND", "opened_at": "2020-01-01T00:00:00Z"}}.'
        ) from error


def find_changes(remembered: Mapping[str, str], wanted: Mapping[str, str]) -> list[Change]:
    """What a start with `wanted` would change of a home that was last started with `remembered`.

    A region may come to the others; nothing is compared where a home remembers nothing.
    """
    if "TOLLKEEPER_REGIONS" not in remembered:
        return []
    before, after = read_regions(remembered), read_regions(wanted)
    changes = []
    for name, region in before.items():
        if name not in after:
            changes.append(Change(f"region {name}", region.currency, "gone"))
            continue
        changes += [
            Change(f"{name}'s {field}", was, would_be, is_possible=field not in _FOR_GOOD)
            for field in Region.model_fields
            if (was := getattr(region, field)) != (would_be := getattr(after[name], field))
        ]
    shards = [env.get("TOLLKEEPER_SHARDS") or DEFAULTS["TOLLKEEPER_SHARDS"] for env in (remembered, wanted)]
    if shards[0] != shards[1]:
        changes.append(Change("the number of shards", shards[0], shards[1]))
    return changes


def require_as_made(
    home: Path, remembered: Mapping[str, str], wanted: Mapping[str, str], *, change_settings: bool, demo: bool
) -> None:
    """Raise StackError if a start would change what the home was made with, unless that is possible and meant."""
    changes = find_changes(remembered, wanted)
    meant = change_settings and all(change.is_possible for change in changes)
    if not changes or meant:
        return
    told = "".join(f"\n  {change}" for change in changes)
    had_demo = remembered.get("TOLLKEEPER_RUNTIME") == "simulator"
    advice = "Start it with its old settings, or put what you start now elsewhere: set TOLLKEEPER_HOME."
    if had_demo != demo:
        was = "with the demo, whose settings are short" if had_demo else "without the demo, whose settings are short"
        start = "`tollkeeper up`" if had_demo else "`tollkeeper up --no-demo`"
        advice = f"It was made {was}: start it with {start}, or put what you start now elsewhere: set TOLLKEEPER_HOME."
    if all(change.is_possible for change in changes):
        advice += " If you mean it, `tollkeeper up --change-settings`: they hold for what happens from then on."
    raise StackError(f"{home} was made with other settings:{told}\n{advice}")
