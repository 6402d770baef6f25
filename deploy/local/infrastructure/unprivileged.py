"""PostgreSQL refuses to run as root. Root therefore runs it as an existing unprivileged user, in places which that
user can reach: a checkout under /root is none.
"""

import hashlib
import os
import pwd
import shutil
import subprocess
from pathlib import Path

from deploy.local.faults import StackError
from deploy.local.processes import UnixUser

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
    """The PostgreSQL programs that `user` can run: the installed ones, or a copy of them in a cache."""
    if user is None or can_reach(installed, user):
        return installed
    cache.mkdir(parents=True, exist_ok=True)
    root = cache if can_reach(cache, user) else _ROOT_CACHE
    target = root / f"postgresql-{version}"
    if not target.exists():
        make_reachable(root)
        partial = root / f"{target.name}.partial-{os.getpid()}"
        shutil.copytree(installed, partial, symlinks=True)
        try:
            partial.rename(target)
        except OSError:
            # Another process was quicker; its copy is whole, because it was renamed too.
            if not target.exists():
                raise
            shutil.rmtree(partial)
    return target


def make_reachable(folder: Path) -> None:
    """Create `folder` with its parents and let others pass through it; an existing folder keeps its rights."""
    for path in reversed([folder, *folder.parents]):
        if not path.exists():
            path.mkdir(exist_ok=True)
            path.chmod(0o711)


def can_reach(folder: Path, user: UnixUser) -> bool:
    """Whether `user` passes through every folder on the way to `folder`, or to its nearest existing parent."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    answer = subprocess.run(
        ["/bin/sh", "-c", 'test -x "$1"', "sh", str(existing)],
        cwd="/",
        user=user.uid,
        group=user.gid,
        extra_groups=[],
        capture_output=True,
        check=False,
    )
    return answer.returncode == 0
