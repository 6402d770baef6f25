"""Databases, roles and migrations, before the services start."""

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from deploy.local.databases import APP, OWNER, check_login, create_database, create_roles, role_url
from deploy.local.environment import database_name, owner_setting
from deploy.local.faults import StackError
from deploy.local.infrastructure.probes import run_async
from deploy.local.processes import run_apart
from deploy.local.services import Service

_MIGRATE_SECONDS = 120
# The last line of a traceback of an error that we raise on purpose.
_REFUSED = re.compile(r"shared\.errors\.\w+: (.+)")


def prepare_databases(
    services: Sequence[Service],
    user: Mapping[str, str],
    environment: Mapping[str, str],
    *,
    admin_url: str,
    passwords: Mapping[str, str],
    server_is_ours: bool,
) -> None:
    """Create the roles and one database per service, and run each service's own migrations.

    On a server that is not ours an existing role keeps its password.
    """
    run_async(_create(services, user, admin_url=admin_url, passwords=passwords, server_is_ours=server_is_ours))

    def migrate(service: Service) -> None:
        owner = owner_setting(service, user, admin_url=admin_url, passwords=passwords)
        _migrate(service, {**environment, **owner})

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(migrate, services))


async def _create(
    services: Sequence[Service],
    user: Mapping[str, str],
    *,
    admin_url: str,
    passwords: Mapping[str, str],
    server_is_ours: bool,
) -> None:
    await create_roles(admin_url, passwords, renew_passwords=server_is_ours)
    for service in services:
        name = database_name(service, user)
        await create_database(admin_url, name)
        for role in (OWNER, APP):
            await check_login(role_url(admin_url, role, passwords[role], name), role)


def _migrate(service: Service, environment: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", service.module, "migrate"]
    try:
        answer = run_apart(command, environment=environment, timeout_seconds=_MIGRATE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise StackError(
            f"the migration of {service.name} took over {_MIGRATE_SECONDS} s: does somebody lock its database?"
        ) from error
    if answer.returncode != 0:
        said = (answer.stdout + answer.stderr).strip()
        if refused := _REFUSED.fullmatch(said.rpartition("\n")[2]):
            raise StackError(f"the database of {service.name} can't be used: {refused[1]} (set TOLLKEEPER_HOME).")
        raise StackError(f"the migration of {service.name} failed:\n{said[-2000:]}")
