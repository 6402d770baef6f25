"""A stand-in of VNPay 2.1.0: its pay page, its IPN, querydr and refund."""
