"""The OpenAPI documents of the services, from their routes alone: no database, no broker, nothing is asked."""

from collections.abc import Callable
from typing import Any

import orjson
from fastapi import FastAPI

from services.balance.api import BalanceApi
from services.balance.api_admissions import AdmissionsApi
from services.balance.api_audits import AuditsApi
from services.balance.api_forecasts import ForecastsApi
from services.balance.api_grants import GrantsApi
from services.balance.api_hours import HoursApi
from services.balance.api_payments import PaymentsApi
from services.balance.api_streams import StreamsApi
from services.enforcement.api import create_routes as enforcement_routes
from services.metering.api import MeteringApi
from services.metering.api_events import EventsApi
from services.payment.api import PaymentApi
from services.payment.api_auto_top_up import AutoTopUpApi
from services.payment.api_open_payments import OpenPaymentsApi
from services.payment.api_operators import OperatorApi
from services.payment.api_pages import PagesApi
from services.payment.api_reconciliation import ReconciliationApi
from services.payment.api_webhooks import WebhookApi
from shared.http import create_api, dead_letter_routes, set_aside_routes
from shared.restore_routes import restore_routes


class _Absent:
    """Stands for a part that routes hold on to but do not use before a request comes."""

    def __getattr__(self, name: str) -> "_Absent":
        return self


ABSENT: Any = _Absent()


def _document(title: str, *routers: Any) -> FastAPI:  # noqa: ANN401 - FastAPI's routers
    api = create_api(title, readiness=dict)
    everywhere = (
        dead_letter_routes(ABSENT, ABSENT),
        set_aside_routes(ABSENT, ABSENT),
        restore_routes(ABSENT, ABSENT, "balance"),
    )
    for router in (*routers, *everywhere):
        api.include_router(router)
    return api


def declare_metering() -> FastAPI:
    parts: dict[str, Any] = dict.fromkeys(("ticker", "intake", "inventory", "guard", "relay", "reading"), ABSENT)
    routes = MeteringApi(ABSENT, ABSENT, ABSENT, {}, **parts).router
    return _document("Tollkeeper metering", routes, EventsApi(ABSENT, "", ()).router)


def declare_balance() -> FastAPI:
    parts = (
        BalanceApi(ABSENT, ABSENT, ABSENT, ABSENT).router,
        HoursApi(ABSENT).router,
        PaymentsApi(ABSENT, ABSENT).router,
        GrantsApi(ABSENT, ABSENT).router,
        StreamsApi(ABSENT).router,
        AuditsApi(ABSENT, ABSENT).router,
        AdmissionsApi(ABSENT, ABSENT).router,
        ForecastsApi(ABSENT).router,
    )
    return _document("Tollkeeper balance", *parts)


def declare_payment() -> FastAPI:
    parts = (
        PaymentApi(ABSENT, ABSENT),
        OperatorApi(ABSENT, ABSENT, ABSENT, ABSENT),
        OpenPaymentsApi(ABSENT, ABSENT, ABSENT),
        ReconciliationApi(ABSENT, ABSENT),
        AutoTopUpApi(ABSENT),
        PagesApi(ABSENT, ABSENT, ABSENT, ABSENT),
        WebhookApi(ABSENT, ABSENT, ABSENT, ABSENT),
    )
    return _document("Tollkeeper payment", *(part.router for part in parts))


def declare_enforcement() -> FastAPI:
    return _document("Tollkeeper enforcement", enforcement_routes(ABSENT))


APIS: dict[str, Callable[[], FastAPI]] = {
    "metering": declare_metering,
    "balance": declare_balance,
    "payment": declare_payment,
    "enforcement": declare_enforcement,
}


def write_openapi(service: str) -> str:
    """The document of a service as JSON, the same for the same routes."""
    document = APIS[service]().openapi()
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode() + "\n"
