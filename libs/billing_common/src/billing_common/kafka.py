"""Connection settings for Kafka and Event Hubs, in the words of aiokafka and of FastStream."""

import ssl
from typing import Any

from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from billing_common.settings import KafkaSettings


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext | None:
    return ssl.create_default_context() if "SSL" in settings.kafka_security_protocol else None


def arguments(settings: KafkaSettings) -> dict[str, Any]:
    """Return what AIOKafkaProducer, AIOKafkaConsumer and the admin client need to connect."""
    found: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap_servers,
        "security_protocol": settings.kafka_security_protocol,
        "metadata_max_age_ms": 180000,  # Azure cuts idle connections after 240 s
        "connections_max_idle_ms": 180000,
    }
    if (context := _ssl_context(settings)) is not None:
        found["ssl_context"] = context
    if settings.kafka_security_protocol.startswith("SASL"):
        found |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_sasl_username,
            "sasl_plain_password": settings.kafka_sasl_password.get_secret_value(),
        }
    return found


def faststream_arguments(settings: KafkaSettings) -> dict[str, Any]:
    """Return what KafkaBroker needs to connect."""
    found: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap_servers,
        "metadata_max_age_ms": 180000,
        "connections_max_idle_ms": 180000,
        "request_timeout_ms": 10000,
    }
    context = _ssl_context(settings)
    if settings.kafka_security_protocol == "SSL":
        found["security"] = BaseSecurity(ssl_context=context, use_ssl=True)
    elif settings.kafka_security_protocol.startswith("SASL"):
        kinds = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}
        found["security"] = kinds[settings.kafka_sasl_mechanism](
            username=settings.kafka_sasl_username,
            password=settings.kafka_sasl_password.get_secret_value(),
            ssl_context=context,
            use_ssl=context is not None,
        )
    return found
