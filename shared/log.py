"""Structured logs: one JSON object a line on standard error, UTC times, no secrets and no payloads.

An error of the database or of a validation names columns and fields, never values: a value may be a customer's name.
"""

import logging
import re
import sys
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Final, TypeAlias

import asyncpg
import pydantic
import structlog

_ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]

# What libraries put into their messages of what they were given.
_VALUES: Final = (
    (re.compile(r"(invalid input for query argument \$\d+).*", re.DOTALL), r"\1"),
    (re.compile(r"\s*\b(DETAIL|CONTEXT|STATEMENT):.*", re.DOTALL), ""),
    (re.compile(r"input_value=.*?(?=, input_type=)", re.DOTALL), "input_value=…"),
)
# PostgreSQL's classes whose messages may repeat a value: data exceptions and integrity violations.
_DATA_CLASSES: Final = ("22", "23", "54")
_CHAIN_MAX: Final = 10
# Libraries that repeat themselves a hundred times a second while a broker or a database is gone.
_REPEATING: Final = ("aiokafka", "asyncpg")
QUIET_SECONDS: Final = 30.0
_VARYING = re.compile(r"0x[0-9a-f]+|[0-9]+(?:\.[0-9]+)*|'[^']*'")
_KINDS_MAX = 1000


def describe_safely(error: BaseException) -> str:
    """What an error says, without the values that it was given."""
    if isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "").startswith(_DATA_CLASSES):
        named = [getattr(error, name, None) for name in ("table_name", "column_name", "constraint_name")]
        where = " ".join(name for name in named if name)
        return f"{type(error).__name__} {error.sqlstate or ''} {where}".strip()
    if isinstance(error, pydantic.ValidationError):
        places = [".".join(map(str, item["loc"])) + ": " + item["type"] for item in error.errors()[:5]]
        return f"{type(error).__name__}: {'; '.join(places)}"
    return redact(f"{type(error).__name__}: {error}")


def redact(text: str) -> str:
    """Cut the values out of a library's message."""
    for pattern, instead in _VALUES:
        text = pattern.sub(instead, text)
    return text


def _redact_values(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {name: redact(value) if isinstance(value, str) else value for name, value in event.items()}


def _format_exception(exc_info: _ExcInfo) -> str:
    """A traceback as Python writes it, oldest cause first, with each error described without values."""
    return _format_chain(exc_info[1], set())


def _format_chain(error: BaseException | None, seen: set[int]) -> str:
    """An error and what led to it, each once: an error that left a group may name the group as its cause."""
    parts: list[str] = []
    for _ in range(_CHAIN_MAX):
        if error is None or id(error) in seen:
            break
        seen.add(id(error))
        frames = "".join(traceback.format_tb(error.__traceback__))
        parts.append(f"Traceback (most recent call last):\n{frames}{describe_safely(error)}")
        if isinstance(error, BaseExceptionGroup):
            parts += [text for one in error.exceptions if (text := _format_chain(one, seen))]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\nwhich led to:\n\n".join(reversed(parts))


class OncePerKind(logging.Filter):
    """Lets one record of each logger and kind of message pass in `seconds`, with how many were left out since."""

    def __init__(self, seconds: float = QUIET_SECONDS, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._seconds = seconds
        self._monotonic = monotonic
        self._kinds: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(_REPEATING):
            return True
        now = self._monotonic()
        # Numbers, addresses and quoted names differ between records of a kind, and some libraries format beforehand.
        kind = record.name, record.levelno, _VARYING.sub("#", str(record.msg))[:200]
        since, left_out = self._kinds.get(kind, (-self._seconds, 0))
        if now - since < self._seconds:
            self._kinds[kind] = since, left_out + 1
            return False
        if len(self._kinds) >= _KINDS_MAX:
            self._kinds.clear()
        self._kinds[kind] = now, 0
        if left_out:
            record.msg = f"{record.getMessage()} ({left_out} more like it were left out)"
            record.args = None
        return True


def configure_logging(service: str, level: str = "INFO") -> None:
    """Send structlog and the libraries' own logs through one JSON renderer."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(_format_exception),
        _redact_values,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    handler.addFilter(OncePerKind())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.getLogger("uvicorn.access").setLevel("WARNING")
    logging.getLogger("httpx").setLevel("WARNING")
    logging.getLogger("aiokafka").setLevel("WARNING")
    structlog.contextvars.bind_contextvars(service=service)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger
