"""What Prometheus sees of payment."""

from prometheus_client import Counter, Gauge

WEBHOOKS = Counter(
    "tollkeeper_payment_webhooks_total", "Callbacks dealt with, by provider and outcome", ["provider", "outcome"]
)
OPEN_QUEUE = Gauge("tollkeeper_payment_queue_open", "Items that wait for an operator")
INBOX_PROBLEMS = Gauge("tollkeeper_payment_inbox_problems", "Callbacks that could not be read or applied")
EARLY_FACTS = Gauge("tollkeeper_payment_early_facts", "Facts that wait for their payment")
AUTO_TOP_UPS = Counter("tollkeeper_payment_auto_top_ups_total", "Charges of saved cards, by how they ended", ["state"])
RECONCILED = Counter("tollkeeper_payment_reconciled_total", "Orders that a provider was asked about", ["provider"])
DIFFERENCES = Counter(
    "tollkeeper_payment_differences_total", "Differences that reconciliation found, healed or not", ["provider", "kind"]
)
SWEPT = Counter("tollkeeper_payment_swept_events_total", "Events that a provider listed", ["provider", "outcome"])
UNKNOWN_CREDITS = Counter("tollkeeper_payment_unknown_credits_total", "Credits that name a payment not known here")
