"""The commands of `tollkeeper` by name. A command's module is imported when the command is called, and not before."""

from importlib import import_module
from typing import Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from deploy.cli.helping import document

HELP_OPTIONS: Final = {"help_option_names": ["-h", "--help"]}


class Place(NamedTuple):
    """Where a command is: a module of this package, the name in it, and the command's line in the list."""

    module: str
    attribute: str
    line: str


COMMANDS: Final = {
    "publish": Place("publish", "publish", "Publish lifecycle and usage events."),
    "import-trace": Place("trace", "import_trace", "Turn what a cluster recorded into events."),
    "wait-settled": Place("settled", "wait_settled", "Wait until what was published is charged."),
    "explain": Place("explain", "explain", "Tell a charge from the stored bytes."),
    "reconcile": Place("payments", "reconcile", "Ask providers and balance about orders."),
    "audit": Place("audit", "audit", "Audit one account or all, and name what differs."),
    "up": Place("stack", "stack_up", "Start the whole stack and stay until Ctrl-C."),
    "down": Place("stack", "stack_down", "Stop the stack of this home; its data stays."),
    "status": Place("stack", "stack_status", "Tell how the stack is doing."),
    "prices": Place("prices", "prices", "Price books: publish one, show those in force and to come."),
    "account": Place("account", "account", "Accounts: open, show, credit, grant."),
    "voucher": Place("voucher", "voucher", "Vouchers: create, redeem."),
    "rates": Place("payments", "rates", "Exchange rates: publish, list."),
    "refunds": Place("refunds", "refunds", "Refund requests without an answer: list, withdraw."),
    "inbox": Place("refunds", "inbox", "Callbacks not applied: list, apply, dismiss."),
    "dead": Place("dead", "dead", "Dead letters: list, show, mend, replay, close."),
    "parked": Place("contradictions", "parked", "Events that wait: list them, release one."),
    "contradictions": Place("contradictions", "contradictions", "What was said and can't be: list and close it."),
    "streams": Place("streams", "streams", "Charge streams: list, show, mend, skip, resume."),
    "restores": Place("restores", "restores", "Restored databases: list, show what was lost, confirm."),
    "set-aside": Place("set_aside", "set_aside", "Items set aside: list, retry."),
    "anchors": Place("audit", "anchors", "Heads of the ledger's hash chain, to keep elsewhere."),
    "clock": Place("clock", "clock", "The test clock of a stack that was made with one."),
}


def load_command(name: str) -> TyperCommand | TyperGroup:
    """Import a command, or a group with its commands, and document it."""
    place = COMMANDS[name]
    found = getattr(import_module(f"deploy.cli.{place.module}"), place.attribute)
    app = typer.Typer(rich_markup_mode=None)
    if isinstance(found, typer.Typer):
        app.add_typer(found, name=name, help=place.line)
    else:
        app.command(name)(found)
    loaded = typer.main.get_group(app).commands[name]
    assert isinstance(loaded, TyperCommand | TyperGroup)
    document(name, loaded)
    return loaded


class OnDemand(TyperCommand):
    """A command as it stands in the list; called or completed, it makes way for the loaded one."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the library's own, passed on
        assert self.name is not None
        return load_command(self.name).make_context(*args, **kwargs)


class Commands(TyperGroup):
    """The group of all commands, none of them loaded."""

    def __init__(self, **attrs: Any) -> None:  # noqa: ANN401 - the library's own, passed on
        super().__init__(**attrs)
        for name, place in COMMANDS.items():
            self.add_command(OnDemand(name, callback=None, short_help=place.line))
