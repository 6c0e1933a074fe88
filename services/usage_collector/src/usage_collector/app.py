"""Builds the service: the only file that makes brokers and clients."""

from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer
from faststream.kafka import KafkaBroker

from billing_common import kafka, standstill
from billing_common.events import USAGE_RECORDED_TOPIC
from billing_common.joining import join_groups
from billing_common.messaging import PauseOrPark
from billing_common.service import Service
from usage_collector import (
    handlers,
    public_contract,
    rolling,
    routes,
    routes_corrections,
    routes_days,
    routes_held,
    routes_late,
    routes_usage,
    streams,
)
from usage_collector.apim_gateway import CallCount, calls_by_day, successful_calls
from usage_collector.background import Background
from usage_collector.call_mapping import parse_mapping
from usage_collector.collecting import Collector
from usage_collector.ingest import Ingest, IngestDoor
from usage_collector.positions import Positions, Stream
from usage_collector.refusals import Refusals
from usage_collector.report_polling import ReportPolling
from usage_collector.senders import Senders
from usage_collector.settings import Settings

log = structlog.get_logger(__name__)
SERVICE = "usage_collector"
MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
READ_AGE_SLACK = timedelta(days=7)  # what ingest accepted stays accepted while it waits on its topic

READ_AHEAD_SLACK = timedelta(minutes=1)  # also by a host whose clock is a little behind the door's


def create_service(settings: Settings) -> Service:
    """Return the service, not started: a door for events, and unless `settings.collect` is off all that becomes of them."""
    elsewhere = bool(settings.calls_kafka_bootstrap_servers)
    session_timeout_ms = settings.calls_kafka_session_timeout_ms if elsewhere else settings.session_timeout_ms
    calls = streams.gateway_calls_router(
        settings.calls_topic, _read_calls(settings), records_max=settings.batch_max, session_timeout_ms=session_timeout_ms
    )
    recorded = streams.usage_recorded_router(session_timeout_ms=settings.session_timeout_ms)
    routers = [handlers.router, recorded, *([] if elsewhere else [calls])]
    service = Service(SERVICE, settings, migrations=MIGRATIONS, routers=routers if settings.collect else [])
    assert service.public is not None
    service.put_in_front(lambda app: IngestDoor(app, public_contract.PATH, lambda: service.context["ingest"]))
    service.public.openapi = partial(public_contract.document, SERVICE)  # type: ignore[method-assign]  # as FastAPI's guide says
    service.on_start(lambda: _start_door(service, settings))
    if not settings.collect:
        return service
    for router in (
        routes.router,
        routes_usage.router,
        routes_corrections.router,
        routes_days.router,
        routes_held.router,
        routes_late.router,
    ):
        service.internal.include_router(router)
    calls_broker = None
    if elsewhere:
        arguments = kafka.faststream_arguments(settings.calls_kafka())
        calls_broker = KafkaBroker(**arguments, middlewares=[PauseOrPark], logger=None, allow_auto_create_topics=False)
        calls_broker.include_router(calls)
    service.on_start(lambda: _start_collecting(service, settings, calls_broker))
    return service


def _read_calls(settings: Settings) -> streams.ReadCalls:
    """Choose once how the records of the calls' topic are read."""
    if settings.calls_format == "cloudevents":
        return streams.read_cloud_events(quantity_max=settings.quantity_max, events_max=settings.ingest_events_max)
    if settings.calls_format == "mapped":
        return streams.read_mapped_calls(parse_mapping(settings.calls_mapping), quantity_max=settings.quantity_max)
    return streams.read_fixed_calls()


async def _start_door(service: Service, settings: Settings) -> None:
    """Make what takes events."""
    senders = service.share("senders", Senders(service.pool, refresh_seconds=settings.sender_refresh_seconds))
    refusals = Refusals()
    service.share("ingest", Ingest(service.producer, senders, refusals, clock=service.clock, settings=settings))
    service.loop("refusals", lambda: refusals.run(service.pool))


async def _start_collecting(service: Service, settings: Settings, calls_broker: KafkaBroker | None) -> None:
    """Make what needs the event loop, and name the loops."""
    age_max, ahead_max = reading_limits(settings)
    collector = service.share("collector", Collector(service.pool, batch_max=settings.batch_max, age_max=age_max, ahead_max=ahead_max))
    positions = service.share("positions", Positions(_streams(settings)))
    service.on_stop(positions.close)
    service.share("usage_retention", settings.usage_retention)
    service.loop("roll_up", lambda: rolling.run(service.pool, service.clock, settings.usage_retention))
    reports = _reports(service, settings, collector)
    background = Background(service, settings, collector, positions, reports)
    for name in ("publish", "settle", "settle_late", "close", "watch", "watch_held", "keep_partitions"):
        service.loop(name, getattr(background, name))
    service.settled_when(background.waiting_for)
    service.next_due(background.next_due)
    if reports is not None:
        service.loop("reports", reports.run)
    if calls_broker is not None:
        _add_calls_broker(service, calls_broker, kafka.arguments(settings.calls_kafka()))
        service.settled_when(background.unread_calls)


def reading_limits(settings: Settings) -> tuple[timedelta, timedelta]:
    """Return how old and how far ahead what is read may be: more than the door takes."""
    return settings.event_age_max + READ_AGE_SLACK, settings.event_ahead_max + READ_AHEAD_SLACK


def _streams(settings: Settings) -> list[Stream]:
    return [
        Stream(USAGE_RECORDED_TOPIC, streams.group_of(USAGE_RECORDED_TOPIC), kafka.arguments(settings)),
        Stream(settings.calls_topic, streams.group_of(settings.calls_topic), kafka.arguments(settings.calls_kafka())),
    ]


def _reports(service: Service, settings: Settings, collector: Collector) -> ReportPolling | None:
    service.share("gateway_calls", None)
    service.share("reports_lag", settings.reports_lag)
    if not settings.apim_service_name:
        return None
    from billing_common.apim_client import create_client  # takes half a second to import, and only some run with reports

    client = create_client(settings)
    service.on_stop(client.close)

    async def ask_days(since: datetime, until: datetime, sid: str | None = None) -> dict[tuple[str, date], CallCount]:
        return await calls_by_day(client, settings, since, until, sid)

    service.share("gateway_calls", ask_days)

    async def ask(since: datetime, until: datetime, sid: str | None = None) -> dict[str, int]:
        return await successful_calls(client, settings, since, until, sid)

    return ReportPolling(
        service.pool,
        collector,
        ask,
        clock=service.clock,
        interval=settings.reports_interval,
        overlap=settings.reports_overlap,
        lag=settings.reports_lag,
    )


def _add_calls_broker(service: Service, broker: KafkaBroker, arguments: dict[str, Any]) -> None:
    """Run the broker of the calls beside the service's own: dead letters go to the common Kafka."""
    for name, value in service.context.items():
        broker.context.set_global(name, value)

    async def run() -> None:
        if not broker.running:
            await join_groups(broker)

    service.loop("calls", run)
    service.loop("calls_standstill", lambda: standstill.watch(broker, AIOKafkaConsumer(**arguments, enable_auto_commit=False)))
    service.on_stop(broker.stop)
