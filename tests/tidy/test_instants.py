"""Every instant that a database can hold is one that can be written down."""

import asyncpg
import pytest

from tests.conftest import MakeDatabase

_UNBOUNDED = """
select c.relname || '.' || a.attname
from pg_attribute a join pg_class c on c.oid = a.attrelid
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition and a.attnum > 0
  and not a.attisdropped
  and a.atttypid = any(array['timestamptz', 'timestamp', 'numeric', 'float8', 'float4']::regtype[])
  and not exists (select from pg_constraint k where k.conrelid = c.oid and k.contype = 'c' and a.attnum = any(k.conkey)
    and pg_get_constraintdef(k.oid) like '%10000-01-01%')
order by 1
"""


@pytest.mark.parametrize("service", ["balance", "enforcement", "metering", "payment"])
async def test_every_instant_is_bounded_and_nothing_is_a_float(make_database: MakeDatabase, service: str) -> None:
    owner_url, _ = await make_database(service)
    connection = await asyncpg.connect(owner_url)
    try:
        found = [row[0] for row in await connection.fetch(_UNBOUNDED)]
    finally:
        await connection.close()
    assert found == [], "call bound_instants() in the migration that adds these; amounts are integers"


async def test_an_instant_that_no_calendar_has_is_refused(make_database: MakeDatabase) -> None:
    """One of them was the least of all that are due, and ended the loop that reads them."""
    owner_url, _ = await make_database("metering")
    connection = await asyncpg.connect(owner_url)
    try:
        await connection.execute("insert into halt (reason, halted_at) values ('a test', '9999-12-31 23:59:59Z')")
        for instant in ("-infinity", "infinity", "0001-12-31 23:59:59Z BC", "10000-01-01Z"):
            with pytest.raises(asyncpg.CheckViolationError, match="halt_halted_at_in_calendar"):
                await connection.execute(
                    "insert into halt (reason, halted_at) values ('a test', $1::text::timestamptz)", instant
                )
        checked = await connection.fetchval("select count(*) from pg_constraint where conname like '%\\_in\\_calendar'")
    finally:
        await connection.close()
    assert checked > 20
