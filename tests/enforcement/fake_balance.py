"""A balance that the test plays: accounts set by hand, permits and redemptions by balance's rules."""

from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from services.enforcement.rules.account import Account, AccountKey
from shared.clock import SECOND_US, FixedClock, format_instant, parse_instant
from shared.http import problem


@dataclass
class FakeBalance:
    """`down` makes every question fail; `refuse_permits` answers 409, and so do redemptions past the allowed number."""

    clock: FixedClock
    accounts: dict[AccountKey, Account] = field(default_factory=dict)
    streams: list[dict[str, Any]] = field(default_factory=list)
    reversed_micros: int = 0
    nonsense: set[AccountKey] = field(default_factory=set)
    down: bool = False
    refuse_permits: bool = False
    refuse_redemptions_after: int | None = None
    ahead_seconds: int = 0
    permits: dict[str, tuple[AccountKey, int, int]] = field(default_factory=dict)
    granted: list[dict[str, str]] = field(default_factory=list)
    redeemed: dict[tuple[str, str], int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.api = FastAPI()
        self.api.middleware("http")(self._fail_when_down)
        self.api.get("/v1/accounts")(self.list_accounts)
        self.api.get("/v1/accounts/{region}/{tenant_id}")(self.get_account)
        self.api.get("/v1/status")(self.get_status)
        self.api.post("/v1/deletion-permits", response_model=None)(self.grant)
        self.api.post("/v1/deletion-permits/{permit_id}/redemptions", response_model=None)(self.redeem)

    def set(self, account: Account) -> None:
        self.accounts[account.key] = account

    async def _fail_when_down(self, request: Any, call_next: Any) -> Any:
        self.asked.append(f"{request.method} {request.url.path}")
        return Response(status_code=503) if self.down else await call_next(request)

    def list_accounts(self, balance_at_most_micros: int, limit: int, after: str = "") -> dict[str, Any]:
        """Pages of two, so that there are several."""
        keys = sorted(
            key
            for key, account in self.accounts.items()
            if account.balance_micros <= balance_at_most_micros and "/".join(key) > after
        )
        page = keys[: min(2, limit)]
        more = "/".join(page[-1]) if len(keys) > len(page) else None
        return {"accounts": [self._body(self.accounts[key]) for key in page], "next": more}

    def get_account(self, region: str, tenant_id: str) -> Any:
        account = self.accounts.get(AccountKey(region, tenant_id))
        if account is None:
            return problem(404, "no-account", "there is no such account")
        without_micros = account.balance_micros + self.reversed_micros
        return {**self._body(account), "balance_without_reversals_micros": without_micros}

    def _body(self, account: Account) -> dict[str, Any]:
        body = _body(account)
        return {**body, "balance_micros": "five"} if account.key in self.nonsense else body

    def get_status(self) -> dict[str, Any]:
        now = format_instant(self.clock.now_us() + self.ahead_seconds * SECOND_US)
        return {"now": now, "streams": self.streams, "positions": {}, "unpublished": 0}

    def grant(self, body: dict[str, str]) -> Any:
        key, since_us = AccountKey(body["region"], body["tenant_id"]), parse_instant(body["negative_since"])
        account = self.accounts[key]
        now_us = self.clock.now_us()
        if self.refuse_permits or account.negative_since_us != since_us or now_us < parse_instant(body["due_at"]):
            return problem(409, "permit-refused", "the account is not to be deleted")
        self.granted.append(body)
        permit_id = f"permit-{len(self.permits) + 1}"
        self.permits[permit_id] = (key, since_us, now_us + 60 * SECOND_US)
        answer = {"permit_id": permit_id, "negative_since": body["negative_since"]}
        expires_at = format_instant(now_us + 60 * SECOND_US)
        return JSONResponse({**answer, "expires_at": expires_at}, status_code=201)

    def redeem(self, permit_id: str, body: dict[str, Any]) -> Any:
        assert body["commanding"] is True
        key, since_us, expires_at_us = self.permits[permit_id]
        now_us = self.clock.now_us()
        redemption = (permit_id, body["resource_id"])
        stale = self.accounts[key].negative_since_us != since_us or now_us >= expires_at_us
        used_up = self.refuse_redemptions_after is not None and len(self.redeemed) >= self.refuse_redemptions_after
        if redemption not in self.redeemed and (used_up or stale):
            return problem(409, "redemption-refused", "the permit is void")
        redeemed_at_us = self.redeemed.setdefault(redemption, now_us)
        return {
            "permit_id": permit_id,
            "resource_id": body["resource_id"],
            "redeemed_at": format_instant(redeemed_at_us),
            "expires_at": format_instant(expires_at_us),
        }


def _body(account: Account) -> dict[str, Any]:
    since_us = account.negative_since_us
    return {
        "region": account.key.region,
        "tenant_id": account.key.tenant_id,
        "state": account.state,
        "currency": "VND",
        "balance_micros": account.balance_micros,
        "spendable_micros": account.balance_micros,
        "burn_micros_per_hour": 0,
        "negative_since": None if since_us is None else format_instant(since_us),
        "version": account.version,
    }
