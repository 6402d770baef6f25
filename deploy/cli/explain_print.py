"""An explanation as text for a person."""

from typing import Any

from deploy.cli.output import printable, say
from shared.money import format_micros

VERDICT = {True: "OK", False: "DIFFERS", None: "-"}
_STATED = ("gpu_sku", "gpu_count", "storage_gb", "sequence", "run_id")


def print_explanation(document: dict[str, Any]) -> None:
    """Entries with their lines, then each resource with its events and the comparison."""
    for entry in document["entries"]:
        _print_entry(entry)
    for resource in document["resources"]:
        _print_resource(resource)
    for service in document["services"]:
        say(f"service {service['kind']}: {_sums(service)}")
    say(f"{document['account']}: {VERDICT[document['ok']]}")


def _print_entry(entry: dict[str, Any]) -> None:
    say(
        f"entry {entry['entry_number']}, posted {entry['posted_at']}: {entry['class']} {printable(entry['kind'])}, "
        f"{format_micros(entry['amount_micros'])} from {printable(entry['debit_account'])} to "
        f"{printable(entry['credit_account'])}, balance after {format_micros(entry['balance_after_micros'])}"
    )
    if entry["seq"] is None:
        for name in ("adjustment_key", "fact_id", "actor", "reason"):
            if entry[name] is not None:
                say(f"  {name.replace('_', ' ')}: {printable(entry[name])}")
        return
    say(f"  batch {entry['seq']} of shard {entry['shard']}: {format_micros(entry['lines_micros'])} {_ok(entry)}")
    for line in entry["lines"]:
        subject = printable(line["resource_id"] or line["cause"])
        say(
            f"  {subject}: {line['slots']} of {printable(line['sku'])} from slot {line['slot_from']} "
            f"at {format_micros(line['price_micros'])}: {format_micros(line['amount_micros'])}"
        )
        say(f"    {printable(line['arithmetic'])} {VERDICT[line['agrees']]}")


def _print_resource(resource: dict[str, Any]) -> None:
    say(
        f"{printable(resource['resource_id'])}: slots of {resource['slot_seconds']} s, charge function "
        f"{resource['function_version']}, price books up to version {resource['book_version']}, "
        f"charged through {resource['through']} (batch {resource['seq']})"
    )
    effects = {(item["source"], item["event_id"]): item["effect"] for item in resource["without_effect"]}
    for event in sorted(resource["events"], key=lambda item: (item["time_us"], item.get("sequence") or 0)):
        effect = effects.get((event["source"], event["event_id"]))
        say(_event_line(event) + ("" if effect is None else f", without effect: {effect}"))
    for event in resource["replaced"]:
        by, because = event["replaced_by"], event["replaced_because"]
        why = "" if because is None else f" ({because})"
        say(printable(f"{_event_line(event)}, replaced by {by['source']} {by['event_id']}{why}"))
    for part in resource["segments"]:
        say(
            f"  {part['kind']} {printable(part['sku'])}: {part['slots']} slots from {part['slot_from']}, "
            f"{part['quantity']} at {format_micros(part['unit_price_micros'])} an hour: {part['slots']}·"
            f"{part['price_micros']}·{resource['slot_seconds']}//3600 = {part['amount_micros']} micros"
        )
    for kind in resource["kinds"]:
        say(f"  {kind['kind']}: {_sums(kind)}")


def _event_line(event: dict[str, Any]) -> str:
    stated = "".join(f", {name} {event[name]}" for name in _STATED if event.get(name) is not None)
    return f"  {event['time']} {event['type']} {printable(event['source'])} {printable(event['event_id'])}{stated}"


def _sums(item: dict[str, Any]) -> str:
    return (
        f"all lines {format_micros(item['lines_micros'])}, charge() {format_micros(item['charge_micros'])} {_ok(item)}"
    )


def _ok(item: dict[str, Any]) -> str:
    return VERDICT[item["ok"]]
