"""Stripe's API and payment page as the stand-in serves them."""

import json
from collections.abc import Awaitable, Callable
from hashlib import sha256

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from deploy.local.providers.control import ControlError, read_json, route
from deploy.local.providers.pages import read_form, show
from deploy.local.providers.store import Document
from deploy.local.providers.stripe import amounts, objects
from deploy.local.providers.stripe.checkout import Checkout
from deploy.local.providers.stripe.errors import ApiError
from deploy.local.providers.stripe.lists import is_created_within, read_limit, start_after
from deploy.local.providers.stripe.parameters import check, parse
from deploy.local.providers.stripe.payments import VERSION, Payments
from shared.clock import DAY_US, Clock

Call = Callable[[Request, Document], Document]
_EXPANDABLE = {"payment_intent": "payment_intent", "latest_charge": "charge", "customer": "customer"}
_BUSY_ACTIONS = {"pay-later": "succeed", "fail-later": "fail"}
# How the cards of the page behave; the others simply pay.
_CARDS = {"decline": "card_declined", "pay-asking": "authentication_required"}


class StripeApi:
    """The routes. `secret_key` is the one key that is let in."""

    def __init__(self, payments: Payments, checkout: Checkout, clock: Clock, secret_key: str) -> None:
        self._payments = payments
        self._store = payments.store
        self._checkout = checkout
        self._clock = clock
        self._secret_key = secret_key
        self.routes = [
            self._post(
                "/v1/checkout/sessions", self._create_session, "checkout._session_create_params.SessionCreateParams"
            ),
            self._get("/v1/checkout/sessions/{id}", self._retrieve("checkout.session")),
            self._get("/v1/checkout/sessions", self._list("checkout.session", "payment_intent", "customer", "status")),
            self._post("/v1/checkout/sessions/{id}/expire", lambda r, _p: self._checkout.expire(r.path_params["id"])),
            self._post(
                "/v1/payment_intents", self._create_intent, "_payment_intent_create_params.PaymentIntentCreateParams"
            ),
            self._get("/v1/payment_intents/{id}", self._retrieve("payment_intent")),
            self._get("/v1/payment_intents", self._list("payment_intent", "customer")),
            self._post(
                "/v1/payment_intents/{id}/confirm",
                lambda r, p: self._checkout.confirm(r.path_params["id"], p),
                "_payment_intent_confirm_params.PaymentIntentConfirmParams",
            ),
            self._post("/v1/refunds", self._create_refund, "_refund_create_params.RefundCreateParams"),
            self._get("/v1/refunds/{id}", self._retrieve("refund")),
            self._get("/v1/refunds", self._list("refund", "payment_intent", "charge")),
            self._get("/v1/disputes/{id}", self._retrieve("dispute")),
            self._get("/v1/disputes", self._list("dispute", "payment_intent", "charge")),
            self._get("/v1/charges/{id}", self._retrieve("charge")),
            self._post(
                "/v1/customers",
                lambda _r, p: self._checkout.create_customer(p),
                "_customer_create_params.CustomerCreateParams",
            ),
            self._get("/v1/customers/{id}", self._retrieve("customer")),
            self._get("/v1/payment_methods/{id}", self._retrieve("payment_method")),
            self._get("/v1/payment_methods", self._list("payment_method", "customer", "type")),
            self._get("/v1/events/{id}", self._retrieve("event")),
            self._get("/v1/events", self._list("event", "type")),
            Route("/pay/{id}", self._page, methods=["GET"]),
            Route("/pay/{id}", self._submit, methods=["POST"]),
            route("/truth", self._truth, "GET"),
            route("/capture", self._capture),
            route("/events/double", self._double),
            route("/disputes", self._open_dispute),
            route("/disputes/{id}/withdraw", self._withdraw),
            route("/disputes/{id}/close", self._close_dispute),
            route("/refunds", self._refund_elsewhere),
            route("/refunds/{id}/fail", self._fail_refund),
        ]

    # The API

    def _get(self, path: str, call: Call) -> Route:
        return Route(path, self._guard(call, None), methods=["GET"])

    def _post(self, path: str, call: Call, shape: str | None = None) -> Route:
        return Route(path, self._guard(call, shape), methods=["POST"])

    def _guard(self, call: Call, shape: str | None) -> Callable[[Request], Awaitable[Response]]:
        """Let the key in, check parameters, answer a repeated idempotency key as before."""

        async def handle(request: Request) -> Response:
            try:
                self._authorise(request)
                text = (await request.body()).decode() if request.method == "POST" else request.url.query
                parameters = parse(text)
                if shape is not None:
                    check(parameters, shape)
                return self._answer_once(request, text, lambda: call(request, parameters))
            except ApiError as error:
                return error.answer()

        return handle

    def _authorise(self, request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or key != self._secret_key:
            raise ApiError(401, "invalid_request_error", "Invalid API Key provided: sk_test_***")
        if (version := request.headers.get("stripe-version", VERSION)) != VERSION:
            raise ApiError.invalid(f"This stand-in answers in the version {VERSION}, not {version}.")

    def _answer_once(self, request: Request, text: str, call: Callable[[], Document]) -> Response:
        key = request.headers.get("idempotency-key")
        if request.method != "POST" or key is None:
            with self._store.transaction():
                return JSONResponse(objects.public(call()))
        asked = sha256(f"{request.url.path} {text}".encode()).hexdigest()
        known = self._store.recall(key, self._clock.now_us() - DAY_US)
        if known is not None:
            if known[0] != asked:
                raise ApiError(
                    400,
                    "idempotency_error",
                    "Keys for idempotent requests can only be used with the same parameters they were first used with.",
                )
            return Response(known[2], known[1], {"idempotent-replayed": "true"}, "application/json")
        with self._store.transaction():
            try:
                body, status = objects.public(call()), 200
            except ApiError as error:
                if error.status != 402:
                    raise
                body, status = {"error": error.error}, error.status
            text_out = json.dumps(body)
            self._store.remember(key, asked, status, text_out, self._clock.now_us())
        return Response(text_out, status, media_type="application/json")

    def _create_session(self, _request: Request, parameters: Document) -> Document:
        return self._checkout.create(parameters)

    def _create_intent(self, _request: Request, parameters: Document) -> Document:
        return self._checkout.create_intent(parameters)

    def _create_refund(self, _request: Request, parameters: Document) -> Document:
        return self._payments.refund(parameters)

    def _retrieve(self, kind: str) -> Call:
        def retrieve(request: Request, parameters: Document) -> Document:
            body = objects.public(self._payments.require(kind, request.path_params["id"]))
            for path in parameters.get("expand", []):
                self._expand(body, path.split("."))
            return body

        return retrieve

    def _expand(self, body: Document, path: list[str]) -> None:
        """Put an object where its id stands, along a path such as payment_intent.latest_charge."""
        head, *rest = path
        if head not in _EXPANDABLE:
            raise ApiError.invalid(f"This property cannot be expanded ({head}).", param="expand")
        value = body.get(head)
        if isinstance(value, str):
            value = body[head] = objects.public(self._payments.require(_EXPANDABLE[head], value))
        if rest and isinstance(value, dict):
            self._expand(value, rest)

    def _list(self, kind: str, *filters: str) -> Call:
        def list_some(request: Request, parameters: Document) -> Document:
            found = self._store.newest_first(kind)
            for name in filters:
                if name in parameters:
                    found = [body for body in found if body[name] == parameters[name]]
            found = [body for body in found if is_created_within(body["created"], parameters.get("created", {}))]
            if wanted := parameters.get("types"):
                found = [body for body in found if body["type"] in wanted]
            found = start_after(kind, found, parameters.get("starting_after"))
            limit = read_limit(parameters)
            data = [objects.public(body) for body in found[:limit]]
            return {"object": "list", "url": request.url.path, "has_more": len(found) > limit, "data": data}

        return list_some

    # The page

    async def _page(self, request: Request) -> Response:
        return self._show_page(request.path_params["id"])

    def _show_page(self, session_id: str, refused: str = "", name: str = "", email: str = "") -> Response:
        session = self._store.get("checkout.session", session_id)
        if session is None:
            return show("message.html", status=404, title="No such page", text="There is no such Checkout session.")
        if session["status"] != "open":
            return show("message.html", status=410, title="This page is closed", text="Go back and start again.")
        return show(
            "checkout.html",
            what=session["_private"]["what"],
            amount=amounts.show(session["amount_total"], session["currency"]),
            refused=refused,
            name=name,
            email=email or session["customer_email"] or "",
        )

    async def _submit(self, request: Request) -> Response:
        session_id, form = request.path_params["id"], await read_form(request)
        session = self._store.get("checkout.session", session_id)
        if session is None or session["status"] != "open":
            return self._show_page(session_id)
        action = form.get("action", "pay")
        if action == "cancel":
            return RedirectResponse(session["cancel_url"] or "/", 303)
        billing = {"name": form.get("name") or None, "email": form.get("email") or None}
        try:
            with self._store.transaction():
                card = _CARDS.get(action, "succeeds")
                refusal: ApiError | None = None
                try:
                    self._checkout.pay(session_id, billing, card=card, later=_BUSY_ACTIONS.get(action))
                except ApiError as error:
                    # A declined attempt is kept: it happened.
                    refusal = error
            if refusal is not None:
                raise refusal
        except ApiError as error:
            return self._show_page(session_id, error.error["message"], form.get("name", ""), form.get("email", ""))
        return RedirectResponse(session["success_url"].replace("{CHECKOUT_SESSION_ID}", session_id), 303)

    # Control

    async def _truth(self, _request: Request) -> Response:
        """What was really captured, refunded and disputed, by intent; and the intents that a bank has yet to decide."""
        known = list(self._store.newest_first("payment_intent"))
        intents = [body for body in known if body["status"] == "succeeded"]
        return JSONResponse(
            {
                "payments": [
                    {
                        "payment_intent": body["id"],
                        "order_id": body["metadata"].get("tollkeeper_order_id"),
                        "amount": body["amount_received"],
                        "currency": body["currency"],
                        "refunds": self._about("refund", body["id"], "amount", "status"),
                        "disputes": [
                            item | {"withdrawn": self._is_withdrawn(item["id"])}
                            for item in self._about("dispute", body["id"], "amount", "status")
                        ],
                    }
                    for body in intents
                ],
                "processing": [body["id"] for body in known if body["status"] == "processing"],
            }
        )

    def _is_withdrawn(self, dispute_id: str) -> bool:
        """Whether the bank holds the money of a dispute now, or it was lost."""
        dispute = self._payments.require("dispute", dispute_id)
        moved = sum(int(item["amount"]) for item in dispute["balance_transactions"])
        return moved < 0 or bool(dispute["status"] == "lost")

    def _about(self, kind: str, intent_id: str, *names: str) -> list[Document]:
        found = [body for body in self._store.newest_first(kind) if body["payment_intent"] == intent_id]
        return [{"id": body["id"], **{name: body[name] for name in names}} for body in found]

    async def _capture(self, request: Request) -> Response:
        """{"amount": 1, "currency": "usd"}: the next capture brings this in instead of what was asked for."""
        body = await read_json(request)
        self._payments.next_capture = {name: body[name] for name in ("amount", "currency") if name in body}
        return JSONResponse({})

    async def _double(self, request: Request) -> Response:
        """{"times": 1}: the next events come as two Event objects for one fact."""
        self._payments.second_events = int((await read_json(request)).get("times", 1))
        return JSONResponse({})

    async def _open_dispute(self, request: Request) -> Response:
        """{"payment_intent": "pi_…", "amount": 5, "withdrawn": true}"""
        body = await read_json(request)
        return self._do(
            lambda: self._payments.open_dispute(
                body["payment_intent"], body.get("amount"), withdrawn=bool(body.get("withdrawn", True))
            )
        )

    async def _withdraw(self, request: Request) -> Response:
        def withdraw() -> Document:
            dispute = self._payments.require("dispute", request.path_params["id"])
            self._payments.withdraw(dispute)
            return dispute

        return self._do(withdraw)

    async def _close_dispute(self, request: Request) -> Response:
        """{"status": "won"|"lost"|"warning_closed"}"""
        status = (await read_json(request)).get("status", "lost")
        if status not in {"won", "lost", "warning_closed"}:
            raise ControlError("status is won, lost or warning_closed")
        return self._do(lambda: self._payments.close_dispute(request.path_params["id"], status))

    async def _refund_elsewhere(self, request: Request) -> Response:
        """{"payment_intent": "pi_…", "amount": 5}: a refund made at the provider, not by payment."""
        body = await read_json(request)
        return self._do(lambda: self._payments.refund(body))

    async def _fail_refund(self, request: Request) -> Response:
        reason = (await read_json(request)).get("reason", "lost_or_stolen_card")
        return self._do(lambda: self._payments.fail_refund(request.path_params["id"], reason))

    def _do(self, act: Callable[[], Document]) -> Response:
        try:
            with self._store.transaction():
                return JSONResponse(objects.public(act()))
        except ApiError as error:
            raise ControlError(str(error)) from error
