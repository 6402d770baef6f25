"""A stand-in of Stripe: Checkout, payments, refunds, disputes, events and signed webhooks."""
