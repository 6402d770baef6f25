"""`python -m tests.local.fake_stack up|down|status`: the local stack with one small service instead of the real."""

import sys

from deploy.local.services import Service
from deploy.local.stack import main

FAKES = (Service("metering", "tests.local.fake_service", 18083),)

if __name__ == "__main__":
    sys.exit(main(services=FAKES, launcher=(sys.executable, "-m", "tests.local.fake_stack")))
