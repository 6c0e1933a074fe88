"""Builds the subscription enforcer: the only file that makes the APIM client, the writer and the repair loop."""

from pathlib import Path

from billing_common.apim_client import create_client
from billing_common.service import Service
from subscription_enforcer import handlers, routes
from subscription_enforcer.apim_gateway import ApimGateway
from subscription_enforcer.repair import Repair
from subscription_enforcer.settings import Settings
from subscription_enforcer.writer import Writer

NAME = handlers.NAME
MIGRATIONS = Path(__file__).parents[2] / "migrations"


def create_service(settings: Settings) -> Service:
    """Return the service, ready to run."""
    service = Service(NAME, settings, migrations=MIGRATIONS, routers=[handlers.router], public=False)
    service.internal.include_router(routes.router)

    async def start() -> None:
        client = create_client(settings)
        gateway = ApimGateway(client, resource_group=settings.apim_resource_group, service_name=settings.apim_service_name)
        writer = Writer(
            service.pool, gateway, service.clock, minimum=settings.suspensions_per_hour_min, share=settings.suspensions_per_hour_share
        )
        service.share("writer", writer)
        service.share("repair", Repair(service.pool, gateway, interval=settings.repair_interval))
        service.settled_when(writer.unfinished)
        service.note(writer.notes)
        service.next_due(writer.next_due)
        service.on_stop(client.close)

    async def write() -> None:
        await service.context["writer"].run()

    async def repair() -> None:
        await service.context["repair"].run()

    service.on_start(start)
    service.loop("writer", write)
    service.loop("repair", repair)
    return service
