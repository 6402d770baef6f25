"""A metering and a payment that the test plays."""

from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Response

from services.enforcement.rules.account import AccountKey
from shared.clock import SECOND_US, FixedClock, format_instant

SHARDS = 16


@dataclass
class _Fake:
    """`down` makes every question fail; `ahead_seconds` is how far its clock is ahead."""

    clock: FixedClock
    down: bool = False
    ahead_seconds: int = 0
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.api = FastAPI()
        self.api.middleware("http")(self._fail_when_down)

    async def _fail_when_down(self, request: Any, call_next: Any) -> Any:
        self.asked.append(f"{request.method} {request.url.path}")
        return Response(status_code=503) if self.down else await call_next(request)

    @property
    def now(self) -> str:
        return format_instant(self.clock.now_us() + self.ahead_seconds * SECOND_US)


@dataclass
class FakeMetering(_Fake):
    """Charges everything `lag_seconds` after it happened; `others` are somebody else's, `charged` its runs."""

    lag_seconds: int = 5
    seq: int = 0
    halted: str | None = None
    held_back: list[dict[str, Any]] = field(default_factory=list)
    others: set[str] = field(default_factory=set)
    charged: dict[str, tuple[str, str | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.api.get("/v1/status")(self.get_status)
        self.api.post("/v1/runs")(self.list_runs)
        self.api.post("/v1/charged-resources")(self.list_charged)
        self.api.get("/v1/accounts/{region}/{tenant_id}/held-back")(self.list_held_back)
        self.api.get("/v1/accounts/{region}/{tenant_id}/resources/{resource_id:path}")(self.get_owned)

    def get_status(self) -> dict[str, Any]:
        through = format_instant(self.clock.now_us() - self.lag_seconds * SECOND_US)
        shards = [{"shard": shard, "seq": self.seq, "through": through} for shard in range(SHARDS)]
        return {"now": self.now, "halted": self.halted, "through": through, "shards": shards}

    def get_owned(self, resource_id: str) -> dict[str, Any]:
        return {"resource_id": resource_id, "is_owner": resource_id not in self.others}

    def list_runs(self, body: dict[str, list[dict[str, str]]]) -> dict[str, Any]:
        """Those of `charged`: the tenant and the event that began its run, by resource id."""
        found: list[dict[str, Any]] = []
        for name in body["resources"]:
            if name["resource_id"] in self.charged:
                tenant_id, run_id = self.charged[name["resource_id"]]
                run = None if run_id is None else {"source": "platform/vn", "event_id": run_id}
                found.append({**name, "tenant_id": tenant_id, "run": run})
        return {"now": self.now, "resources": found}

    def list_charged(self, body: dict[str, Any]) -> dict[str, Any]:
        """A resource of `charged` a page; its region is vn."""
        asked = {account["tenant_id"] for account in body["accounts"]}
        names = sorted(name for name, (tenant_id, _) in self.charged.items() if tenant_id in asked)
        after = (body.get("after") or {"resource_id": ""})["resource_id"]
        page = [name for name in names if name > after][:1]
        found = self.list_runs({"resources": [{"region": "vn", "resource_id": name} for name in page]})["resources"]
        return {
            "now": self.now,
            "resources": [item for item in found if item["run"] is not None or not body.get("running")],
            "next": {"region": "vn", "resource_id": page[-1]} if page else None,
        }

    def list_held_back(self, region: str, tenant_id: str) -> dict[str, Any]:  # noqa: ARG002 - acme's alone
        return {"now": self.now, "held_back": self.held_back}


@dataclass
class FakePayment(_Fake):
    """`open` lists what may still become a credit of an account."""

    open: dict[AccountKey, list[dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.api.get("/v1/status")(lambda: {"now": self.now})
        self.api.get("/v1/accounts/{region}/{tenant_id}/open-payments")(self.list_open)

    def list_open(self, region: str, tenant_id: str) -> dict[str, Any]:
        return {"now": self.now, "open_payments": self.open.get(AccountKey(region, tenant_id), [])}

    def add(self, key: AccountKey, kind: str, item_id: str, state: str, *, attempted: bool, asked: bool = True) -> None:
        item = {"kind": kind, "id": item_id, "state": state, "attempted": attempted, "asked": asked, "since": self.now}
        self.open.setdefault(key, []).append(item)
