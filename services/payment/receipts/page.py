"""A receipt as a page."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from services.payment.rules.receipts import Receipt, receipt_rows

_PAGES = Environment(
    loader=PackageLoader("services.payment.receipts", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


def write_page(receipt: Receipt) -> str:
    return _PAGES.get_template("receipt.html").render(receipt=receipt, rows=receipt_rows(receipt))
