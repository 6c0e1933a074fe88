"""Consumers join their groups; a broker that refuses them for good is told with the settings that change it."""

import asyncio
from contextlib import suppress

from aiokafka.errors import InvalidSessionTimeoutError
from faststream.kafka import KafkaBroker

from billing_common.messaging import SESSION_TIMEOUT_MS
from billing_common.settings import ServiceSettings

GRACE_SECONDS = 1.0  # for those that connect while another one fails: a client cut off meanwhile leaves its connection open
OWN_BROKER = "kafka"  # the loop that runs the common Kafka; one named `calls` runs that of the settings CALLS_KAFKA_*


async def join_groups(broker: KafkaBroker) -> None:
    """Join all groups at once: `broker.start()` joins one after another and waits for each.

    If one cannot, none goes on joining and all are stopped before its error is raised: the next try starts from nothing.
    """
    try:
        await broker.connect()
        await _all_or_none([asyncio.create_task(subscriber.start()) for subscriber in broker.subscribers])
    except BaseException:
        with suppress(Exception):
            await broker.stop()
        raise
    broker.running = True


async def _all_or_none(starting: list[asyncio.Task[None]]) -> None:
    """Wait until all have started; after the first error the others get a moment to connect, and no more."""
    try:
        waiting = set(starting)
        while waiting:
            ended, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
            if error := next((failed for one in ended if (failed := one.exception())), None):
                if waiting:
                    await asyncio.wait(waiting, timeout=GRACE_SECONDS)
                raise error
    finally:
        for one in starting:
            one.cancel()
        await asyncio.gather(*starting, return_exceptions=True)


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
