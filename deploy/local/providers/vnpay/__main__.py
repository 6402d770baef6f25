"""`python -m deploy.local.providers.vnpay serve`"""

import asyncio
import json
import os
import sys

import httpx

from deploy.local.providers.control import CallbackControl
from deploy.local.providers.courier import Courier
from deploy.local.providers.outage import Outage
from deploy.local.providers.running import StandinSettings, require_command, run_standin
from deploy.local.providers.store import Callback, Store
from deploy.local.providers.vnpay.api import Merchant, VnpayApi
from shared.log import configure_logging

DEFAULT_PORT = 8091
# Again up to ten times, five minutes apart.
_PAUSES = (300.0,) * 10
# Answers that end the retries.
_ACCEPTED = {"00", "02"}


async def serve() -> None:
    settings = StandinSettings.read("vnpay_standin", DEFAULT_PORT)
    store = Store(settings.home / "standin-vnpay.sqlite")
    outage = Outage()
    secret = json.loads(os.environ["TOLLKEEPER_PAYMENT_VNPAY_HASH_SECRETS"])[0]
    merchant = Merchant(os.environ["TOLLKEEPER_PAYMENT_VNPAY_TMN_CODE"], secret)

    async def send(client: httpx.AsyncClient, callback: Callback) -> str | None:
        """One IPN; only RspCode 00 and 02 end its retries."""
        answer = await client.get(f"{settings.payment_url}/webhooks/vnpay?{callback.payload}")
        if answer.status_code != httpx.codes.OK:
            return f"HTTP {answer.status_code}"
        try:
            code = answer.json().get("RspCode")
        except ValueError:
            return "not JSON"
        return None if code in _ACCEPTED else f"RspCode {code}"

    courier = Courier(store, settings.clock, send, outage, pauses=[pause / settings.speed for pause in _PAUSES])
    api = VnpayApi(store, settings.clock, merchant, courier)

    async def work() -> None:
        """VNPay does nothing by itself here but deliver."""
        await asyncio.Event().wait()

    await run_standin(settings, [*api.routes, *CallbackControl(store, courier, outage).routes], courier, outage, work)


if __name__ == "__main__":
    require_command(sys.argv[1:], "deploy.local.providers.vnpay")
    configure_logging("vnpay-standin")
    asyncio.run(serve())
