"""What Prometheus sees of payment."""

from prometheus_client import Counter, Gauge

WEBHOOKS = Counter(
    "tollkeeper_payment_webhooks_total", "Callbacks dealt with, by provider and outcome", ["provider", "outcome"]
)
OPEN_QUEUE = Gauge("tollkeeper_payment_queue_open", "Items that wait for an operator")
EARLY_FACTS = Gauge("tollkeeper_payment_early_facts", "Facts that wait for their payment")
UNKNOWN_CREDITS = Counter("tollkeeper_payment_unknown_credits_total", "Credits that name a payment not known here")
