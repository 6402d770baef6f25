"""Migrations run once, in order, and never on a database that a newer version has used."""

import shutil
from pathlib import Path

import pytest

from services.payment.main import MIGRATIONS
from shared.db import migrate
from shared.errors import Corruption
from tests.conftest import MakeDatabase


async def test_older_code_refuses_a_newer_database_and_names_both(make_database: MakeDatabase, tmp_path: Path) -> None:
    owner_url, _ = await make_database("payment")
    newer = tmp_path / "payment" / "migrations"
    shutil.copytree(MIGRATIONS[-1], newer)
    (newer / "0999_later.sql").write_text("create table later (a int)")
    assert await migrate(owner_url, MIGRATIONS) == []
    assert await migrate(owner_url, [*MIGRATIONS[:-1], newer]) == ["payment/0999_later.sql"]
    last = max(path.name for path in MIGRATIONS[-1].glob("*.sql"))
    with pytest.raises(Corruption, match=rf"payment/0999_later.sql, and this version ends with payment/{last}"):
        await migrate(owner_url, MIGRATIONS)
    assert await migrate(owner_url, [*MIGRATIONS[:-1], newer]) == []
