"""A real Postgres, and a real Kafka for what a broker in memory cannot show."""

pytest_plugins = ["embedded_servers.testing"]
