"""Webhooks at a steady rate: signed as Stripe signs, each of an order of its own, until the ledger has credited all.

PostgreSQL's log files are there already, and what setting up has written is on the disk, as on every server that has
run for some minutes.
"""

import asyncio
import hmac
import os
import time
from collections import deque
from dataclasses import dataclass

import asyncpg
import orjson

from deploy.local.infrastructure.probes import run_async
from shared.clock import SECOND_US
from shared.db import prepare_connection
from shared.ids import fact_id
from tests.bench.pipeline import START_US
from tests.support.infrastructure import temporary_home
from tests.support.standalone import Servers
from tests.support.topics import session_prefix
from tests.system.cluster import Cluster
from tests.system.waiting import wait_for

SECRET = "whsec_benchmark"
CONNECTIONS = 32
TENANTS = 1000
CREDIT_MICROS = 250_000_000_000
# The first webhooks open connections and prepare statements.
WARM_UP_SECONDS = 2
REGIONS = {"vn": {"currency": "VND", "opened_at": "2020-01-01T00:00:00Z"}}


@dataclass(frozen=True, slots=True)
class Webhooks:
    """From the instant at which a webhook was due until its answer, in milliseconds; `wrong` accounts in the ledger."""

    wanted: float
    a_second: float
    took_ms: list[float]
    seconds_until_credited: float
    wrong: int

    @property
    def kept_up(self) -> bool:
        """Within a hundredth: the last answers come after the last webhook was due."""
        return self.a_second >= 0.99 * self.wanted


def measure_webhooks(servers: Servers, *, a_second: int, seconds: int) -> Webhooks:
    """Send webhooks on time, whether or not the earlier ones are answered."""
    count = a_second * (seconds + WARM_UP_SECONDS)
    with (
        temporary_home("tollkeeper-bench-") as home,
        Cluster(
            home,
            databases=servers.databases,
            bootstrap=servers.bootstrap,
            prefix=f"{session_prefix()}webhooks.",
            regions=REGIONS,
            start_us=START_US,
            names=("balance", "payment"),
            # As in production: payments of one shard take turns at its outbox.
            shards=1024,
            settings={
                "TOLLKEEPER_PAYMENT_STRIPE_SECRET_KEY": "sk_test_benchmark",
                "TOLLKEEPER_PAYMENT_STRIPE_WEBHOOK_SECRETS": f'["{SECRET}"]',
                # Nothing answers there: orders are made below, and nobody is asked about them.
                "TOLLKEEPER_PAYMENT_STRIPE_API_BASE": "http://127.0.0.1:9",
            },
        ) as cluster,
    ):
        run_async(_insert_orders(cluster._urls["payment"][0], count))
        port = int(cluster.url("payment").rpartition(":")[2])
        bodies = [_webhook(number) for number in range(count)]
        run_async(servers.databases.age_log())
        os.sync()
        took_ms, lasted = run_async(_send(port, bodies, a_second))
        credited_after = _wait_for_credit(cluster, count)
        balances = cluster.balances()
    expected = {("vn", f"t{tenant}"): 0 for tenant in range(min(TENANTS, count))}
    for number in range(count):
        expected["vn", f"t{number % TENANTS}"] += CREDIT_MICROS
    wrong = sum(balances.get(account) != micros for account, micros in expected.items())
    return Webhooks(a_second, count / lasted, took_ms[a_second * WARM_UP_SECONDS :], credited_after, wrong)


def _order_id(number: int) -> str:
    return fact_id("order", "vn", f"t{number % TENANTS}", f"bench-{number}")


async def _insert_orders(owner_url: str, count: int) -> None:
    """Orders as a customer's click leaves them, without the clicks."""
    connection = await asyncpg.connect(owner_url)
    try:
        await prepare_connection(connection)
        await connection.execute(
            """
            insert into payment_order (order_id, region, tenant_id, shard, idempotency_key, request_hash, provider,
              amount_micros, currency, account_currency, credit_micros, rate_e12, email, payer_name, payer_ip, locale,
              bank_code, created_at, expires_at)
            select id, 'vn', 't' || mod(number - 1, $2), 0, 'bench-' || number, '', 'stripe', $3, 'VND', 'VND', $3,
              1000000000000, '', '', '127.0.0.1', '', '', $4, $4::timestamptz + interval '1 day'
            from unnest($1::text[]) with ordinality orders(id, number)
            """,
            [_order_id(number) for number in range(count)],
            TENANTS,
            CREDIT_MICROS,
            START_US,
        )
        await connection.execute("analyze payment_order")
    finally:
        await connection.close()


def _webhook(number: int) -> bytes:
    """A whole HTTP request with the event that a paid Checkout session makes."""
    stamp = START_US // SECOND_US
    session = {
        "id": f"cs_test_{number}",
        "object": "checkout.session",
        "payment_status": "paid",
        "status": "complete",
        "payment_intent": f"pi_{number}",
        "amount_total": CREDIT_MICROS // 1_000_000,
        "currency": "vnd",
        "customer_details": {"name": "A Customer", "email": "customer@example.com"},
        "metadata": {"tollkeeper_region": "vn", "tollkeeper_order_id": _order_id(number)},
        # What else a session holds, in size.
        "custom_text": "-" * 2000,
    }
    event = {
        "id": f"evt_{number}",
        "object": "event",
        "type": "checkout.session.completed",
        "created": stamp,
        "data": {"object": session},
    }
    body = orjson.dumps(event)
    signature = hmac.digest(SECRET.encode(), f"{stamp}.".encode() + body, "sha256").hex()
    head = (
        "POST /webhooks/stripe HTTP/1.1\r\nHost: payment\r\nContent-Type: application/json\r\n"
        f"Stripe-Signature: t={stamp},v1={signature}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _send(port: int, requests: list[bytes], a_second: int) -> tuple[list[float], float]:
    """Milliseconds of each request from when it was due, in their order; and how long all of them lasted."""
    took_ms = [0.0] * len(requests)
    due = deque(range(len(requests)))
    began = time.perf_counter() + 0.1

    async def keep_sending() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while due:
            number = due.popleft()
            due_at = began + number / a_second
            await asyncio.sleep(max(0.0, due_at - time.perf_counter()))
            writer.write(requests[number])
            answer = await _read_answer(reader)
            took_ms[number] = (time.perf_counter() - due_at) * 1000
            assert b'"applied"' in answer, answer
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(keep_sending() for _ in range(CONNECTIONS)))
    return took_ms, time.perf_counter() - began


async def _read_answer(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return head + await reader.readexactly(int(length))


def _wait_for_credit(cluster: Cluster, count: int) -> float:
    began = time.monotonic()

    def all_credited() -> bool:
        return bool(cluster.status("payment").get("waiting") == 0 and not cluster.status("payment")["unpublished"])

    wait_for(all_credited, timeout_seconds=60, what=lambda: f"{count} payments credited\n{cluster.logs()}")
    return time.monotonic() - began
