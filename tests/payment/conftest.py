"""Payment as its use cases, on a database of its own."""

from collections.abc import AsyncIterator

import pytest

from tests.conftest import MakeDatabase
from tests.payment.shop import Shop, open_shop


@pytest.fixture
async def shop(make_database: MakeDatabase) -> AsyncIterator[Shop]:
    _, app_url = await make_database("payment")
    async with open_shop(app_url) as opened:
        yield opened
