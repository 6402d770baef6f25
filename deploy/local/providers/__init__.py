"""Stand-ins of Stripe and VNPay: processes that behave as the providers do, for the local stack and for tests.

Production code does not know them: it is given their base addresses and keys, as it would be given the real ones.
`/_control` is what tests and the demo hold them by; everything else is what the real provider has.
"""
