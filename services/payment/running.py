"""A running payment service: database, broker, balance, and the loops over them. Its providers are the caller's."""

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from fastapi import FastAPI

from services.payment.api import PaymentApi
from services.payment.api_auto_top_up import AutoTopUpApi
from services.payment.api_open_payments import OpenPaymentsApi
from services.payment.api_operators import OperatorApi
from services.payment.api_pages import PagesApi
from services.payment.api_reconciliation import ReconciliationApi
from services.payment.api_webhooks import ReadStripe, ReadVnpay, WebhookApi
from services.payment.app.recovery import PaymentRecovery
from services.payment.app.registrations import Registrations
from services.payment.app.sweep import EventSweep
from services.payment.balance_client import BalanceClient, open_client
from services.payment.providers import Notice, Provider, ProviderName
from services.payment.service import Service, wire_service
from services.payment.settings import BalanceSettings, PaymentSettings
from shared.clock import Clock
from shared.consumer import OffsetConsumer, Poll
from shared.db import Connection, Pool, ensure_partitions, open_pool, transaction
from shared.http import create_api, dead_letter_routes, serve, set_aside_routes
from shared.kafka import open_producer
from shared.outbox import Relay, keep_topic_layout
from shared.restore_routes import restore_routes
from shared.restores import Restores
from shared.settings import SharedSettings
from shared.supervisor import Loop, Supervisor
from shared.topic_reader import TopicReader
from shared.topics import ACCOUNT_EVENTS, PAYMENT_EVENTS, SERVICE_EVENTS, TOPICS

# The relay and the consumer have connections of their own, so that a flood of webhooks takes none of them.
LOOP_CONNECTIONS = 4
# Webhooks come one by one: looking for each at once would cost more than all the rest.
RELAY_LINGER_SECONDS = 0.2
CREDITS_LINGER_SECONDS = 0.3
# Balance or a provider out of reach holds back new orders, not what was paid; and what payment does by itself must not
# keep providers and customers out.
OWN_LOOPS = (
    "attempts",
    "registrations",
    "reconciliation",
    "auto-top-up",
    "sweep",
    "upkeep",
    "refunds",
    "inbox",
    "receipts",
)


@dataclass(frozen=True, slots=True)
class Edges:
    """The providers that have keys, and how what they send is verified and read."""

    providers: Mapping[ProviderName, Provider]
    read_stripe: ReadStripe
    read_event: Callable[[bytes], Notice]
    read_vnpay: ReadVnpay


async def run_payment(shared: SharedSettings, settings: PaymentSettings, clock: Clock, edges: Edges) -> None:
    """Open everything, run until a signal comes, close everything."""
    async with AsyncExitStack() as stack:
        pool = await open_pool(
            settings.database_url, application="payment", size_max=settings.pool_size, ends_when_replaced=True
        )
        stack.push_async_callback(pool.close)
        loop_pool = await open_pool(
            settings.database_url, application="payment loops", size_max=LOOP_CONNECTIONS, ends_when_replaced=True
        )
        stack.push_async_callback(loop_pool.close)
        async with transaction(pool) as connection:
            await ensure_partitions(connection, "outbox", clock.now_us())
            partitions = await keep_topic_layout(connection, {topic.name: topic.partitions for topic in TOPICS})
        producer = await open_producer(shared.kafka_bootstrap, f"{shared.topic_prefix}payment")
        stack.push_async_callback(producer.stop)
        balance = BalanceClient(await stack.enter_async_context(open_client(BalanceSettings().url)))
        service = wire_service(pool, clock, shared, settings, balance, edges.providers)
        relay = Relay(
            loop_pool,
            producer,
            clock,
            topic_prefix=shared.topic_prefix,
            partitions=partitions,
            linger_seconds=RELAY_LINGER_SECONDS,
        )
        reader = TopicReader(shared.kafka_bootstrap, shared.topic_prefix)
        restores = Restores(loop_pool, clock, reader, relay, service="payment", topics=(PAYMENT_EVENTS,))
        await restores.run(PaymentRecovery(reader, clock, shared.shards))
        await _supervise(
            service, loop_pool, relay, edges, shared, settings, Registrations(loop_pool, clock, balance, shared)
        ).run()


def _supervise(
    service: Service,
    loop_pool: Pool,
    relay: Relay,
    edges: Edges,
    shared: SharedSettings,
    settings: PaymentSettings,
    registrations: Registrations,
) -> Supervisor:
    async def apply(connection: Connection, poll: Poll) -> None:
        await registrations.hear(connection, poll)
        await service.credits.apply(connection, poll)

    consumer = OffsetConsumer(
        loop_pool,
        service.clock,
        apply,
        bootstrap=shared.kafka_bootstrap,
        topic_prefix=shared.topic_prefix,
        topics=(ACCOUNT_EVENTS, SERVICE_EVENTS),
        group="payment",
        linger_seconds=CREDITS_LINGER_SECONDS,
    )

    def readiness() -> dict[str, str]:
        problems = supervisor.problems()
        if not consumer.assigned.is_set():
            problems["consumer"] = problems.get("consumer", "has no partitions yet")
        return problems

    def failing() -> dict[str, str]:
        return supervisor.failing()

    api = create_api("Tollkeeper payment", readiness=readiness, failing=failing, reach=relay.reach)
    include_routes(api, service, edges)
    api.include_router(dead_letter_routes(loop_pool, consumer))
    api.include_router(restore_routes(loop_pool, service.clock, "payment"))
    api.include_router(set_aside_routes(loop_pool, service.clock))
    supervisor = Supervisor(
        {
            "consumer": consumer.run,
            "relay": relay.run,
            "attempts": service.upkeep.run_attempts,
            "registrations": registrations.run,
            "upkeep": service.upkeep.run_slow,
            "refunds": service.refunds.run,
            "inbox": service.inbox.run,
            "reconciliation": service.reconciler.run,
            "receipts": service.receipts.run,
            "auto-top-up": service.auto_top_ups.run,
            **_sweeps(service, edges),
            "api": lambda: serve(api, shared.host, settings.port),
        },
        own=OWN_LOOPS,
    )
    return supervisor


def include_routes(api: FastAPI, service: Service, edges: Edges) -> None:
    """Everything that payment answers, but for its dead letters."""
    api.include_router(PaymentApi(service.rates, service.topups).router)
    api.include_router(OperatorApi(service.rates, service.settlement, service.refunds, service.inbox).router)
    api.include_router(OpenPaymentsApi(service.pool, service.clock, service.reconciler).router)
    api.include_router(ReconciliationApi(service.clock, service.reconciler).router)
    api.include_router(AutoTopUpApi(service.auto_top_ups).router)
    api.include_router(PagesApi(service.topups, service.reconciler.balance, service.receipts, edges.read_vnpay).router)
    api.include_router(WebhookApi(service.clock, service.inbox, edges.read_stripe, edges.read_vnpay).router)


def _sweeps(service: Service, edges: Edges) -> dict[str, Loop]:
    """The loop that sweeps Stripe's events, where it has keys. VNPay lists none."""
    stripe = edges.providers.get("stripe")
    if stripe is None:
        return {}
    return {"sweep": EventSweep(service.pool, service.clock, stripe, service.inbox, edges.read_event).run}
