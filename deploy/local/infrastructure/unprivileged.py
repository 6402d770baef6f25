"""PostgreSQL refuses to run as root. Root therefore runs it as an existing unprivileged user, in places which that
user can reach: a checkout under /root is none.
"""

import hashlib
import os
import pwd
import shutil
from pathlib import Path

from deploy.local.faults import StackError
from deploy.local.processes import UnixUser, run_apart

_CANDIDATES = ("postgres", "nobody")
_ROOT_DATA = Path("/var/lib/tollkeeper")
_ROOT_CACHE = Path("/var/cache/tollkeeper")


def find_user(data: Path) -> UnixUser | None:
    """Whom the server runs as: None for the caller itself; for root the data's owner, else a known user."""
    if os.geteuid() != 0:
        return None
    if data.exists() and (status := data.stat()).st_uid != 0:
        return UnixUser(status.st_uid, status.st_gid)
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return UnixUser(entry.pw_uid, entry.pw_gid)
    raise StackError(
        f"PostgreSQL does not run as root, and none of the users {', '.join(_CANDIDATES)} exists to run it instead. "
        "Run as an ordinary user, create one of them, or give the address of a PostgreSQL of yours in "
        "TOLLKEEPER_POSTGRES_URL."
    )


def place_data(wanted: Path, user: UnixUser | None) -> Path:
    """Where the server's folder goes: `wanted`, or a place of root's that `user` can reach."""
    if user is None or can_reach(wanted.absolute().parent, user):
        return wanted
    digest = hashlib.sha256(str(wanted.absolute()).encode()).hexdigest()[:12]
    return _ROOT_DATA / f"{wanted.name}-{digest}"


def place_programs(installed: Path, user: UnixUser | None, cache: Path, version: str) -> Path:
    """The PostgreSQL programs that `user` can run: the installed ones, or a copy of them in a cache.

    `installed` is the wheel's `<package>/pginstall`. Its programs look for libraries in `<package>.libs` beside the
    package, so both are copied, and lie there as they lay here.
    """
    package = installed.parent
    libraries = package.with_name(f"{package.name}.libs")
    needed = [folder for folder in (installed, libraries) if folder.exists()]
    if user is None or all(can_reach(folder, user) for folder in needed):
        return installed
    cache.mkdir(parents=True, exist_ok=True)
    root = cache if can_reach(cache, user) else _ROOT_CACHE
    target = root / f"{package.name}-{version}"
    if not target.exists():
        make_reachable(root)
        partial = root / f"{target.name}.partial-{os.getpid()}"
        for folder in needed:
            shutil.copytree(folder, partial / folder.relative_to(package.parent), symlinks=True)
        _open_to_others(partial)
        try:
            partial.rename(target)
        except OSError:
            # Another process was quicker; its copy is whole, because it was renamed too.
            if not target.exists():
                raise
            shutil.rmtree(partial)
    return target / installed.relative_to(package.parent)


def _open_to_others(folder: Path) -> None:
    """Let others read what its owner reads and run what its owner runs: a private umask may have installed it."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6)


def make_reachable(folder: Path) -> None:
    """Create `folder` with its parents and let others pass through it; an existing folder keeps its rights."""
    for path in reversed([folder, *folder.parents]):
        if not path.exists():
            path.mkdir(exist_ok=True)
            path.chmod(0o711)


def can_reach(folder: Path, user: UnixUser) -> bool:
    """Whether `user` passes through every folder on the way to `folder`, or to its nearest existing parent."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    answer = run_apart(["/bin/sh", "-c", 'test -x "$1"', "sh", existing], directory=Path("/"), user=user)
    return answer.returncode == 0
