"""Logs name no value that a database or a validation was given (finding: payment A5)."""

import json
import logging
from collections.abc import Iterator

import asyncpg
import pytest
import structlog
from pydantic import BaseModel, ValidationError

from shared.log import configure_logging, describe_safely, get_logger
from shared.set_aside import describe_error
from tests.conftest import MakeDatabase

SECRET = "payer.secret@example.org"


class Body(BaseModel):
    amount: int


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


async def errors(url: str) -> list[BaseException]:
    """What a row with a payer's address leads to: a constraint, a codec, a byte that PostgreSQL refuses, a shape."""
    found: list[BaseException] = []
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("create temp table payer (email text, units bigint check (units > 0))")
        for arguments in ((SECRET, 0), (SECRET + "\0", 1), ("x", SECRET)):
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)) as caught:
                await connection.execute("insert into payer values ($1, $2)", *arguments)
            found.append(caught.value)
    finally:
        await connection.close()
    with pytest.raises(ValidationError) as invalid:
        Body.model_validate({"amount": SECRET})
    return [*found, invalid.value]


async def test_an_error_in_a_log_names_no_value(
    make_database: MakeDatabase, capsys: pytest.CaptureFixture[str]
) -> None:
    owner_url, _ = await make_database("payment")
    configure_logging("payment")
    for error in await errors(owner_url):
        outer = RuntimeError("the loop failed")
        outer.__cause__ = error
        get_logger("own").error("http.unexpected", exc_info=outer)
        # A library's own line, as uvicorn writes it, and an error that somebody wrote out by hand.
        logging.getLogger("uvicorn.error").error("Exception in ASGI application", exc_info=outer)
        get_logger("own").warning("loop.fault", error=repr(error)[:500], text=str(error))
        assert SECRET not in describe_safely(error)
        assert SECRET not in describe_error(error)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert len(lines) == 12
    assert SECRET not in json.dumps(lines)
    told = lines[0]["exception"]
    assert "CheckViolationError 23514 payer payer_units_check" in told
    assert "which led to" in told
    assert told.endswith("RuntimeError: the loop failed")
