"""The errors of Tollkeeper: a refusal to tell the caller, a fault to retry, a corruption that must stop the line."""


class TollkeeperError(Exception):
    """Root of every error that this project raises on purpose."""


class Refusal(TollkeeperError):
    """A business refusal: the caller can do something about it.

    `code` is stable and machine-readable, `status` the HTTP status, `detail` says what to do.
    """

    def __init__(self, code: str, detail: str, *, status: int = 409, **extra: object) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.status = status
        self.extra = extra


class RecordError(TollkeeperError):
    """A record that can't be understood or is refused for good: it goes to the dead letters with this reason."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class TransientFault(TollkeeperError):
    """Something that passes: retry the same work with backoff."""


class Corruption(TollkeeperError):
    """Facts contradict each other: stop this line, keep everything, page a person."""
