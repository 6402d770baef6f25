"""What the person at the terminal sees while the stack starts, runs and stops."""

import contextlib
import errno
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape


class Progress:
    """Tells steps as they begin and end: a spinner on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[Callable[[str], None]]:
        """One step; the answer of the context tells what it is at. A step that fails leaves its line to the error."""
        began = time.monotonic()
        details: list[str] = []
        with self._console.status(escape(text)) as status:

            def tell(detail: str) -> None:
                details.append(detail)
                status.update(escape(f"{text}: {detail}"))
                if not self._console.is_terminal:
                    self.line(f"  {detail}")

            yield tell
        suffix = f": {details[-1]}" if details and self._console.is_terminal else ""
        took = f"{time.monotonic() - began:.1f} s"
        self._print(f"[green]✓[/] {escape(text + suffix)} [dim]{took}[/]")

    def line(self, text: str) -> None:
        self._print(escape(text))

    def good(self, text: str) -> None:
        self._print(f"[bold green]{escape(text)}[/]")

    def hint(self, text: str) -> None:
        """For a person who sits there: nothing is said where nobody does."""
        if self._console.is_terminal:
            self._print(f"[dim]{escape(text)}[/]")

    def warn(self, text: str) -> None:
        self._print(f"[yellow]{escape(text)}[/]")

    def _print(self, text: str) -> None:
        """Where it goes to a file on a full disk nobody is told; what is watched is watched on."""
        try:
            self._console.print(text, highlight=False, soft_wrap=True)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
