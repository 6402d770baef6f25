"""Payment's composition root: `python -m services.payment.main migrate|serve`."""

import sys
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop
from pydantic import SecretStr

from services.payment.providers import Notice, Provider, ProviderName
from services.payment.providers.stripe import open_stripe, read_event, verify_webhook
from services.payment.providers.vnpay import open_vnpay, read_callback
from services.payment.running import Edges, run_payment
from services.payment.settings import OwnerSettings, PaymentSettings
from shared.clock import open_clock
from shared.db import SHARED_MIGRATIONS, migrate
from shared.garbage import collect_seldom
from shared.log import configure_logging, get_logger
from shared.settings import SharedSettings

logger = get_logger(__name__)

MIGRATIONS = (SHARED_MIGRATIONS, Path(__file__).parent / "migrations")


async def run_migrations() -> None:
    logger.info("migrated", applied=await migrate(OwnerSettings().owner_url, MIGRATIONS))


async def run_service() -> None:
    """Open the providers that have keys, and run until a signal comes; top-ups of the others are refused."""
    shared, settings = SharedSettings(), PaymentSettings()
    clock = open_clock(shared.test_clock)
    stripe_secrets, vnpay_secrets = _reveal(settings.stripe_webhook_secrets), _reveal(settings.vnpay_hash_secrets)

    def read_stripe(body: bytes, signature: str, now_us: int) -> Notice:
        verify_webhook(body, signature, stripe_secrets, now_us)
        return read_event(body)

    def read_vnpay(query: str) -> Notice:
        return read_callback(query, vnpay_secrets, clock.now_us())

    async with AsyncExitStack() as stack:
        providers: dict[ProviderName, Provider] = {}
        for provider in (open_stripe(settings), open_vnpay(settings, clock)):
            if provider is not None:
                stack.push_async_callback(provider.close)
                providers[provider.name] = provider
        await run_payment(shared, settings, clock, Edges(providers, read_stripe, read_event, read_vnpay))


def _reveal(secrets: tuple[SecretStr, ...]) -> tuple[str, ...]:
    return tuple(secret.get_secret_value() for secret in secrets)


def main() -> None:
    commands = {"migrate": run_migrations, "serve": run_service}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        raise SystemExit("usage: python -m services.payment.main migrate|serve")
    configure_logging("payment")
    collect_seldom()
    uvloop.run(commands[sys.argv[1]]())


if __name__ == "__main__":
    main()
