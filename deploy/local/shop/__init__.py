"""A shop to try payments in a browser: accounts with their balances, and credits to buy. For the local stack alone."""
