"""Real Kafka and Postgres without Docker: installs, starts and stops them."""

from embedded_servers.errors import ServerError
from embedded_servers.kafka import Kafka
from embedded_servers.postgres import Postgres
from embedded_servers.provision import provision_database, service_dsn, with_database

__all__ = ["Kafka", "Postgres", "ServerError", "provision_database", "service_dsn", "with_database"]
