"""`python -m tests.system.nurse LAUNCHER SERVICE`: imports a service once, and forks a process for each line of input.

A line is JSON: `environment`, and `log`, the file to write to. The answer is the new process's id. The process that
forks it ends at once, so that it belongs to whoever adopts orphans (`tests/system/warm.py`).
"""

import gc
import importlib
import json
import os
import sys
import traceback
from collections.abc import Mapping


def main() -> None:
    launcher, service = sys.argv[1:]
    importlib.import_module(launcher)
    program = f"services.{service}.main"
    importlib.import_module(program)
    # It runs as the main program, which nobody has imported.
    del sys.modules[program]
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        # Whoever asked closes it as soon as it has the answer.
        log = os.open(order["log"], os.O_WRONLY | os.O_APPEND)
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            pid = os.fork()
            if pid == 0:
                _become(launcher, service, order["environment"], log)
            os.write(writing, f"{pid}\n".encode())
            os._exit(0)
        # Only now is the new process an orphan.
        os.waitpid(between, 0)
        os.write(1, os.read(reading, 64))
        for file in (log, reading, writing):
            os.close(file)


def _become(launcher: str, service: str, environment: Mapping[str, str], log: int) -> None:
    """Run the service in this process, and end it."""
    status = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, file in ((0, nothing), (1, log), (2, log)):
            os.dup2(file, number)
        os.close(log)
        os.close(nothing)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = [launcher, service, "serve"]
        importlib.import_module(launcher).main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            sys.stderr.write(ended.code + "\n")
    except BaseException:  # noqa: BLE001 - the interpreter would print it as well
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
