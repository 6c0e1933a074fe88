"""Real Kafka and Postgres without Docker: installs, starts and stops them."""
