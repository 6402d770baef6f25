"""Free space: databases that run into a full disk are worse than databases that never started."""

import shutil
from pathlib import Path

from deploy.local.faults import StackError

FREE_BYTES_MIN = 1024**3


def require_space(folder: Path, free_bytes_min: int = FREE_BYTES_MIN) -> None:
    """Raise StackError if the disk of `folder` (or of its nearest existing parent) has less than `free_bytes_min`."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < free_bytes_min:
        raise StackError(
            f"the disk of {existing} has only {free_bytes // 1024**2} MiB free, and at least "
            f"{free_bytes_min // 1024**2} MiB are needed. Free some space, or put the data elsewhere: "
            "set TOLLKEEPER_HOME (data) or TOLLKEEPER_CACHE (programs)."
        )
