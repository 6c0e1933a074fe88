"""Builds the service: the only file that makes clients, and where the parts meet."""

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import httpx

from billing_common.internal_auth import InternalAuth
from billing_common.service import Service
from billing_common.stripe_client import client_of, create_client
from stripe_reporter import handlers, hourly, routes, routes_explanation, routes_reconciliation, store, unbilled
from stripe_reporter.collector_gateway import CollectorGateway
from stripe_reporter.reconciliation import Clocks
from stripe_reporter.reconciling import Stations
from stripe_reporter.sender import Sender, wall_now
from stripe_reporter.settings import Settings
from stripe_reporter.stripe_gateway import StripeGateway

NAME = "stripe_reporter"
MIGRATIONS = Path(__file__).parents[2] / "migrations"


def create_service(settings: Settings) -> Service:
    """Return the service, connected to nothing yet."""
    service = Service(NAME, settings, migrations=MIGRATIONS, routers=[handlers.router], public=False)
    service.internal.include_router(routes.router)
    service.internal.include_router(routes_explanation.router)
    service.internal.include_router(routes_reconciliation.router)
    routes_explanation.install_errors(service.internal)
    wake = service.share("wake", asyncio.Event())
    service.share("summary_lag", timedelta(seconds=settings.summary_lag_seconds))
    service.share("report_delay", timedelta(seconds=settings.report_delay_seconds))

    def progress(moved: int) -> None:
        service.activity += moved

    async def start() -> None:
        client, transport = create_client(settings)
        service.on_stop(transport.close_async)
        collector = httpx.AsyncClient(base_url=settings.collector_url, timeout=settings.collector_timeout_seconds)
        service.on_stop(collector.aclose)
        auth = InternalAuth(settings.token_keys, caller=NAME, scopes=["usage:read", "usage:write"])
        service.share("collector", CollectorGateway(collector, auth))
        stripe = service.share("stripe", StripeGateway(client, lambda token: client_of(settings, token, transport)))
        service.share("sender", Sender(service.pool, stripe, service.clock, settings, wake=wake, progress=progress))

    def stations() -> Stations:
        clocks = Clocks(service.clock.now(), wall_now(), timedelta(seconds=settings.summary_lag_seconds))
        return Stations(service.pool, service.context["collector"], service.context["stripe"], clocks)

    async def work() -> None:
        await service.context["sender"].run()

    async def waiting_for() -> str | None:
        async with service.pool.acquire() as connection:
            return "; ".join(await store.waiting_for(connection, service.clock.now())) or None

    async def next_due() -> datetime | None:
        async with service.pool.acquire() as connection:
            return await store.next_due(connection, service.clock.now())

    service.on_start(start)
    service.loop("sender", work)
    service.loop("reconciliation", lambda: hourly.run(stations, timedelta(seconds=settings.reconcile_every_seconds)))
    service.loop("unbilled", lambda: unbilled.run(stations))
    service.settled_when(waiting_for)
    service.next_due(next_due)
    return service
