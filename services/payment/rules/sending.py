"""When a request that moves money may still go out: at once after it was noted, or not at all."""

from typing import Final

from shared.clock import SECOND_US
from shared.errors import TransientFault

# Whoever takes it back knows from the note for how long it may be on its way.
SEND_WITHIN_US: Final = 2 * SECOND_US


def check_goes_at_once(noted_at_us: int, now_us: int) -> None:
    """Raise TransientFault where a process was held up between the note and the request: it is decided again."""
    if now_us - noted_at_us > SEND_WITHIN_US:
        raise TransientFault("held up before the request was sent: it is decided again")
