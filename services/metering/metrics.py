"""Metering's metrics."""

from prometheus_client import Counter, Gauge, Histogram

LINES = Counter("tollkeeper_metering_lines", "Charge lines published by ticks")
TICK_SECONDS = Histogram("tollkeeper_metering_tick_seconds", "One tick transaction")
CACHE_LOADS = Counter("tollkeeper_metering_cache_loads", "Shards read whole because no valid cache was there")
LAG_SECONDS = Gauge("tollkeeper_metering_lag_seconds", "How far charging is behind now, also while it is halted")
HALTED = Gauge("tollkeeper_metering_halted", "1 while the ticks wait for an operator")
UNPUBLISHED = Gauge("tollkeeper_metering_unpublished", "Messages of the outbox that the broker does not have yet")
WAITING = Gauge("tollkeeper_metering_waiting_events", "Events that wait, by state", ["state"])
DEAD = Gauge("tollkeeper_metering_dead_letters", "Records that could not be understood and were not replayed")
UNPRICED = Gauge("tollkeeper_metering_unpriced_usage", "Usage records that wait for the first price of their SKU")
UNPRICED_RESOURCES = Gauge("tollkeeper_metering_unpriced_resources", "Resources that use a SKU without a price")
CONTRADICTIONS = Gauge("tollkeeper_metering_contradictions", "What was said and can't be, by kind", ["kind"])
INVENTORY_OVERDUE = Gauge("tollkeeper_metering_inventory_overdue", "Sources whose listing is overdue", ["region"])
EVENTS_WITHOUT_EFFECT = Counter(
    "tollkeeper_metering_events_without_effect", "Lifecycle events found to have no effect, by kind", ["kind"]
)
