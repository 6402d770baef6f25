"""Metering's pure rules: what a history costs. No clock, no input or output; instants are integers in microseconds."""
