"""Which topics exist, and how they are made."""

from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from billing_common.events import ALL_EVENTS, GATEWAY_CALLS_TOPIC, USAGE_RECORDED_TOPIC

SERVICES = ("delegation_gateway", "checkout", "webhook_ingress", "usage_collector", "stripe_reporter", "subscription_enforcer")
TOPIC_ALREADY_EXISTS = 36
FOREVER = {"retention.ms": "-1"}


class TopicError(Exception):
    """A topic could not be made; the message names it and why."""


def dead_letter_topic(service: str) -> str:
    return f"{service}.dlq"


def all_topics() -> tuple[str, ...]:
    """Return every topic of Turnpike: events, the usage streams and one dead-letter topic per service."""
    return (*(event.topic for event in ALL_EVENTS), USAGE_RECORDED_TOPIC, GATEWAY_CALLS_TOPIC, *(dead_letter_topic(s) for s in SERVICES))


async def provision(
    kafka: Mapping[str, Any], *, partitions: int = 4, replication_factor: int = 1, names: Iterable[str] | None = None
) -> list[str]:
    """Make the topics that are missing and return their names. `kafka` holds aiokafka's connection settings.

    The catalogue is kept for ever (a new service reads all versions); a dead-letter topic has one partition, so its list has an order.
    """
    admin = AIOKafkaAdminClient(**kafka)
    try:
        await admin.start()
        wanted = [
            NewTopic(
                name,
                1 if name.endswith(".dlq") or name == "catalogue.applied" else partitions,
                replication_factor,
                topic_configs=FOREVER if name.endswith(".dlq") or name == "catalogue.applied" else {},
            )
            for name in (names or all_topics())
        ]
        answer = await admin.create_topics(wanted)
    finally:
        await admin.close()
    made = []
    for name, code, *reason in answer.topic_errors:
        if code == 0:
            made.append(name)
        elif code != TOPIC_ALREADY_EXISTS:
            raise TopicError(f"topic {name} could not be made: Kafka error {code} {reason}")
    return made
