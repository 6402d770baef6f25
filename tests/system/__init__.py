"""The whole system as processes, beside an oracle: happy paths, disorder, bad input, kills, and planted bugs."""
