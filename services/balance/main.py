"""Balance's composition root: `python -m services.balance.main migrate|serve|audit`."""

import base64
import os
import secrets
import sys
from pathlib import Path

import httpx
import orjson
import uvloop

from services.balance.api import BalanceApi
from services.balance.api_admissions import AdmissionsApi
from services.balance.api_audits import AuditsApi
from services.balance.api_forecasts import ForecastsApi
from services.balance.api_grants import GrantsApi
from services.balance.api_hours import HoursApi
from services.balance.api_payments import PaymentsApi
from services.balance.api_streams import StreamsApi
from services.balance.app.accounts import Accounts
from services.balance.app.admissions import Admissions, AdmissionTerms
from services.balance.app.anchors import Anchoring
from services.balance.app.audits import FOUND, Auditor, AuditRequest, carry_out
from services.balance.app.close_hours import HourCloser
from services.balance.app.directory import Directory
from services.balance.app.forecasts import Forecasts
from services.balance.app.gaps import GapHealer
from services.balance.app.grants import Grants
from services.balance.app.hours import Hours
from services.balance.app.orders import Orders
from services.balance.app.payments import PaymentPoster
from services.balance.app.permits import Permits
from services.balance.app.post import Poster
from services.balance.app.post_charges import ChargePoster
from services.balance.app.price_books import apply_price_books
from services.balance.app.recovery import BalanceRecovery, load_present
from services.balance.app.streams import Streams
from services.balance.app.vouchers import Vouchers
from services.balance.consume import by_topic
from services.balance.settings import BalanceSettings, MeteringSettings, OwnerSettings
from services.balance.store.partitions import ensure_ledger_partitions
from shared.clock import SECOND_US, Clock, open_clock
from shared.consumer import OffsetConsumer
from shared.db import SHARED_MIGRATIONS, Pool, ensure_partitions, migrate, open_pool, transaction
from shared.garbage import collect_seldom
from shared.http import create_api, dead_letter_routes, serve, set_aside_routes
from shared.http_client import open_http_client
from shared.kafka import open_producer
from shared.log import configure_logging, get_logger
from shared.outbox import Relay, keep_topic_layout
from shared.restore_routes import restore_routes
from shared.restores import Restores
from shared.settings import SharedSettings
from shared.supervisor import Supervisor
from shared.topic_reader import TopicReader
from shared.topics import ACCOUNT_EVENTS, CHARGES, PAYMENT_EVENTS, PRICE_BOOKS, TOPICS

logger = get_logger(__name__)

# One question of the audit over everything takes as long as it takes.
AUDIT_SECONDS = 6 * 3600.0
# Payments come one by one: a poll of a hundred costs little more than one of ten, and a third of a second is soon over.
LINGER_SECONDS = 0.3
# What is posted, answered and permitted does not hang on these.
OWN_LOOPS = ("gaps", "grants", "hours", "audit", "anchors")

MIGRATIONS = (SHARED_MIGRATIONS, Path(__file__).parent / "migrations")


async def run_migrations() -> None:
    logger.info("migrated", applied=await migrate(OwnerSettings().owner_url, MIGRATIONS))


async def run_audit() -> None:
    """Audit what standard input asks for; print the differences as one JSON document, and exit FOUND if any."""
    os.nice(10)
    request = AuditRequest.model_validate_json(sys.stdin.buffer.read() or b"{}")
    pool = await open_pool(
        BalanceSettings().database_url, application="balance-audit", size_max=1, command_timeout_seconds=AUDIT_SECONDS
    )
    try:
        async with (
            pool.acquire(timeout=30) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            differences = await carry_out(connection, request)
    finally:
        await pool.close()
    sys.stdout.write(orjson.dumps({"differences": [item.as_json() for item in differences]}).decode())
    sys.stdout.flush()
    if differences:
        raise SystemExit(FOUND)


async def run_service() -> None:
    """Wire everything and run until a signal comes."""
    settings, own = SharedSettings(), BalanceSettings()
    clock = open_clock(settings.test_clock)
    pool = await open_pool(own.database_url, application="balance", ends_when_replaced=True)
    async with transaction(pool) as connection:
        await ensure_partitions(connection, "outbox", clock.now_us())
        await ensure_ledger_partitions(connection, clock.now_us())
        partitions = await keep_topic_layout(connection, {topic.name: topic.partitions for topic in TOPICS})
    producer = await open_producer(settings.kafka_bootstrap, f"{settings.topic_prefix}balance")
    relay = Relay(pool, producer, clock, topic_prefix=settings.topic_prefix, partitions=partitions)
    try:
        await _notice_restore(settings, own, pool, clock, relay)
        async with open_http_client(10, MeteringSettings().url) as metering:
            await _wire(settings, own, pool, clock, relay, metering).run()
    finally:
        await producer.stop()
        await pool.close()


async def _notice_restore(
    settings: SharedSettings, own: BalanceSettings, pool: Pool, clock: Clock, relay: Relay
) -> None:
    """Before any loop: was this database set back?"""
    reader = TopicReader(settings.kafka_bootstrap, settings.topic_prefix)
    restores = Restores(pool, clock, reader, relay, service="balance", topics=(ACCOUNT_EVENTS,))
    silent = Poster(low_cooldown_us=own.low_cooldown_seconds * SECOND_US, tells=False)
    consumers = _make_consumers(settings, own, pool, clock, silent)[1:]
    await restores.run(BalanceRecovery(pool, clock, settings, reader=reader, consumers=consumers))


def _make_consumers(
    settings: SharedSettings, own: BalanceSettings, pool: Pool, clock: Clock, poster: Poster
) -> tuple[ChargePoster, OffsetConsumer, OffsetConsumer]:
    """Of charges, with what posts them, and of payments and prices."""
    charges = ChargePoster(clock, Directory(settings.regions, settings.shards), poster)
    consumer = OffsetConsumer(
        pool,
        clock,
        charges.apply,
        bootstrap=settings.kafka_bootstrap,
        topic_prefix=settings.topic_prefix,
        topics=(CHARGES,),
        group="balance",
        records_max=own.records_max,
        lanes=own.posting_lanes,
    )
    payments = OffsetConsumer(
        pool,
        clock,
        by_topic({PRICE_BOOKS: apply_price_books, PAYMENT_EVENTS: PaymentPoster(clock, settings, poster).apply}),
        bootstrap=settings.kafka_bootstrap,
        topic_prefix=settings.topic_prefix,
        topics=(PAYMENT_EVENTS, PRICE_BOOKS),
        group="balance-payments",
        records_max=own.records_max,
        linger_seconds=LINGER_SECONDS,
    )
    return charges, consumer, payments


def _wire(
    settings: SharedSettings,
    own: BalanceSettings,
    pool: Pool,
    clock: Clock,
    relay: Relay,
    metering: httpx.AsyncClient,
) -> Supervisor:
    poster = Poster(low_cooldown_us=own.low_cooldown_seconds * SECOND_US)
    charges, consumer, payments = _make_consumers(settings, own, pool, clock, poster)
    healer = GapHealer(pool, clock, charges, metering, own.resend_pause_seconds)

    def readiness() -> dict[str, str]:
        problems = supervisor.problems()
        for name, found in (("consumer", consumer), ("payments", payments)):
            if not found.assigned.is_set():
                problems[name] = problems.get(name, "has no partitions yet")
        return problems

    def failing() -> dict[str, str]:
        return supervisor.failing()

    api = create_api("Tollkeeper balance", readiness=readiness, failing=failing, reach=relay.reach)
    accounts = Accounts(pool, clock, settings, poster)
    grants = Grants(pool, clock, accounts, poster)
    vouchers = Vouchers(pool, clock, settings, grants, make_code=make_code, guesses_max=own.voucher_guesses_max)
    admissions = Admissions(pool, clock, settings, grants, _terms(own))
    permits = Permits(pool, clock, settings, permit_us=own.permit_seconds * SECOND_US)
    api.include_router(BalanceApi(pool, clock, accounts, permits).router)
    api.include_router(HoursApi(Hours(pool, clock)).router)
    api.include_router(GrantsApi(grants, vouchers).router)
    api.include_router(PaymentsApi(pool, Orders(pool, clock, settings, accounts)).router)
    api.include_router(AdmissionsApi(admissions, clock).router)
    api.include_router(ForecastsApi(Forecasts(pool, clock, settings, grants)).router)
    auditor = Auditor(clock, own.audit_every_seconds)
    api.include_router(AuditsApi(pool, auditor).router)
    api.include_router(StreamsApi(Streams(pool, clock, charges)).router)
    api.include_router(dead_letter_routes(pool, consumer, payments))
    api.include_router(restore_routes(pool, clock, "balance", load_present))
    api.include_router(set_aside_routes(pool, clock))
    supervisor = Supervisor(
        {
            "consumer": consumer.run,
            "payments": payments.run,
            "relay": relay.run,
            "gaps": healer.run,
            "grants": grants.run,
            "hours": HourCloser(pool, clock).run,
            "audit": auditor.run,
            "anchors": Anchoring(pool, clock, own.anchor_every_seconds).run,
            "api": lambda: serve(api, settings.host, own.port),
        },
        own=OWN_LOOPS,
    )
    return supervisor


def _terms(own: BalanceSettings) -> AdmissionTerms:
    return AdmissionTerms(
        hold_us=own.hold_seconds * SECOND_US,
        counts_burn=own.admission_counts_burn,
        low_cooldown_us=own.low_cooldown_seconds * SECOND_US,
        top_up_url=own.top_up_url,
    )


def make_code() -> str:
    """A voucher's code: 80 bits that nobody can guess, as 16 letters and digits."""
    return base64.b32encode(secrets.token_bytes(10)).decode()


def main() -> None:
    commands = {"migrate": run_migrations, "serve": run_service, "audit": run_audit}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        raise SystemExit("usage: python -m services.balance.main migrate|serve|audit")
    configure_logging("balance")
    collect_seldom()
    uvloop.run(commands[sys.argv[1]]())


if __name__ == "__main__":
    main()
