"""`tollkeeper prices`: publish and show price books."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError

from deploy.cli.faults import CommandError
from deploy.cli.output import JsonOption, print_json, print_table, say
from deploy.cli.services import open_services, segment
from shared.clock import format_instant
from shared.events.prices import PriceBookFile, PriceBookPublished
from shared.events.reading import describe

prices = typer.Typer(no_args_is_help=True)


class _BookLoader(yaml.SafeLoader):
    """YAML as data only: instants stay text, and a key that is given twice is a mistake, not the last one's win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_BookLoader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_book(text: str) -> PriceBookFile:
    """Read a price book. Raises CommandError that names the first thing that is wrong."""
    try:
        document = yaml.load(text, _BookLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise CommandError(f"the price book is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise CommandError("the price book must be a mapping with region, effective_from, gpu, storage, services")
    _refuse_bare_numbers(document)
    try:
        return PriceBookFile.model_validate(document)
    except ValidationError as error:
        raise CommandError(f"the price book is wrong: {describe(error)}") from error


def _refuse_bare_numbers(document: dict[Any, Any]) -> None:
    """A bare 2.54 has been a binary fraction before anybody can look at it."""
    for kind in ("gpu", "storage", "services"):
        skus = document.get(kind)
        if not isinstance(skus, dict):
            continue
        for sku, stated in skus.items():
            price = stated.get("price") if kind == "services" and isinstance(stated, dict) else stated
            if isinstance(price, int | float):
                raise CommandError(f'{kind}.{sku}: the price {price} is not quoted; write it as text: "{price}"')


@prices.command("publish")
def publish_prices(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="A price book; prices are quoted strings.")],
    *,
    json: JsonOption = False,
) -> None:
    """Publish a price book: it changes the SKUs that it names, from its effective_from on."""
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file} can't be read: {error}") from error
    book = read_book(text)
    with open_services() as services:
        answer = services.put("metering", "/v1/price-books", book.model_dump(mode="json"))
    if json:
        print_json(answer)
    else:
        effective = format_instant(book.effective_from)
        say(f"price book version {answer['version']} of {book.region}, in force from {effective}")


@prices.command("show")
def show_prices(
    region: Annotated[str, typer.Argument(help="A region's name, such as vn.")], *, json: JsonOption = False
) -> None:
    """Show a region's price books, those to come too."""
    with open_services() as services:
        document = services.get("metering", f"/v1/price-books/{segment(region)}")
    books = document["books"]
    if not books:
        raise CommandError(
            f"region {region} has no price book: see the name, or publish one with `tollkeeper prices publish`"
        )
    if json:
        print_json(document)
        return
    rows = [
        (book.version, format_instant(book.effective_from), *line)
        for book in map(PriceBookPublished.model_validate, books)
        for line in _lines(book)
    ]
    print_table(("version", "from", "kind", "SKU", "price", "per"), rows)


def _lines(book: PriceBookPublished) -> Iterator[tuple[str, str, str, str]]:
    """Kind, SKU, price and what it is for, of all that a book names."""
    for sku, price in book.gpu.items():
        yield "gpu", sku, price, "GPU and hour"
    for sku, price in book.storage.items():
        yield "storage", sku, price, "GB and hour"
    for sku, stated in book.services.items():
        yield "services", sku, stated.price, stated.unit
