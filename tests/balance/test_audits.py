"""The audit as a process beside the service."""

import asyncio
import sys
from contextlib import suppress

import pytest

from services.balance.api_audits import AuditsApi
from services.balance.app.audits import COMMAND, Audit, AuditedAccount, Auditor, AuditRequest
from shared.errors import Refusal
from tests.balance.batches import simple
from tests.balance.books import START_US, Books
from tests.conftest import MakeDatabase
from tests.support.eventually import eventually


async def finish(auditor: Auditor) -> Audit:
    """Ask for an audit and wait for its end."""
    running = asyncio.create_task(auditor.run())
    auditor.ask()
    assert auditor.is_running
    try:
        done: bool = await eventually(lambda: not auditor.is_running, timeout_seconds=90, what="the audit")
        assert done
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert auditor.last is not None
    return auditor.last


async def test_it_runs_in_a_process_of_its_own_and_finds_what_differs(
    make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch, postgres_admin_url: str
) -> None:
    owner_url, app_url = await make_database("balance")
    books = await Books.open(owner_url, app_url)
    try:
        await books.post(simple(1, {"acme": 5}))
        monkeypatch.setenv("TOLLKEEPER_BALANCE_DATABASE_URL", app_url)
        auditor = Auditor(books.clock, 3600, COMMAND)
        assert await finish(auditor) == Audit(START_US, START_US, [])
        await books.as_superuser(postgres_admin_url, "update account set balance_micros = 1")
        found = await finish(auditor)
        assert found.differences
        assert found.differences[0]["account"] == "vn/acme"
    finally:
        await books.close()


async def test_one_that_fails_says_so(books: Books) -> None:
    failing = (sys.executable, "-c", "import sys; sys.stderr.write('no database'); sys.exit(3)")
    found = await finish(Auditor(books.clock, 3600, failing))
    assert (found.differences, found.fault) == (None, "no database")


async def test_one_that_breaks_off_is_no_audit_that_found_nothing(books: Books) -> None:
    """Python ends a program that raises with 1; the auditor goes on, and the next audit may begin."""
    auditor = Auditor(books.clock, 3600, (sys.executable, "-c", "raise RuntimeError('the disk is full')"))
    for _ in range(2):
        found = await finish(auditor)
        assert found.differences is None
        assert "the disk is full" in str(found.fault)


async def test_an_account_that_there_is_not_is_refused_at_the_door(books: Books) -> None:
    auditor = Auditor(books.clock, 3600)
    api = AuditsApi(books.pool, auditor)
    nobody = AuditRequest(account=AuditedAccount(region="vn", tenant_id="nobody"))
    with pytest.raises(Refusal, match="account-not-found"):
        await api.start(nobody)
    assert not auditor.is_running
    await books.post(simple(1, {"acme": 5}))
    assert (await api.start(AuditRequest(account=AuditedAccount(region="vn", tenant_id="acme"))))["state"] == "running"
    with pytest.raises(Refusal, match="audit-running"):
        await api.start()
