"""HTTP of Credit History: what an account was charged by resource and hour, in pages and as CSV."""

import base64
import binascii
from dataclasses import asdict
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from services.balance.app.hours import Hours, Page, Place
from services.balance.store.hour_reading import HourRow, OpenPart
from shared.clock import format_instant
from shared.errors import Refusal
from shared.events.cloudevents import Identifier, Instant, RegionName, TenantId
from shared.money import AMOUNT_MICROS_MAX

PAGE_MAX = 1000

From = Annotated[Instant | None, Query(alias="from", description="A full hour; by default the account's first.")]
To = Annotated[Instant | None, Query(alias="to", description="A full hour, not included; by default the open one is.")]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
ByteOrderMark = Annotated[bool, Query(description="Begin with a byte order mark, by which Excel knows UTF-8.")]


class HoursApi:
    """The routes and what they need."""

    def __init__(self, hours: Hours) -> None:
        self._hours = hours
        self.router = APIRouter(prefix="/v1/accounts/{region}/{tenant_id}", tags=["hours"])
        self.router.add_api_route("/hours", self.page, methods=["GET"])
        self.router.add_api_route("/charged", self.charged, methods=["GET"])
        self.router.add_api_route("/hours.csv", self.csv, methods=["GET"], response_class=StreamingResponse)

    async def page(
        self,
        region: RegionName,
        tenant_id: TenantId,
        from_us: From = None,
        to_us: To = None,
        after: str | None = None,
        limit: Limit = 100,
    ) -> dict[str, Any]:
        """A page of rows by hour, resource and kind; the first page has the totals of the whole interval.

        All pages are of the moment of the first one: they add up to its totals.
        """
        place = None if after is None else _read_cursor(after)
        page = await self._hours.page(region, tenant_id, from_us, to_us, place, limit)
        return {
            "from": format_instant(page.interval.from_us),
            "to": format_instant(page.interval.to_us),
            "hours": [_describe(row) for row in page.rows],
            "totals": _describe_totals(page),
            "next": None if page.next is None else _write_cursor(page.next),
        }

    async def charged(self, region: RegionName, tenant_id: TenantId, resource_id: Identifier) -> dict[str, Any]:
        """All that was charged for one resource by kind, by the batches of its `shard` up to `seq`."""
        return asdict(await self._hours.charged(region, tenant_id, resource_id))

    async def csv(
        self,
        region: RegionName,
        tenant_id: TenantId,
        from_us: From = None,
        to_us: To = None,
        *,
        bom: ByteOrderMark = False,
    ) -> StreamingResponse:
        """The whole interval as CSV (RFC 4180): hour, resource_id, kind, slots, amount_micros, open.

        A name that a spreadsheet would run as a formula begins with an apostrophe.
        """
        pieces = await self._hours.open_csv(region, tenant_id, from_us, to_us, bom=bom)
        name = f"hours-{region}-{tenant_id}.csv"
        return StreamingResponse(
            pieces, media_type="text/csv", headers={"content-disposition": f'attachment; filename="{name}"'}
        )


def _describe(row: HourRow) -> dict[str, Any]:
    return {
        "hour": format_instant(row.hour_us),
        "resource_id": row.resource_id,
        "kind": row.kind,
        "slots": row.slots,
        "amount_micros": row.amount_micros,
        "open": row.is_open,
    }


def _describe_totals(page: Page) -> dict[str, Any] | None:
    if page.totals is None:
        return None
    return {
        "amount_micros": sum(total.amount_micros for total in page.totals),
        "kinds": [
            {"kind": total.kind, "slots": total.slots, "amount_micros": total.amount_micros} for total in page.totals
        ],
    }


def _write_cursor(place: Place) -> str:
    moment = place.moment
    return base64.urlsafe_b64encode(orjson.dumps([*place.key, moment.seq, moment.from_us, moment.last_seq])).decode()


def _read_cursor(cursor: str) -> Place:
    try:
        found = orjson.loads(base64.urlsafe_b64decode(cursor))
        hour_us, resource_id, kind, seq, from_us, last_seq = found
        for instant_us in (hour_us, from_us):
            format_instant(instant_us)
    except (binascii.Error, ValueError, TypeError, OverflowError) as error:
        raise _bad_cursor() from error
    if [type(part) for part in found] != [int, str, str, int, int, int] or "\0" in resource_id + kind:
        raise _bad_cursor()
    if not (0 <= seq <= AMOUNT_MICROS_MAX and 0 <= last_seq <= AMOUNT_MICROS_MAX):
        raise _bad_cursor()
    return Place((hour_us, resource_id, kind), OpenPart(seq, from_us, last_seq))


def _bad_cursor() -> Refusal:
    return Refusal("invalid-cursor", "`after` is the `next` of the page before", status=422)
