"""One stand-in as a process on a test clock, and a merchant's server that takes its callbacks as a test says."""

import json
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from deploy.local.ports import LOOPBACK, find_free_port
from deploy.local.processes import ManagedProcess
from shared.clock import FileClock, format_instant
from tests.system.cluster import REPOSITORY
from tests.system.waiting import wait_for

START_US = 1_767_225_600_000_000
STRIPE_KEY, STRIPE_SECRET, VNPAY_CODE, VNPAY_SECRET = "sk_test_alone", "whsec_alone", "ALONE123", "ALONESECRET"


@dataclass(frozen=True, slots=True)
class Received:
    """One callback as it came."""

    path: str
    headers: dict[str, str]
    body: bytes


class Merchant:
    """Takes callbacks. `answers` are used up one a callback, the last for good: (status, body)."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answers: Sequence[tuple[int, str]] = [(200, "{}")]
        merchant = self

        class Taker(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                merchant.received.append(
                    Received(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                )
                status, text = merchant.answers[0]
                if len(merchant.answers) > 1:
                    merchant.answers = merchant.answers[1:]
                self.send_response(status)
                self.send_header("location", "/elsewhere")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            do_POST = do_GET  # noqa: N815 - the base class's name

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                """Callbacks are no news."""

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Taker)
        self.url = f"http://{LOOPBACK}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Standin:
    """A context manager: the stand-in of `name` runs inside it."""

    def __init__(self, name: str, home: Path) -> None:
        self.merchant = Merchant()
        self._name = name
        self._port = find_free_port()
        self.url = f"http://{LOOPBACK}:{self._port}"
        self.http = httpx.Client(base_url=self.url, timeout=10, trust_env=False)
        (home / "TEST").touch()
        (home / "clock").write_text(format_instant(START_US))
        self.clock = FileClock(home / "clock")
        self._process = ManagedProcess(
            name,
            [sys.executable, "-m", f"deploy.local.providers.{name}", "serve"],
            log=home / f"{name}.log",
            environment={
                "TOLLKEEPER_HOME": str(home),
                "TOLLKEEPER_TEST_CLOCK": str(home / "clock"),
                f"TOLLKEEPER_{name.upper()}_STANDIN_PORT": str(self._port),
                "TOLLKEEPER_PAYMENT_URL": self.merchant.url,
                "TOLLKEEPER_PAYMENT_STRIPE_SECRET_KEY": STRIPE_KEY,
                "TOLLKEEPER_PAYMENT_STRIPE_WEBHOOK_SECRETS": json.dumps([STRIPE_SECRET]),
                "TOLLKEEPER_PAYMENT_VNPAY_TMN_CODE": VNPAY_CODE,
                "TOLLKEEPER_PAYMENT_VNPAY_HASH_SECRETS": json.dumps([VNPAY_SECRET]),
            },
            directory=REPOSITORY,
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self.http.close()
        self.merchant.close()

    def start(self) -> None:
        self._process.start()
        wait_for(self.answers, what=lambda: f"{self._name} stand-in\n{self._process.log_tail()}")

    def restart(self) -> None:
        """Kill it, as a machine that lost its power would, and start it again."""
        self._process.kill()
        self.start()

    def answers(self) -> bool:
        try:
            return self.http.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def pass_time(self, us: int) -> None:
        self.clock.set(self.clock.now_us() + us)

    def control(self, path: str, **body: Any) -> dict[str, Any]:
        answer = self.http.post(f"/_control{path}", json=body)
        assert answer.is_success, answer.text
        return dict(answer.json())

    def callbacks(self, *states: str) -> list[dict[str, Any]]:
        found = self.http.get("/_control/callbacks").json()["callbacks"]
        return [item for item in found if not states or item["state"] in states]

    def wait_callbacks(self, count: int) -> list[Received]:
        """Wait until the merchant has got so many callbacks in all, and the stand-in noted how each went."""
        wait_for(
            lambda: (
                len(self.merchant.received) >= count
                and sum(item["attempts"] for item in self.callbacks()) == len(self.merchant.received)
            ),
            what=lambda: f"{count} callbacks; {len(self.merchant.received)} came: {self.callbacks()}",
        )
        return self.merchant.received
