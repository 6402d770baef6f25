"""`tollkeeper explain`: a charge told from the stored bytes and held against `charge()`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from deploy.cli.account import AccountArgument
from deploy.cli.evidence import Entry, Evidence, load_entries, wait_posted
from deploy.cli.explain_print import print_explanation
from deploy.cli.explain_rules import (
    METERED_KINDS,
    Arithmetic,
    Comparison,
    PostedLine,
    compare,
    explain_line,
    recompute,
    tell_usage,
)
from deploy.cli.faults import FOUND, UNAVAILABLE, CommandError, EarlyExitError
from deploy.cli.output import JsonOption, print_json
from deploy.cli.services import Services, open_services, segment, split_account
from services.metering.rules.prices import PriceTable
from services.metering.store.prices import to_rules
from shared.clock import HOUR_US, format_instant, parse_instant
from shared.events.prices import PriceBookPublished

# Among so many of the last entries the last charge is looked for.
LATEST_ENTRIES = 100


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the caller wants explained."""

    resource: str | None
    hour: str | None
    entry: int | None

    def wanted(self) -> dict[str, str | int]:
        """What balance is asked for: no more than is explained."""
        if self.entry is not None:
            return {"number": self.entry}
        if self.hour is not None:
            from_us = _hour(self.hour)
            return {"from": format_instant(from_us), "to": format_instant(from_us + HOUR_US)}
        return {"charges": "true"} if self.resource is not None else {"latest": "true", "limit": LATEST_ENTRIES}

    def pick(self, entries: Sequence[Entry]) -> list[Entry]:
        """The entries meant; without any choice the last charge, or else the last entry. Raises CommandError."""
        charged = [entry for entry in entries if entry.seq is not None]
        if self.entry is not None:
            picked = [entry for entry in entries if entry.entry_number == self.entry]
        elif self.hour is not None:
            from_us = _hour(self.hour)
            picked = [entry for entry in entries if from_us <= entry.posted_at < from_us + HOUR_US]
        else:
            picked = charged if self.resource is not None else (charged or list(entries))[-1:]
        if self.resource is not None:
            picked = [entry for entry in picked if entry.seq is not None]
        if not picked:
            raise CommandError("the account has no entry of those asked for")
        return picked


def _hour(text: str) -> int:
    try:
        instant_us = parse_instant(text)
    except ValueError as error:
        raise CommandError(f"--hour: {error}") from error
    return instant_us - instant_us % HOUR_US


class Explainer:
    """Gathers the parts of one account's explanation."""

    def __init__(self, services: Services, region: str, tenant_id: str) -> None:
        self._services = services
        self._region = region
        self._tenant_id = tenant_id
        self._evidence = Evidence(services, region, tenant_id)
        self._resources: dict[str, dict[str, Any]] = {}

    def explain(self, chosen: Chosen) -> dict[str, Any]:
        """The whole explanation as one document; `ok` tells whether everything agrees."""
        picked = chosen.pick(load_entries(self._services, self._region, self._tenant_id, **chosen.wanted()))
        lines = [line for line in self._evidence.lines_of(picked) if chosen.resource in (None, line.resource_id)]
        resources = [
            self._load_resource(name)
            for name in sorted({line.resource_id for line in lines if line.kind in METERED_KINDS})
        ]
        compared = [self._compare_resource(resource) for resource in resources]
        usage, compared_services = self._explain_usage({line.kind for line in lines} - set(METERED_KINDS))
        explained = [self._explain_entry(entry, usage, chosen.resource) for entry in picked]
        parts = [*explained, *compared, *compared_services]
        return {
            "account": f"{self._region}/{self._tenant_id}",
            "entries": [entry for entry in explained if entry["lines"] or entry["seq"] is None],
            "resources": compared,
            "services": compared_services,
            "ok": all(part["ok"] for part in parts),
        }

    def _explain_usage(self, kinds: set[str]) -> tuple[dict[int, Arithmetic], list[dict[str, Any]]]:
        """The arithmetic of all lines of services, which are rounded over their sum; nothing is read without any."""
        if not kinds:
            return {}, []
        entries = load_entries(self._services, self._region, self._tenant_id, charges="true")
        lines = [
            line
            for line in self._evidence.lines_of(entry for entry in entries if entry.kind in kinds)
            if line.kind in kinds
        ]
        told, services = tell_usage(lines, self._prices(None))
        return {id(item.line): item.arithmetic for item in told}, [_as_json(item) for item in services]

    def _load_resource(self, name: str) -> dict[str, Any]:
        path = f"/v1/resources/{segment(self._region)}/{segment(name)}"
        resource = self._services.get("metering", path)
        prices = self._prices(int(resource["book_version"]))
        try:
            computed = recompute(resource, prices)
        except (KeyError, TypeError, ValueError) as error:
            raise CommandError(f"metering's answer on {name} is not of this version: {error!r}", UNAVAILABLE) from error
        self._resources[name] = {**resource, "computed": computed}
        return self._resources[name]

    def _prices(self, version: int | None) -> PriceTable:
        """The region's prices as of a book version, or as they are."""
        table = PriceTable()
        for document in self._services.get("metering", f"/v1/price-books/{segment(self._region)}")["books"]:
            book = PriceBookPublished.model_validate(document)
            if version is None or book.version <= version:
                table = table.with_book(to_rules(book))
        return table

    def _compare_resource(self, resource: dict[str, Any]) -> dict[str, Any]:
        wait_posted(self._services, resource["shard"], resource["seq"])
        charged = self._evidence.charged(resource["resource_id"], resource["shard"], resource["seq"])
        metered = {kind: amount for kind, amount in charged.items() if kind in METERED_KINDS}
        kinds = [_as_json(item) for item in compare(metered, resource["computed"])]
        told = ("resource_id", "slot_seconds", "function_version", "book_version", "through", "seq", "events")
        return {
            **{field: resource[field] for field in told},
            **{field: resource.get(field, []) for field in ("replaced", "without_effect")},
            "segments": [{**asdict(part), "price_micros": part.price_micros} for part in resource["computed"]],
            "kinds": kinds,
            "ok": all(item["ok"] for item in kinds),
        }

    def _explain_entry(self, entry: Entry, usage: dict[int, Arithmetic], resource: str | None) -> dict[str, Any]:
        """An entry with its lines; the sum is over all of them, shown are those of `resource` if one is asked for."""
        if entry.seq is None:
            return {**entry.as_json(), "lines": [], "lines_micros": None, "ok": True}
        lines = [
            line
            for line in self._evidence.lines(entry.shard, entry.seq)
            if (line.kind, line.class_) == (entry.kind, entry.class_)
        ]
        total = sum(line.amount_micros for line in lines)
        shown = [self._explain_line(line, usage) for line in lines if resource in (None, line.resource_id)]
        ok = total == entry.signed_micros and all(line["agrees"] is not False for line in shown)
        return {**entry.as_json(), "lines": shown, "lines_micros": total, "ok": ok}

    def _explain_line(self, line: PostedLine, usage: dict[int, Arithmetic]) -> dict[str, Any]:
        if line.kind in METERED_KINDS:
            resource = self._resources[line.resource_id]
            arithmetic = explain_line(line, resource["computed"], resource["slot_seconds"])
        else:
            arithmetic = usage[id(line)]
        document = asdict(line)
        document["class"] = document.pop("class_")
        return {**document, "arithmetic": arithmetic.text, "agrees": arithmetic.agrees}


def _as_json(item: Comparison) -> dict[str, Any]:
    return {**asdict(item), "ok": item.agrees}


def explain(
    name: AccountArgument,
    *,
    resource: Annotated[str | None, typer.Option(help="Only this container or volume, over its whole life.")] = None,
    hour: Annotated[str | None, typer.Option(help="Entries posted in the hour that holds this instant.")] = None,
    entry: Annotated[int | None, typer.Option(help="One entry of the ledger, by its number.")] = None,
    json: JsonOption = False,
) -> None:
    """Tell a charge from the stored bytes: entry, lines, arithmetic, events, prices, and what charge() says.

    Without an option it is the account's last charge. Exit code 1 if anything differs.
    """
    region, tenant_id = split_account(name)
    with open_services() as services:
        document = Explainer(services, region, tenant_id).explain(Chosen(resource, hour, entry))
    if json:
        print_json(document)
    else:
        print_explanation(document)
    if not document["ok"]:
        raise EarlyExitError(FOUND)
