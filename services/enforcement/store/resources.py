"""SQL of resources: what is known of each, and which runs."""

from collections.abc import Sequence
from typing import NamedTuple

import asyncpg
import orjson

from services.enforcement.rules.account import AccountKey
from services.enforcement.rules.lifecycle import Fact, FactKey, Life
from services.enforcement.rules.resource import Resource, ResourceKey
from shared.db import Connection

_COLUMNS = "r.region, r.resource_id, r.tenant_id, r.family, r.created, r.life"


class Found(NamedTuple):
    """Resources, and why the rows of others can't be read."""

    resources: list[Resource]
    unreadable: dict[ResourceKey, Exception]


async def load_resources(connection: Connection, ids: Sequence[tuple[str, str]]) -> list[Resource]:
    """Everything known of the resources named by (region, resource_id), whoever said it."""
    return [_resource(row) for row in await _fetch(connection, ids)]


async def load_found(connection: Connection, ids: Sequence[tuple[str, str]]) -> Found:
    """The same, where what can't be read is to stand before nothing."""
    return _read_each(await _fetch(connection, ids))


async def _fetch(connection: Connection, ids: Sequence[tuple[str, str]]) -> list[asyncpg.Record]:
    return await connection.fetch(
        f"""
        select {_COLUMNS} from resource r
        join unnest($1::text[], $2::text[]) k(region, resource_id) using (region, resource_id)
        """,  # noqa: S608 - the columns are constant
        [region for region, _ in ids],
        [resource_id for _, resource_id in ids],
    )


async def load_running(connection: Connection, keys: Sequence[AccountKey]) -> Found:
    """The running containers of accounts, and those of which the row can't be read: they stop none of the others."""
    rows = await connection.fetch(
        f"""
        select {_COLUMNS} from resource r
        join unnest($1::text[], $2::text[]) k(region, tenant_id) using (region, tenant_id)
        where r.created and not r.deleted and r.run_source is not null
        """,  # noqa: S608 - the columns are constant
        [key.region for key in keys],
        [key.tenant_id for key in keys],
    )
    return _read_each(rows)


def _read_each(rows: Sequence[asyncpg.Record]) -> Found:
    found = Found([], {})
    for row in rows:
        try:
            found.resources.append(_resource(row))
        except Exception as error:  # noqa: BLE001 - whatever a row makes of its reading
            found.unreadable[_key(row)] = error
    return found


async def load_live(connection: Connection, key: AccountKey) -> list[Resource]:
    """The containers and volumes of one account that exist, containers first."""
    rows = await connection.fetch(
        f"""
        select {_COLUMNS} from resource r
        where r.region = $1 and r.tenant_id = $2 and r.created and not r.deleted order by r.family, r.resource_id
        """,  # noqa: S608 - the columns are constant
        key.region,
        key.tenant_id,
    )
    return [_resource(row) for row in rows]


async def load_live_ids(connection: Connection, key: AccountKey) -> set[str]:
    """The names of what `load_live` gives, whether or not it can be read."""
    rows = await connection.fetch(
        "select resource_id from resource where (region, tenant_id) = ($1, $2) and created and not deleted", *key
    )
    return {row["resource_id"] for row in rows}


async def save_resources(connection: Connection, resources: Sequence[Resource]) -> None:
    if not resources:
        return
    runs = [resource.running for resource in resources]
    await connection.execute(
        """
        insert into resource (region, resource_id, tenant_id, family, created, deleted, run_source, run_event_id, life)
        select * from unnest(
          $1::text[], $2::text[], $3::text[], $4::text[], $5::bool[], $6::bool[], $7::text[], $8::text[], $9::jsonb[])
        on conflict (region, resource_id, tenant_id, family) do update
        set created = excluded.created, deleted = excluded.deleted, run_source = excluded.run_source,
            run_event_id = excluded.run_event_id, life = excluded.life
        """,
        *(list(column) for column in zip(*(resource.key for resource in resources), strict=True)),
        [resource.created for resource in resources],
        [resource.life.deleted for resource in resources],
        [None if run is None else run.source for run in runs],
        [None if run is None else run.event_id for run in runs],
        [encode_life(resource.life) for resource in resources],
    )


def encode_life(life: Life) -> str:
    return orjson.dumps(
        {
            "facts": [
                [fact.verb, fact.time_us, fact.source, fact.event_id, fact.sequence, fact.run_id, fact.replaces]
                for fact in life.facts
            ],
            "amended": life.amended,
            **({"disputed": True} if life.is_disputed else {}),
        },
        default=tuple,
    ).decode()


def decode_life(text: str) -> Life:
    found = orjson.loads(text)
    return Life(
        tuple(_fact(*values) for values in found["facts"]),
        tuple((FactKey(*taken), FactKey(*by)) for taken, by in found["amended"]),
        found.get("disputed", False),
    )


def _fact(
    verb: str,
    time_us: int,
    source: str,
    event_id: str,
    sequence: int | None,
    run_id: str | None,
    replaces: list[str] | None,
) -> Fact:
    return Fact(verb, time_us, source, event_id, sequence, run_id, None if replaces is None else FactKey(*replaces))


def _resource(row: asyncpg.Record) -> Resource:
    return Resource(_key(row), row["created"], decode_life(row["life"]))


def _key(row: asyncpg.Record) -> ResourceKey:
    return ResourceKey(row["region"], row["resource_id"], row["tenant_id"], row["family"])
