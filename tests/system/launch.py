"""`python -m tests.system.launch SERVICE serve`: a service as it is, with the faults that the environment names."""

import os
import runpy
import sys
from typing import Any

from aiokafka import AIOKafkaConsumer

import shared.consumer
from tests.system.failpoints import FAULTS, decode_faults, install

# The shortest that a broker allows by default: a killed member of a group is missed no longer than that.
SESSION_TIMEOUT_MS = 6000


def open_consumer(**options: Any) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(**{**options, "session_timeout_ms": SESSION_TIMEOUT_MS})


def main() -> None:
    service = sys.argv[1]
    setattr(shared.consumer, "AIOKafkaConsumer", open_consumer)  # noqa: B010 - a name in somebody else's module
    for fault in decode_faults(os.environ.get(FAULTS, "[]")):
        install(fault)
    sys.argv = [f"services.{service}.main", *sys.argv[2:]]
    runpy.run_module(f"services.{service}.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
