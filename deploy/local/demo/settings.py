"""The demo shortens settings, not time: slots of a second, a grace period of forty."""

import json

REGION = "vn"
GRACE_SECONDS = 40

_REGION_SETTINGS = {"slot_seconds": 1, "grace_seconds": GRACE_SECONDS, "opened_at": "2020-01-01T00:00:00Z"}

DEMO_ENVIRONMENT: dict[str, str] = {
    "TOLLKEEPER_REGIONS": json.dumps(
        {"vn": {"currency": "VND", **_REGION_SETTINGS}, "jp": {"currency": "JPY", **_REGION_SETTINGS}}
    ),
    "TOLLKEEPER_TICK_SECONDS": "1",
    "TOLLKEEPER_SETTLE_DELAY_SECONDS": "1",
    "TOLLKEEPER_ENFORCEMENT_SWEEP_SECONDS": "5",
    "TOLLKEEPER_ENFORCEMENT_STOP_REPEAT_SECONDS": "5",
    "TOLLKEEPER_ENFORCEMENT_DELETION_RETRY_SECONDS": "3",
}
