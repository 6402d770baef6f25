"""`python -m tests.system.launch SERVICE serve`: a service as it is, with the faults that the environment names."""

import os
import runpy
import sys

from tests.system.failpoints import FAULTS, decode_faults, install


def main() -> None:
    service = sys.argv[1]
    for fault in decode_faults(os.environ.get(FAULTS, "[]")):
        install(fault)
    sys.argv = [f"services.{service}.main", *sys.argv[2:]]
    runpy.run_module(f"services.{service}.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
