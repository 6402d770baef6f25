"""What `--help` says beside the parameters: a line that fits the list of commands, examples, exit codes."""

from typer.core import TyperCommand, TyperGroup

from deploy.cli.faults import EXIT_CODES

SEE_EXIT_CODES = "Exit codes: `tollkeeper --help` says what they mean."

_VOUCHER = (
    "voucher create vn 10.00 --valid-days 90 --redeem-until 2027-01-01T00:00:00Z --reason launch --actor kim "
    "--idempotency-key launch"
)

# Of a command its line in the list, where its first sentence is too long for it, and calls that work as they are.
_HELP: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "up": (None, ("up --no-demo", "up --detach --no-demo")),
    "down": (None, ("down",)),
    "status": (None, ("status", "status --json")),
    "publish": (None, ("publish samples/events.jsonl", "publish - --json")),
    "import-trace": (
        None,
        (
            "import-trace samples/jobs.txt --format sacct --time-zone Asia/Ho_Chi_Minh --region vn --out jobs.jsonl",
            "import-trace - --format docker-events --region vn",
            "import-trace jobs.csv --region vn --tenant-column user --gpu-sku a30 --start 2026-03-01T00:00:00Z",
        ),
    ),
    "wait-settled": (None, ("wait-settled --timeout 60",)),
    "explain": (None, ("explain vn/acme", "explain vn/acme --resource ctr-1")),
    "reconcile": (None, ("reconcile", "reconcile --account vn/acme --days 30")),
    "prices publish": ("Publish a price book.", ("prices publish samples/prices.yaml",)),
    "prices show": (None, ("prices show vn", "prices show vn --json")),
    "account open": (None, ("account open vn/acme",)),
    "account show": (None, ("account show vn/acme --json",)),
    "account credit": (None, ('account credit vn/acme 25.00 --reason "invoice 7" --actor kim',)),
    "account grant": (
        "Give promotional credit.",
        ("account grant vn/acme 5 --expires-at 2026-12-31T00:00:00Z --reason hi --actor kim --idempotency-key hi",),
    ),
    "account grants": (None, ("account grants vn/acme",)),
    "voucher create": (
        "Issue a voucher and print its code.",
        (_VOUCHER,),
    ),
    "voucher redeem": (None, ("voucher redeem vn/acme ABCD-EFGH-1234",)),
    "rates publish": (None, ("rates publish USD/VND 25400.5 --date 2026-11-24 --actor kim",)),
    "rates list": (None, ("rates list",)),
    "refunds list": ("List refunds without an answer.", ("refunds list",)),
    "refunds withdraw": ("Take a refund request back.", ('refunds withdraw 5f5f --reason "wrong unit" --actor kim',)),
    "inbox list": ("List callbacks that wait.", ("inbox list", "inbox list --json")),
    "inbox apply": (None, ("inbox apply stripe/evt_1 --reason mended --actor kim",)),
    "inbox dismiss": (None, ('inbox dismiss stripe/evt_1 --reason "a test" --actor kim',)),
    "dead list": ("List what could not be understood.", ("dead list", "dead list --json")),
    "dead replay": (None, ("dead replay ab12-topic-0-1 --body mended.json",)),
    "clock show": (None, ("clock show",)),
    "clock set": (None, ("clock set 2026-01-01T00:00:00Z",)),
    "clock advance": (None, ("clock advance 2h",)),
}


def examples() -> dict[str, tuple[str, ...]]:
    """By command, what its help gives as examples."""
    return {command: calls for command, (_, calls) in _HELP.items()}


def document(name: str, command: TyperCommand | TyperGroup) -> None:
    """Give a command, or every command of a group, its line, its examples and its exit codes."""
    if isinstance(command, TyperGroup):
        for part, inner in command.commands.items():
            assert isinstance(inner, TyperCommand)
            _document(f"{name} {part}", inner)
    else:
        _document(name, command)


def _document(name: str, command: TyperCommand) -> None:
    short, calls = _HELP.get(name, (None, ()))
    command.short_help = short or command.short_help
    shown = "".join(f"\n  tollkeeper {call}" for call in calls)
    command.epilog = (f"\b\nExamples:{shown}\n\n" if calls else "") + (
        EXIT_CODES if name == "wait-settled" else SEE_EXIT_CODES
    )
