"""Price books as metering publishes them: what an hour of something new would cost."""

from services.balance.rules.admission import PriceKey
from services.balance.store.prices import save_prices
from shared.consumer import Poll
from shared.db import Connection
from shared.errors import RecordError
from shared.events.prices import PriceBookPublished
from shared.events.reading import read_json
from shared.money import parse_micros


async def apply_price_books(connection: Connection, poll: Poll) -> None:
    """Keep a poll's prices; a book that can't be understood is buried."""
    for record in poll.records:
        try:
            book = read_json(PriceBookPublished, record.value or b"")
        except (ValueError, RecordError) as error:
            poll.bury(record, "invalid price book", str(error))
            continue
        prices = [(PriceKey("gpu", sku), parse_micros(price)) for sku, price in book.gpu.items()]
        prices += [(PriceKey("storage", sku), parse_micros(price)) for sku, price in book.storage.items()]
        await save_prices(connection, book.region, book.version, book.effective_from, prices)
