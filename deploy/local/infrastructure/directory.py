"""The data directory of one embedded server, and whether it was made completely.

A marker is written last. A directory without it was left half-way; it is moved aside only if our own mark says that
we were making it and no server ever ran on it. Nothing is ever deleted.
"""

from collections.abc import Callable
from pathlib import Path

from deploy.local.faults import StackError
from deploy.local.processes import write_private

COMPLETE = "COMPLETE"
MAKING = "MAKING"


class DataDirectory:
    """`<root>/data` with its markers beside it in `<root>`."""

    def __init__(self, root: Path, *, server: str, used_sign: str) -> None:
        """`used_sign` is the path inside the data that exists once a server has run on it."""
        self.root = root
        self.data = root / "data"
        self._server = server
        self._used_sign = used_sign

    @property
    def complete(self) -> bool:
        return (self.root / COMPLETE).exists()

    def prepare(self, make: Callable[[], None], *, essential: str) -> bool:
        """Make the data directory with `make` if there is none; whether it was made now.

        `essential` is the path inside the data without which a complete directory can't be.
        """
        if self.complete:
            if not (self.data / essential).exists():
                raise StackError(
                    f"{self.data} was complete once, but {essential} is gone: {self._server}'s data was removed or "
                    f"damaged. Restore it, or start empty: move {self.root} away."
                )
            return False
        if self.data.exists() and any(self.data.iterdir()):
            self._move_aside()
        self.root.mkdir(parents=True, exist_ok=True)
        write_private(self.root / MAKING, "")
        make()
        if not (self.data / essential).exists():
            raise StackError(
                f"{self._server} made its data directory, but not in {self.data}: {essential} is not there. Does its "
                "path hold letters that this system's locale has not? Set TOLLKEEPER_HOME to another folder."
            )
        write_private(self.root / COMPLETE, "")
        (self.root / MAKING).unlink()
        return True

    def _move_aside(self) -> None:
        if not (self.root / MAKING).exists():
            raise StackError(
                f"{self.data} holds files, but no mark says that this project made it completely. It is left as it is. "
                f"If it is {self._server} data that you need, keep it; then move {self.root} away or set "
                "TOLLKEEPER_HOME to another directory."
            )
        if (self.data / self._used_sign).exists():
            raise StackError(
                f"{self.data} carries the mark of an interrupted set-up, but {self._server} has run on it, so it may "
                f"hold data. It is left as it is. If the data is good, create the empty file "
                f"{self.root / COMPLETE} and remove {self.root / MAKING}; to start empty, move {self.root} away."
            )
        number = 1
        while (aside := self.root / f"half-written-{number}").exists():
            number += 1
        self.data.rename(aside)
