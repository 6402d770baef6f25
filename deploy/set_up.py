"""Set up .venv from the lock file: `python3 deploy/set_up.py STAMP`, by the system's Python alone.

One set-up runs at a time and the others wait for it. The stamp is written last and names the folder, so what was
interrupted, or moved with its folder, is made anew.
"""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

_INTERRUPTED = 130
_STAMPS = ".installed-*"


def set_up(root: Path, stamp: Path) -> None:
    """Make `root/.venv` as the lock file says; nothing where `stamp` says that it is so already."""
    venv = root / ".venv"
    with (root / ".venv.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write("another set-up of .venv is running: waiting for it\n")
            fcntl.flock(lock, fcntl.LOCK_EX)
        python = venv / "bin" / "python"
        if stamp.exists() and python.exists():
            return
        stamps = list(venv.glob(_STAMPS))
        whole = python.exists() and any(old.read_text("utf-8") == str(root) for old in stamps)
        # From here on it is half: without a stamp the next set-up clears it.
        for old in stamps:
            old.unlink()
        if not whole:
            _run([sys.executable, "-m", "venv", "--clear", venv], root)
        pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "--require-hashes", "-r", "requirements.lock"], root)
        _run([*pip, "--no-build-isolation", "--no-deps", "-e", "."], root)
        stamp.write_text(str(root), "utf-8")


def _run(command: list[str | Path], root: Path) -> None:
    # In a session of its own: Ctrl-C is said once, by this program, and what it ends is made anew anyway.
    step = subprocess.Popen(command, cwd=root, start_new_session=True)
    try:
        failed = step.wait() != 0
    except KeyboardInterrupt:
        os.killpg(step.pid, signal.SIGKILL)
        step.wait()
        raise
    if failed:
        sys.exit(f"the set-up of .venv failed at `{' '.join(map(str, command[1:]))}`; the next make begins it anew")


def main() -> None:
    root = Path(__file__).resolve().parents[1]
    try:
        set_up(root, root / sys.argv[1])
    except KeyboardInterrupt:
        sys.stderr.write("the set-up of .venv was interrupted; the next make begins it anew\n")
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
