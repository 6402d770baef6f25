"""What can go wrong on a developer's machine, each with a message that says what to do."""

import errno
from pathlib import Path

from shared.errors import TollkeeperError

_REASONS = {
    errno.ENOTDIR: "it is a file where a folder must be",
    errno.EEXIST: "it is a file where a folder must be",
    errno.EISDIR: "it is a folder where a file must be",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "its disk is read-only",
    errno.ENOSPC: "its disk is full",
}


class StackError(TollkeeperError):
    """The local stack can't start or go on; the message is for the person at the terminal and says what to do."""


def describe_path_fault(error: OSError, home: Path, cache: Path) -> str | None:
    """Say which path can't be used and which setting leads elsewhere; None where the error names no path."""
    if not isinstance(error.filename, str | bytes | Path):
        return None
    path = Path(error.filename.decode() if isinstance(error.filename, bytes) else error.filename).absolute()
    reason = _REASONS.get(error.errno or 0, error.strerror)
    for folder, purpose, setting in ((home, "data", "TOLLKEEPER_HOME"), (cache, "programs", "TOLLKEEPER_CACHE")):
        if path.is_relative_to(folder) or folder.is_relative_to(path):
            at = "" if path == folder else f" ({path})"
            return f"{folder} can't be used for {purpose}: {reason}{at}. Set {setting} to a folder of yours."
    return f"{path} can't be used: {reason}."
