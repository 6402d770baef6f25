"""Kafka and PostgreSQL for one machine: given by address, by a Docker engine, or embedded."""
