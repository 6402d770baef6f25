"""Payment's composition root: `python -m services.payment.main migrate|serve`."""

import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop
from pydantic import SecretStr

from services.payment.api import PaymentApi
from services.payment.api_auto_top_up import AutoTopUpApi
from services.payment.api_operators import OperatorApi
from services.payment.api_pages import PagesApi
from services.payment.api_reconciliation import ReconciliationApi
from services.payment.api_webhooks import WebhookApi
from services.payment.app.sweep import EventSweep
from services.payment.balance_client import BalanceClient, open_client
from services.payment.providers import Notice, Provider, ProviderName
from services.payment.providers.stripe import open_stripe, read_event, verify_webhook
from services.payment.providers.vnpay import open_vnpay, read_callback
from services.payment.service import Service, wire_service
from services.payment.settings import BalanceSettings, OwnerSettings, PaymentSettings
from shared.clock import Clock, open_clock
from shared.consumer import OffsetConsumer
from shared.db import SHARED_MIGRATIONS, ensure_partitions, migrate, open_pool, transaction
from shared.garbage import collect_seldom
from shared.http import create_api, dead_letter_routes, serve
from shared.kafka import open_producer
from shared.log import configure_logging, get_logger
from shared.outbox import Relay, keep_topic_layout
from shared.settings import SharedSettings
from shared.supervisor import Loop, Supervisor
from shared.topics import ACCOUNT_EVENTS, TOPICS

logger = get_logger(__name__)

MIGRATIONS = (SHARED_MIGRATIONS, Path(__file__).parent / "migrations")


async def run_migrations() -> None:
    logger.info("migrated", applied=await migrate(OwnerSettings().owner_url, MIGRATIONS))


async def run_service() -> None:
    """Wire everything and run until a signal comes."""
    shared, settings = SharedSettings(), PaymentSettings()
    clock = open_clock(shared.test_clock)
    async with AsyncExitStack() as stack:
        pool = await open_pool(settings.database_url, application="payment", size_max=settings.pool_size)
        stack.push_async_callback(pool.close)
        async with transaction(pool) as connection:
            await ensure_partitions(connection, "outbox", clock.now_us())
            partitions = await keep_topic_layout(connection, {topic.name: topic.partitions for topic in TOPICS})
        producer = await open_producer(shared.kafka_bootstrap, f"{shared.topic_prefix}payment")
        stack.push_async_callback(producer.stop)
        balance = BalanceClient(await stack.enter_async_context(open_client(BalanceSettings().url)))
        providers = open_providers(settings, clock)
        for provider in providers.values():
            stack.push_async_callback(provider.close)
        service = wire_service(pool, clock, shared, settings, balance, providers)
        sweeps = open_sweeps(service, providers)
        relay = Relay(pool, producer, clock, topic_prefix=shared.topic_prefix, partitions=partitions, idle_seconds=0.01)
        await _supervise(service, relay, sweeps, shared, settings).run()


def open_providers(settings: PaymentSettings, clock: Clock) -> Mapping[ProviderName, Provider]:
    """The providers that have keys; top-ups of the others are refused."""
    opened = (open_stripe(settings), open_vnpay(settings, clock))
    return {provider.name: provider for provider in opened if provider is not None}


def open_sweeps(service: Service, providers: Mapping[ProviderName, Provider]) -> dict[str, Loop]:
    """The loop that sweeps Stripe's events, where it has keys. VNPay lists none."""
    stripe = providers.get("stripe")
    if stripe is None:
        return {}
    return {"sweep": EventSweep(service.pool, service.clock, stripe, service.inbox, read_event).run}


def _supervise(
    service: Service, relay: Relay, sweeps: Mapping[str, Loop], shared: SharedSettings, settings: PaymentSettings
) -> Supervisor:
    consumer = OffsetConsumer(
        service.pool,
        service.clock,
        service.credits.apply,
        bootstrap=shared.kafka_bootstrap,
        topic_prefix=shared.topic_prefix,
        topics=(ACCOUNT_EVENTS,),
        group="payment",
        wait_ms=20,
    )

    def readiness() -> dict[str, str]:
        problems = supervisor.problems()
        # Balance or a provider out of reach holds back new orders, not what was paid.
        for name in ("attempts", "reconciliation", "auto-top-up", "sweep"):
            problems.pop(name, None)
        if not consumer.assigned.is_set():
            problems["consumer"] = problems.get("consumer", "has no partitions yet")
        return problems

    stripe_secrets, vnpay_secrets = _reveal(settings.stripe_webhook_secrets), _reveal(settings.vnpay_hash_secrets)

    def read_stripe(body: bytes, signature: str, now_us: int) -> Notice:
        verify_webhook(body, signature, stripe_secrets, now_us)
        return read_event(body)

    def read_vnpay(query: str) -> Notice:
        return read_callback(query, vnpay_secrets)

    api = create_api("Tollkeeper payment", readiness=readiness)
    api.include_router(PaymentApi(service.rates, service.topups).router)
    api.include_router(OperatorApi(service.rates, service.settlement, service.refunds).router)
    api.include_router(ReconciliationApi(service.clock, service.reconciler).router)
    api.include_router(AutoTopUpApi(service.auto_top_ups).router)
    api.include_router(PagesApi(service.topups, service.reconciler.balance, service.receipts, read_vnpay).router)
    api.include_router(WebhookApi(service.clock, service.inbox, read_stripe, read_vnpay).router)
    api.include_router(dead_letter_routes(service.pool, consumer))
    supervisor = Supervisor(
        {
            "consumer": consumer.run,
            "relay": relay.run,
            "attempts": service.upkeep.run_attempts,
            "upkeep": service.upkeep.run_slow,
            "reconciliation": service.reconciler.run,
            "receipts": service.receipts.run,
            "auto-top-up": service.auto_top_ups.run,
            **sweeps,
            "api": lambda: serve(api, shared.host, settings.port),
        }
    )
    return supervisor


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
