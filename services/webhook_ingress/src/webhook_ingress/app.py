"""Builds the webhook ingress: the only file that makes the Stripe client, the worker and the recovery."""

import asyncio
from pathlib import Path

from billing_common.service import Service
from billing_common.stripe_client import create_client
from webhook_ingress import routes, store
from webhook_ingress.recovery import Recovery
from webhook_ingress.settings import Settings
from webhook_ingress.stripe_gateway import StripeGateway
from webhook_ingress.worker import Worker

NAME = "webhook_ingress"
MIGRATIONS = Path(__file__).parents[2] / "migrations"


def create_service(settings: Settings) -> Service:
    """Return the service, ready to run."""
    service = Service(NAME, settings, migrations=MIGRATIONS)
    assert service.public is not None
    service.public.include_router(routes.public)
    service.internal.include_router(routes.internal)

    async def start() -> None:
        client, transport = create_client(settings)
        gateway = StripeGateway(client)
        worker = service.share("worker", Worker(service.pool, gateway, concurrency=settings.concurrency))
        service.share("webhook_secrets", settings.webhook_secrets)
        service.share("signature_tolerance", settings.signature_tolerance)
        service.share(
            "recovery",
            Recovery(service.pool, gateway, worker, service.clock, overlap=settings.recovery_overlap, interval=settings.recovery_interval),
        )
        service.settled_when(worker.unfinished)
        service.on_stop(transport.close_async)

    async def work() -> None:
        await service.context["worker"].run()

    async def recover() -> None:
        await service.context["recovery"].run()

    async def forget() -> None:
        while True:
            await store.forget_events(service.pool, keep=settings.keep_events)
            await asyncio.sleep(3600)

    service.on_start(start)
    service.loop("webhooks", work)
    service.loop("recovery", recover)
    service.loop("retention", forget)
    return service
