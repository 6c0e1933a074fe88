"""What the usage collector reads from its environment; no other module reads it."""

from datetime import timedelta
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from billing_common.events import GATEWAY_CALLS_TOPIC
from billing_common.settings import ApimSettings, ServiceSettings
from usage_collector.call_mapping import parse_mapping

DAY = timedelta(days=1)


class Settings(ServiceSettings, ApimSettings):
    """`CALLS_KAFKA_*` are for a stream of calls that lives elsewhere, e.g. on Event Hubs; absent: the common Kafka."""

    model_config = SettingsConfigDict(env_prefix="USAGE_COLLECTOR_", frozen=True)

    collect: bool = Field(default=True, description="off: this process only takes events at POST /v1/events, and others collect them")
    calls_topic: str = Field(
        default=GATEWAY_CALLS_TOPIC, description="topic with the calls; with CALLS_FORMAT=turnpike written by log-to-eventhub"
    )
    calls_format: Literal["turnpike", "cloudevents", "mapped"] = Field(
        default="turnpike",
        description="what the calls' topic holds: the JSON of log-to-eventhub, CloudEvents, or another JSON that CALLS_MAPPING describes",
    )
    calls_mapping: str = Field(
        default="",
        validate_default=True,
        description="for CALLS_FORMAT=mapped: JSON, from Turnpike's fields to paths in the record: docs/how-to/read-another-topic.md",
    )
    calls_kafka_bootstrap_servers: str = Field(default="", description="host:port of Event Hubs' Kafka endpoint")
    calls_kafka_security_protocol: Literal["PLAINTEXT", "SASL_SSL", "SASL_PLAINTEXT", "SSL"] = "SASL_SSL"
    calls_kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    calls_kafka_sasl_username: str = "$ConnectionString"
    calls_kafka_sasl_password: SecretStr = SecretStr("")
    calls_kafka_session_timeout_ms: int = Field(default=6000, ge=2000, le=60000, description="as SESSION_TIMEOUT_MS, where the calls live")
    session_timeout_ms: int = Field(
        default=3000,
        ge=2000,
        le=60000,
        description="after so long a dead collector's streams are taken over; not below the broker's group.min.session.timeout.ms",
    )
    batch_max: int = Field(default=8000, ge=1, le=20000, description="events in one transaction")

    event_age_max: timedelta = Field(default=35 * DAY, gt=timedelta(0), description="older events are refused: Stripe takes 35 days")
    event_ahead_max: timedelta = Field(
        default=timedelta(minutes=5), ge=timedelta(0), description="events further in the future are refused"
    )
    quantity_max: int = Field(default=999_999_999, ge=1, le=10**12, description="largest quantity of one event")
    usage_retention: timedelta = Field(default=396 * DAY, ge=90 * DAY, description="how long events are kept")

    publish_interval_seconds: float = Field(
        default=1.0,
        gt=0,
        le=60,
        description="pause between two rounds of usage.collected; longer where a round takes more than a twentieth of it",
    )
    straggler_grace_seconds: float = Field(default=2.0, ge=0, le=3600, description="wall time between a segment's end and its closing")

    late_interval_seconds: float = Field(
        default=300.0, gt=0, le=86400, description="wall time between two looks at usage that came late: what comes between is one line"
    )

    ingest_body_max_bytes: int = Field(default=1 << 20, ge=1024, le=1 << 22, description="also after gunzip")
    ingest_events_max: int = Field(default=1000, ge=1, le=10000, description="events in one request")
    ingest_requests_max: int = Field(default=256, ge=1, description="requests in flight; beyond: 503 with Retry-After")
    ingest_sender_requests_max: int = Field(default=128, ge=1, description="requests in flight of one sender; beyond: 429 with Retry-After")
    ingest_bytes_max: int = Field(default=32 << 20, ge=1024, description="bytes of bodies in memory; beyond: 503 with Retry-After")
    ingest_sender_bytes_max: int = Field(
        default=16 << 20, ge=1024, description="bytes of one sender's bodies in memory; beyond: 429 with Retry-After"
    )
    ingest_ack_timeout_seconds: float = Field(default=10.0, gt=0)
    ingest_refusal_pause_seconds: float = Field(
        default=0.05,
        ge=0,
        le=5,
        description="how long a 4xx waits: a connection that sends bad input in a loop gets no more of the door than a good one",
    )
    sender_refresh_seconds: float = Field(default=2.0, gt=0, le=60, description="how soon a new or revoked key is noticed")

    apim_subscription_id: str = ""
    apim_resource_group: str = ""
    apim_service_name: str = Field(default="", description="set it to poll reports for products with source reports")
    reports_interval: timedelta = Field(default=timedelta(minutes=5), gt=timedelta(0), description="business time between two polls")
    reports_overlap: timedelta = Field(
        default=timedelta(hours=3),
        ge=timedelta(minutes=30),
        description="reports trail: read again, at least lag and interval",
    )
    reports_lag: timedelta = Field(
        default=timedelta(minutes=45), ge=timedelta(0), description="a segment counted by reports waits this long"
    )

    @field_validator("calls_mapping")
    @classmethod
    def _mapping_fits_the_format(cls, text: str, info: ValidationInfo) -> str:
        if info.data.get("calls_format") == "mapped":
            parse_mapping(text)
        elif text:
            raise ValueError("it is read only with CALLS_FORMAT=mapped: set that, or remove this one")
        return text

    @model_validator(mode="after")
    def _nothing_falls_between_two_polls(self) -> Self:
        if self.reports_overlap < self.reports_lag + self.reports_interval:
            raise ValueError("REPORTS_OVERLAP must be at least REPORTS_LAG and REPORTS_INTERVAL together: calls would never be read")
        return self

    @model_validator(mode="after")
    def _the_largest_body_fits(self) -> Self:
        if not self.ingest_body_max_bytes <= self.ingest_sender_bytes_max <= self.ingest_bytes_max:
            raise ValueError("INGEST_BODY_MAX_BYTES, INGEST_SENDER_BYTES_MAX and INGEST_BYTES_MAX must not get smaller in this order")
        return self

    def calls_kafka(self) -> ServiceSettings:
        """Return settings whose Kafka is the one that holds the calls."""
        if not self.calls_kafka_bootstrap_servers:
            return self
        return self.model_copy(
            update={
                "kafka_bootstrap_servers": self.calls_kafka_bootstrap_servers,
                "kafka_security_protocol": self.calls_kafka_security_protocol,
                "kafka_sasl_mechanism": self.calls_kafka_sasl_mechanism,
                "kafka_sasl_username": self.calls_kafka_sasl_username,
                "kafka_sasl_password": self.calls_kafka_sasl_password,
            }
        )
