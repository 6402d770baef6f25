"""Balance's every route, asked as no honest client asks."""

import httpx
import structlog

from services.balance.api import BalanceApi
from services.balance.api_grants import GrantsApi
from services.balance.api_hours import HoursApi
from services.balance.api_payments import PaymentsApi
from services.balance.api_streams import StreamsApi
from services.balance.app.hours import Hours
from services.balance.app.streams import Streams
from shared.consumer import OffsetConsumer
from shared.http import create_api, dead_letter_routes, set_aside_routes
from shared.topics import CHARGES
from tests.balance.batches import simple
from tests.balance.books import Books
from tests.support.hostile_requests import find_faults


async def test_no_input_is_answered_with_a_fault_and_none_poisons_an_account(books: Books) -> None:
    """Instants at the ends of time were stored, and then could not be read."""
    await books.post(simple(1, {"acme": 5}))
    api = create_api("balance", readiness=dict)
    consumer = OffsetConsumer(
        books.pool, books.clock, books.charge_poster.apply, bootstrap="", topic_prefix="", topics=(CHARGES,), group="b"
    )
    for router in (
        BalanceApi(books.pool, books.clock, books.accounts, books.permits).router,
        HoursApi(Hours(books.pool, books.clock)).router,
        PaymentsApi(books.pool, books.orders).router,
        GrantsApi(books.grants, books.vouchers).router,
        StreamsApi(Streams(books.pool, books.clock, books.charge_poster)).router,
        dead_letter_routes(books.pool, consumer),
        set_aside_routes(books.pool, books.clock),
    ):
        api.include_router(router)
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    with structlog.testing.capture_logs():
        async with httpx.AsyncClient(transport=transport, base_url="http://balance") as client:
            count, faults = await find_faults(client, api.openapi())
            assert not faults, "\n".join(faults)
            assert count > 500
            for path in ("", "/grants", "/entries", "/hours", "/hours.csv"):
                assert (await client.get(f"/v1/accounts/vn/acme{path}")).status_code == 200
    assert await books.audit() == []
