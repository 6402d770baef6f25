"""HTTP of Credit History: what an account was charged by resource and hour, in pages and as CSV."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from services.balance.app.hours import Hours, Page, Place
from services.balance.store.hour_reading import HourRow, OpenPart
from shared.clock import format_instant
from shared.cursors import After, Cursors, not_of_this_list
from shared.events.cloudevents import Identifier, Instant, RegionName, TenantId

PAGE_MAX = 1000

_Key = tuple[int, str, str, int, int, int]
# Hour, resource and kind of the last row; then the moment: batch, from when on it is open, last batch.
_HOURS: Cursors[_Key] = Cursors("hours", (0, "", "", 0, 0, 0), instants=(0, 4))

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
        after: After = None,
        limit: Limit = 100,
    ) -> dict[str, Any]:
        """A page of rows by hour, resource and kind; the first page has the totals of the whole interval.

        All pages are of the moment of the first one: they add up to its totals.
        """
        place = None if after is None else _to_place(_HOURS.read(after, region, tenant_id))
        page = await self._hours.page(region, tenant_id, from_us, to_us, place, limit)
        return {
            "from": format_instant(page.interval.from_us),
            "to": format_instant(page.interval.to_us),
            "hours": [_describe(row) for row in page.rows],
            "totals": _describe_totals(page),
            "next": None if page.next is None else _HOURS.write(_to_key(page.next), region, tenant_id),
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


def _to_key(place: Place) -> _Key:
    return (*place.key, place.moment.seq, place.moment.from_us, place.moment.last_seq)


def _to_place(key: _Key) -> Place:
    """The place that a cursor names. Raises Refusal where its numbers are none of batches."""
    hour_us, resource_id, kind, seq, from_us, last_seq = key
    if seq < 0 or last_seq < 0:
        raise not_of_this_list()
    return Place((hour_us, resource_id, kind), OpenPart(seq, from_us, last_seq))
