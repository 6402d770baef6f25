"""Metering as its use cases, on a database of its own."""

from collections.abc import AsyncIterator

import pytest

from tests.conftest import MakeDatabase
from tests.metering.meter import Meter


@pytest.fixture
async def meter(make_database: MakeDatabase) -> AsyncIterator[Meter]:
    _, app_url = await make_database("metering")
    made = await Meter.open(app_url)
    yield made
    await made.close()
