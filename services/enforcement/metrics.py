"""What enforcement tells Prometheus."""

from prometheus_client import Counter, Gauge

STOPS_REQUESTED = Counter("tollkeeper_enforcement_stops_requested", "Runs that were to be stopped")
STOPS_CONFIRMED = Counter("tollkeeper_enforcement_stops_confirmed", "Stop requests whose run is over")
STOP_COMMANDS = Counter("tollkeeper_enforcement_stop_commands", "Stop commands sent, repeats included")
STOPS_HELD_BACK = Counter("tollkeeper_enforcement_stops_held_back", "Stops that the breaker made wait: page a person")
STOPS_OPEN = Gauge("tollkeeper_enforcement_open_stops", "Stop requests that are not confirmed")
STOPS_UNSENT = Gauge("tollkeeper_enforcement_unsent_stops", "Stop requests that wait for the breaker")
STOPS_OPEN_AGE = Gauge("tollkeeper_enforcement_oldest_open_stop_seconds", "Age of the oldest unconfirmed stop request")
CASES = Gauge("tollkeeper_enforcement_deletion_cases", "Deletion cases by state", ["state"])
DELETE_COMMANDS = Counter("tollkeeper_enforcement_delete_commands", "Delete commands sent, repeats included")
DELETION_REPEATS_HELD_BACK = Counter(
    "tollkeeper_enforcement_deletion_repeats_held_back", "Repeated delete commands that the breaker made wait"
)
DELETIONS_HELD_UP = Counter(
    "tollkeeper_enforcement_deletions_held_up", "Causes that hold up all deletions of a region", ["region", "cause"]
)
DELETIONS_FROZEN = Counter("tollkeeper_enforcement_deletions_frozen", "Deletion cases frozen: page a person")
CASES_OVERDUE_AGE = Gauge(
    "tollkeeper_enforcement_oldest_overdue_case_seconds",
    "How long the oldest due case is neither frozen nor done",
)
DELETIONS_UNCONFIRMED = Gauge(
    "tollkeeper_enforcement_unconfirmed_deletions", "Commanded deletions neither confirmed nor given up"
)
DELETIONS_ABANDONED = Counter(
    "tollkeeper_enforcement_deletions_abandoned", "Commanded deletions given up: the account had recovered"
)
REMINDERS = Counter("tollkeeper_enforcement_deletion_reminders", "Reminders told of deletions to come")
DELETIONS_HALTED = Gauge("tollkeeper_enforcement_deletions_halted", "1 while deletions wait for an operator")
FOREIGN_EVENTS = Counter("tollkeeper_enforcement_foreign_events", "Lifecycle events about somebody else's resource")
SWEPT_AT = Gauge("tollkeeper_enforcement_swept_at_seconds", "When the last complete sweep of balance ended, Unix time")
SWEEP_HEALED = Counter("tollkeeper_enforcement_sweep_healed", "Accounts whose state the sweep knew better than events")
RUNS_MISSED = Counter(
    "tollkeeper_enforcement_runs_missed", "Runs that metering charged an empty account for and our own books lacked"
)
UNANSWERED = Counter(
    "tollkeeper_enforcement_unanswered_questions", "Questions that a neighbour did not answer", ["service"]
)
SWEEP_UNUSABLE = Counter("tollkeeper_enforcement_sweep_unusable", "Accounts of which balance's answer can't be used")
STOPS_DROPPED = Counter(
    "tollkeeper_enforcement_stops_dropped", "Accounts whose due stops balance did not want any more when asked again"
)
