"""Fixtures of every test here: one Postgres and one Kafka for the run."""

pytest_plugins = ["embedded_servers.testing"]
