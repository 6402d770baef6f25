"""`python -m deploy.local.providers.stripe serve`"""

import asyncio
import json
import os
import sys

import httpx
import stripe

from deploy.local.providers.control import CallbackControl
from deploy.local.providers.courier import Courier
from deploy.local.providers.outage import Outage
from deploy.local.providers.running import HOST, StandinSettings, require_command, run_standin
from deploy.local.providers.store import Callback, Store
from deploy.local.providers.stripe.api import StripeApi
from deploy.local.providers.stripe.checkout import Checkout
from deploy.local.providers.stripe.objects import public
from deploy.local.providers.stripe.payments import Delays, Payments
from shared.clock import SECOND_US
from shared.log import configure_logging

DEFAULT_PORT = 8090
# Stripe tries again for three days in live mode, ever more seldom.
_PAUSES = (5.0, 60.0, 300.0, 1800.0, 7200.0, *([18_000.0] * 14))
_WORK_SECONDS = 1.0


async def serve() -> None:
    settings = StandinSettings.read("stripe_standin", DEFAULT_PORT)
    clock, speed = settings.clock, settings.speed
    store = Store(settings.home / "standin-stripe.sqlite")
    outage = Outage()
    secret = json.loads(os.environ["TOLLKEEPER_PAYMENT_STRIPE_WEBHOOK_SECRETS"])[0]
    payments = Payments(store, clock, Delays(2 / speed, 5 / speed))
    checkout = Checkout(payments, f"http://{HOST}:{settings.port}", 5 / speed)

    async def send(client: httpx.AsyncClient, callback: Callback) -> str | None:
        """One webhook, signed; anything but 2xx is a failure, a redirect too."""
        event = store.get("event", callback.payload)
        assert event is not None, "events are never deleted"
        body = json.dumps(public(event))
        stamp = clock.now_us() // SECOND_US
        signature = stripe.WebhookSignature.generate_signature_header(body, secret, stamp)
        headers = {"stripe-signature": signature, "content-type": "application/json; charset=utf-8"}
        answer = await client.post(f"{settings.payment_url}/webhooks/stripe", content=body, headers=headers)
        return None if answer.is_success else f"HTTP {answer.status_code}"

    courier = Courier(store, clock, send, outage, pauses=[pause / speed for pause in _PAUSES])
    payments.courier = courier

    async def work() -> None:
        """What the provider does by itself: sessions expire, banks decide, refunds arrive."""
        while True:
            with store.transaction():
                for task in store.take_due(clock.now_us()):
                    match task.action:
                        case "expire-session":
                            checkout.expire_by_itself(task.subject)
                        case "bank-succeed" | "bank-fail":
                            checkout.end_at_the_bank(task.subject, succeeds=task.action == "bank-succeed")
                        case "succeed-refund":
                            payments.succeed_refund(task.subject)
            await asyncio.sleep(_WORK_SECONDS)

    api = StripeApi(payments, checkout, clock, os.environ["TOLLKEEPER_PAYMENT_STRIPE_SECRET_KEY"])
    routes = [*api.routes, *CallbackControl(store, courier, outage).routes]
    await run_standin(settings, routes, courier, outage, work)


if __name__ == "__main__":
    require_command(sys.argv[1:], "deploy.local.providers.stripe")
    configure_logging("stripe-standin")
    asyncio.run(serve())
