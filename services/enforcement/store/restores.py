"""SQL of restores, of other services and of this one's own database."""

from collections.abc import Sequence

from shared.db import Connection
from shared.events.service import ServiceRestoreConfirmed, ServiceRestored


async def save_service_events(
    connection: Connection, events: Sequence[ServiceRestored | ServiceRestoreConfirmed]
) -> None:
    """Remember what services said of their restores. A confirmation covers the incarnations before it."""
    for event in events:
        data = event.data
        if isinstance(event, ServiceRestored):
            await connection.execute(
                """
                insert into service_restore (service, incarnation, restored_at, confirmed_at)
                select $1, $2, $3,
                  (select max(confirmed_at) from service_restore where service = $1 and incarnation >= $2)
                on conflict (service, incarnation) do update set restored_at = excluded.restored_at
                """,
                data.service,
                data.incarnation,
                event.data.restored_at,
            )
        else:
            await connection.execute(
                """
                with covered as (
                  update service_restore set confirmed_at = $3
                  where service = $1 and incarnation < $2 and confirmed_at is null
                )
                insert into service_restore (service, incarnation, confirmed_at) values ($1, $2, $3)
                on conflict (service, incarnation) do update
                set confirmed_at = coalesce(service_restore.confirmed_at, excluded.confirmed_at)
                """,
                data.service,
                data.incarnation,
                event.data.confirmed_at,
            )


async def load_unconfirmed(connection: Connection) -> list[tuple[str, int, int]]:
    """Service, incarnation and instant of each restore, this database's own too, that no operator has confirmed."""
    rows = await connection.fetch(
        """
        select service, incarnation, restored_at from service_restore where confirmed_at is null
        union select 'enforcement', incarnation, restored_at from restore_record where confirmed_at is null
        order by 1, 2
        """
    )
    return [(row["service"], row["incarnation"], row["restored_at"]) for row in rows]
