"""What commands print: documents for programs and tables for people on standard output, remarks on standard error."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document for programs.")]


def print_json(document: Mapping[str, object]) -> None:
    """One JSON document with the keys in the order given, which stays as it is."""
    import orjson

    sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
    sys.stdout.flush()


def say(line: str) -> None:
    """A line of the result."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def remark(line: str) -> None:
    """A line for the person who watches; never a part of the result."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A plain table; cells are printed as they are, without markup."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    Console(markup=False, highlight=False, soft_wrap=not sys.stdout.isatty()).print(table)


def _cell(value: object) -> str:
    return "" if value is None else printable(str(value))


def printable(text: str) -> str:
    """What somebody else wrote, such that it can't steer the terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
