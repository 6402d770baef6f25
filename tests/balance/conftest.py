"""Balance as its use cases, on a database of its own."""

from collections.abc import AsyncIterator

import pytest

from tests.balance.books import Books
from tests.conftest import MakeDatabase


@pytest.fixture
async def books(make_database: MakeDatabase) -> AsyncIterator[Books]:
    owner_url, app_url = await make_database("balance")
    made = await Books.open(owner_url, app_url)
    yield made
    await made.close()
