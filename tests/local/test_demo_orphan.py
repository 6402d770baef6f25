"""The demo ends with its supervisor, however that ends."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process
_CHILD = """
import asyncio, sys
from deploy.local.demo.__main__ import wait_for_orphanage
print("plays", flush=True)
asyncio.run(wait_for_orphanage(int(sys.argv[1])))
print("ends", flush=True)
"""
_PARENT = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {_CHILD!r}, str(os.getpid())])
time.sleep(600)
"""


def test_a_demo_whose_supervisor_was_killed_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == "plays\n"
        supervisor.kill()
        assert supervisor.stdout.readline() == "ends\n"
