"""An independent answer to what every account must have been charged.

Nothing here imports the project: only the standard library. The rules are written down a second time, in the slowest
and plainest way that still finishes: every slot of every resource is looked at, and what is equal over a stretch of
slots is multiplied instead of repeated. `python -m tests.oracle --help` compares with balances read elsewhere.
"""
