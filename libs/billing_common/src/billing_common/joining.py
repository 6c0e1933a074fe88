"""Consumers join their groups; a broker that refuses them for good is told with the settings that change it."""

import asyncio

from aiokafka.errors import InvalidSessionTimeoutError
from faststream.kafka import KafkaBroker

from billing_common.messaging import SESSION_TIMEOUT_MS
from billing_common.settings import ServiceSettings

OWN_BROKER = "kafka"  # the loop that runs the common Kafka; one named `calls` runs that of the settings CALLS_KAFKA_*


async def join_groups(broker: KafkaBroker) -> None:
    """Join all groups at once: `broker.start()` joins one after another and waits for each."""
    await broker.connect()
    await asyncio.gather(*(subscriber.start() for subscriber in broker.subscribers))
    broker.running = True


def refusal(error: BaseException, loop: str, settings: ServiceSettings) -> str:
    """Say what a person can do when no further try can help; empty for any other error."""
    if not isinstance(error, InvalidSessionTimeoutError):
        return ""
    prefix = "" if loop == OWN_BROKER else f"{loop}_kafka_"
    field = f"{prefix}session_timeout_ms"
    asked = getattr(settings, field, SESSION_TIMEOUT_MS)
    said = (
        f"Kafka refuses consumers with a session time-out of {asked} ms: set the broker's group.min.session.timeout.ms to {asked} or less"
    )
    if field not in type(settings).model_fields:
        return said
    name = f"{type(settings).model_config.get('env_prefix', '')}{field.upper()}"
    return f"{said}, or {name} to what the broker allows (from 6000 unless it was changed)"
