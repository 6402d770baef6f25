"""Where `tollkeeper` begins: Ctrl-C while its modules are still being loaded ends it without a traceback."""

import sys


def main() -> None:
    try:
        from deploy.cli.main import run

        code = run()
    except KeyboardInterrupt:
        sys.stderr.write("tollkeeper: interrupted\n")
        code = 130
    sys.exit(code)
