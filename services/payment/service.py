"""The parts of a running service, put together: what `main` runs and tests look into."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.payment.app.auto_top_up import AutoTopUps
from services.payment.app.credits import Credits
from services.payment.app.facts import FactApplier
from services.payment.app.inbox import Inbox
from services.payment.app.rates import Rates
from services.payment.app.receipts import Receipts
from services.payment.app.reconcile import Reconciler
from services.payment.app.refunds import Refunds
from services.payment.app.settlement import Settlement
from services.payment.app.topups import TopUps
from services.payment.app.upkeep import Upkeep
from services.payment.balance_client import BalanceClient
from services.payment.providers import Notice, Provider, ProviderName
from services.payment.providers.stripe import read_event
from services.payment.providers.vnpay import read_verified
from services.payment.settings import PaymentSettings
from shared.clock import Clock
from shared.db import Pool
from shared.settings import SharedSettings


@dataclass(frozen=True, slots=True)
class Service:
    """The use cases, wired to one database, balance and the providers that have keys."""

    pool: Pool
    clock: Clock
    rates: Rates
    applier: FactApplier
    topups: TopUps
    inbox: Inbox
    refunds: Refunds
    settlement: Settlement
    credits: Credits
    upkeep: Upkeep
    reconciler: Reconciler
    receipts: Receipts
    auto_top_ups: AutoTopUps


def read_kept(provider: ProviderName, body: bytes, received_at_us: int) -> Notice:
    """An event of the inbox as a notice; it was verified when it came."""
    return read_event(body) if provider == "stripe" else read_verified(body.decode(), received_at_us)


def wire_service(
    pool: Pool,
    clock: Clock,
    shared: SharedSettings,
    settings: PaymentSettings,
    balance: BalanceClient,
    providers: Mapping[ProviderName, Provider],
) -> Service:
    applier = FactApplier(clock, shared.shards)
    rates = Rates(pool, clock, settings, shared)
    refunds = Refunds(pool, clock, providers, applier)
    credits_ = Credits(clock)
    topups = TopUps(rates, balance, providers, applier)
    return Service(
        pool=pool,
        clock=clock,
        rates=rates,
        applier=applier,
        topups=topups,
        inbox=Inbox(pool, clock, applier, shared.regions, settings.unknown_order_seconds, read_kept),
        refunds=refunds,
        settlement=Settlement(rates, applier, refunds),
        credits=credits_,
        upkeep=Upkeep(pool, clock, balance, settings),
        reconciler=Reconciler(pool, clock, providers, balance, applier, credits_),
        receipts=Receipts(pool, clock, settings.seller),
        auto_top_ups=AutoTopUps(topups, balance, providers, applier),
    )
