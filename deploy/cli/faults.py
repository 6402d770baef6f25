"""How a command ends when it does not end well: an exit code that a program can rely on, and a line for a person."""

from typing import Final

from shared.errors import TollkeeperError

OK: Final = 0
FOUND: Final = 1
TIMEOUT: Final = 2
STOPPED: Final = 3
USAGE: Final = 64
UNAVAILABLE: Final = 69
INTERRUPTED: Final = 130

EXIT_CODES: Final = (
    "Exit codes: 0 done; 1 the input or the request is wrong, or something differs (it is printed); "
    "2 wait-settled ran out of time; 3 a shard is stopped or the tick is halted; "
    "64 the command was not called as documented; 69 a service or the broker does not answer; "
    "130 interrupted."
)


class CommandError(TollkeeperError):
    """A fault that was to be expected; `message` says what to do, `exit_code` is one of this module's."""

    def __init__(self, message: str, exit_code: int = FOUND) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code


class EarlyExitError(TollkeeperError):
    """The command said all it has to say and ends with a code that is not 0."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code
