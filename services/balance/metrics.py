"""What Prometheus sees of balance."""

from prometheus_client import Counter, Gauge

ENTRIES = Counter("tollkeeper_balance_entries_total", "Entries posted")
ACCOUNTS = Counter("tollkeeper_balance_accounts_total", "Accounts moved, once per transaction")
BATCHES = Counter("tollkeeper_balance_batches_total", "Charge batches posted")
REPEATS = Counter("tollkeeper_balance_repeats_total", "Charge batches dropped as known")
LAG_SECONDS = Gauge("tollkeeper_balance_lag_seconds", "Posting time less the time of charging, of the last batch")
STOPPED_STREAMS = Gauge("tollkeeper_balance_stopped_streams", "Streams that wait for an operator")
GAPS = Gauge("tollkeeper_balance_gaps", "Streams that wait for missing batches")
HOUR_ROWS = Counter("tollkeeper_balance_hour_rows_total", "Rows of closed hours written")
STOPPED_HOURS = Gauge("tollkeeper_balance_stopped_hours", "Shards whose hours do not add up and are not closed")
FACTS = Counter("tollkeeper_balance_payment_facts_total", "Facts of payment posted")
CONFLICTING_FACTS = Counter(
    "tollkeeper_balance_conflicting_facts_total", "Facts of payment that came again with other contents: page a person"
)
ADMISSIONS = Counter("tollkeeper_balance_admissions_total", "Admissions decided", ["outcome"])
EXPIRED_GRANTS = Counter("tollkeeper_balance_expired_grants_total", "Rests of grants that expired")
AUDIT_DIFFERENCES = Gauge("tollkeeper_balance_audit_differences", "What the last audit found: page a person")
AUDITED_AT = Gauge("tollkeeper_balance_audited_at_seconds", "When the last audit ended")
