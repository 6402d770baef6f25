"""Deterministic fleets of containers, volumes and service usage as event files, and what can go wrong with such files.

Everything is drawn from a seed; the same seed gives the same bytes.
"""
