"""Receipts on paper: the same lines as a page and as a PDF."""
