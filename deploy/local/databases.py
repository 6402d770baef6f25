"""Roles and databases: `tollkeeper_owner` owns every table, `tollkeeper_app` is what services log in as."""

from collections.abc import Mapping
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from deploy.local.faults import StackError

OWNER = "tollkeeper_owner"
APP = "tollkeeper_app"
ROLES = (OWNER, APP)


def role_url(admin_url: str, role: str, password: str, database: str) -> str:
    """The address of `database` for `role`, on the server of `admin_url`."""
    parts = urlsplit(admin_url)
    server = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}:{quote(password)}@{server}", path=f"/{database}"))


async def create_roles(admin_url: str, passwords: Mapping[str, str], *, renew_passwords: bool) -> None:
    """Create the roles that are missing. `renew_passwords` sets existing ones' too: only on a server of our own."""
    connection = await asyncpg.connect(admin_url, timeout=10)
    try:
        for role in ROLES:
            if await connection.fetchval("select exists (select from pg_roles where rolname = $1)", role):
                if renew_passwords:
                    await _execute(connection, "alter role %I password %L", role, passwords[role])
                continue
            try:
                await _execute(connection, "create role %I login password %L", role, passwords[role])
            except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
                continue  # somebody else made it at the same moment
    except asyncpg.InsufficientPrivilegeError as error:
        raise StackError(
            f"the user of TOLLKEEPER_POSTGRES_URL may not create the roles {OWNER} and {APP} ({error}). Give the "
            "address of an administrator."
        ) from error
    finally:
        await connection.close()


async def create_database(admin_url: str, name: str, *, template: str | None = None) -> bool:
    """Create a database that `tollkeeper_owner` owns and `tollkeeper_app` may enter; whether it was missing."""
    connection = await asyncpg.connect(admin_url, timeout=10)
    try:
        if await connection.fetchval("select exists (select from pg_database where datname = $1)", name):
            return False
        await _execute(
            connection, "create database %I owner %I template %I encoding 'UTF8'", name, OWNER, template or "template0"
        )
        await _execute(connection, "revoke all on database %I from public", name)
        await _execute(connection, "grant connect, temporary on database %I to %I", name, APP)
        return True
    finally:
        await connection.close()


async def drop_database(admin_url: str, name: str) -> None:
    """Drop a database with whoever is still in it: for tests."""
    connection = await asyncpg.connect(admin_url, timeout=10)
    try:
        await _execute(connection, "drop database if exists %I with (force)", name)
    finally:
        await connection.close()


async def check_login(url: str, role: str) -> None:
    """Raise StackError if `role` can't log in with the password that this home remembers."""
    try:
        connection = await asyncpg.connect(url, timeout=10)
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        setting = f"TOLLKEEPER_{role.removeprefix('tollkeeper_').upper()}_PASSWORD"
        raise StackError(
            f"the role {role} exists already with another password ({error}). Give its password in {setting}, or drop "
            "the role if nothing uses it."
        ) from error
    await connection.close()


async def _execute(connection: "asyncpg.Connection[asyncpg.Record]", statement: str, *names: str) -> None:
    """Run a statement that takes no parameters, its names and literals quoted by the server itself."""
    places = ", ".join(f"${number + 2}::text" for number in range(len(names)))
    await connection.execute(await connection.fetchval(f"select format($1, {places})", statement, *names))
