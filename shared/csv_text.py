"""CSV (RFC 4180) that a spreadsheet shows and does not run.

Source: OWASP, "CSV Injection". Excel in Japanese reads the full-width signs as it reads the others.
"""

import csv
import io
from collections.abc import Collection, Iterable
from typing import Final

# Excel reads UTF-8 as the system's own code page unless the file begins with this.
BYTE_ORDER_MARK: Final = "\N{ZERO WIDTH NO-BREAK SPACE}".encode()
_FORMULA_STARTS: Final = tuple("=+-@\t\r\n＝＋－＠")  # noqa: RUF001 - the full-width signs are meant


def format_csv(rows: Iterable[Iterable[object]], figures: Collection[int] = ()) -> bytes:
    """Lines of CSV. Text is quoted for spreadsheets; numbers, and text in the columns `figures`, stay as they are."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    for row in rows:
        writer.writerow([cell if number in figures else as_text_cell(cell) for number, cell in enumerate(row)])
    return buffer.getvalue().encode()


def as_text_cell(cell: object) -> object:
    """A text that would begin a formula begins with an apostrophe: spreadsheets then show the rest as text."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA_STARTS) else cell
