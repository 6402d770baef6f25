"""Fresh databases of a service, cloned from a template that was migrated once a session."""

import os
from pathlib import Path

import asyncpg

from deploy.local.databases import APP, OWNER, create_database, create_roles, drop_database, role_url
from shared.db import SHARED_MIGRATIONS, migrate

SERVICES = Path(__file__).parents[2] / "services"
# As many as PostgreSQL keeps for reuse by default: min_wal_size is 80 MB.
LOG_FILES = 5
PASSWORDS = {OWNER: "tollkeeper-test-owner", APP: "tollkeeper-test-app"}


class Databases:
    """Makes databases on one server and drops what it made. Names carry the process, so that runs don't meet."""

    def __init__(self, admin_url: str) -> None:
        self.admin_url = admin_url
        self._templates: dict[str, str] = {}
        self._made = 0
        self._roles_made = False

    async def make(self, service: str) -> tuple[str, str, str]:
        """A migrated database of `service`: its name, the owner's address, the application's address."""
        template = await self._provide_template(service)
        self._made += 1
        name = f"tk_{os.getpid()}_{service}_{self._made}"
        await drop_database(self.admin_url, name)
        await create_database(self.admin_url, name, template=template)
        return name, *self._urls(name)

    async def copy(self, name: str, to: str) -> None:
        """Make `to` anew as a copy of a database that nobody is in."""
        await drop_database(self.admin_url, to)
        await create_database(self.admin_url, to, template=name)

    async def cut_sessions(self, name: str) -> int:
        """End every session of a database, as a fail-over does; answer how many there were."""
        connection = await asyncpg.connect(self.admin_url, timeout=10)
        try:
            return int(
                await connection.fetchval(
                    "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = $1", name
                )
            )
        finally:
            await connection.close()

    async def empty(self, name: str) -> None:
        """Make a database anew, with nothing in it."""
        await drop_database(self.admin_url, name)
        await create_database(self.admin_url, name)

    async def age_log(self) -> None:
        """Let the server reuse files of its write-ahead log, as one does that has run for a while.

        A new server writes 16 MB of zeros and waits for the disk whenever a file is full, and everybody waits with it.
        """
        connection = await asyncpg.connect(self.admin_url, timeout=10)
        try:
            for _ in range(LOG_FILES):
                await connection.execute("select pg_logical_emit_message(true, 'age', '')")
                await connection.execute("select pg_switch_wal()")
            await connection.execute("checkpoint")
        finally:
            await connection.close()

    async def drop(self, name: str) -> None:
        await drop_database(self.admin_url, name)

    async def drop_templates(self) -> None:
        for template in self._templates.values():
            await drop_database(self.admin_url, template)

    async def _provide_template(self, service: str) -> str:
        if service in self._templates:
            return self._templates[service]
        folder = SERVICES / service
        if not folder.is_dir():
            raise ValueError(f"there is no service {service}")
        if not self._roles_made:
            await create_roles(self.admin_url, PASSWORDS, renew_passwords=False)
            self._roles_made = True
        template = f"tk_{os.getpid()}_{service}_template"
        await drop_database(self.admin_url, template)
        await create_database(self.admin_url, template)
        await migrate(self._urls(template)[0], [SHARED_MIGRATIONS, folder / "migrations"])
        self._templates[service] = template
        return template

    def _urls(self, name: str) -> tuple[str, str]:
        owner, app = (role_url(self.admin_url, role, PASSWORDS[role], name) for role in (OWNER, APP))
        return owner, app
