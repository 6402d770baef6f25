"""What can go wrong on a developer's machine, each with a message that says what to do."""

from shared.errors import TollkeeperError


class StackError(TollkeeperError):
    """The local stack can't start or go on; the message is for the person at the terminal and says what to do."""
