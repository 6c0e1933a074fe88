"""Builds the service: gateways, doors, handlers and the worker. The only file that maps errors to HTTP."""

from pathlib import Path

import httpx
from azure.mgmt.apimanagement.aio import ApiManagementClient
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from billing_common import apim_client, stripe_client
from billing_common.catalogue import CatalogueError
from billing_common.catalogue_changes import StillSubscribedError
from billing_common.internal_auth import InternalAuth
from billing_common.service import Service
from checkout import (
    charging,
    handlers,
    handlers_changes,
    handlers_corrections,
    handlers_payment,
    handlers_unbilled,
    intents,
    routes,
    routes_catalogue,
    routes_corrections,
    routes_migrations,
    routes_unbilled,
    store_changes,
)
from checkout.apim_gateway import ApimGateway, ApimRefusedError, ApimUnavailableError
from checkout.applying import NothingAppliedError, PlanMovedError
from checkout.carrying import ApplyStoppedError, Outside
from checkout.change_steps import ChangeSteps
from checkout.contact import ContactDoor
from checkout.domain import RefusedError
from checkout.drift import Watch
from checkout.holding import Holder, Patience
from checkout.policy import PolicyError
from checkout.policy_answers import Plans
from checkout.selling import Seller
from checkout.settings import Settings
from checkout.store_catalogue import ApplyRunningError
from checkout.stripe_catalogue import StripeCatalogue
from checkout.stripe_changes import StripeChanges
from checkout.stripe_drafts import StripeDrafts
from checkout.stripe_gateway import StripeGateway, StripeRefusedError, StripeUnavailableError
from checkout.usage_door import UsageDoor

MIGRATIONS = Path(__file__).parents[2] / "migrations"


def create_service(settings: Settings) -> Service:
    """Return the service, ready to run."""
    routers = [handlers.router, handlers_changes.router, handlers_payment.router, handlers_corrections.router, handlers_unbilled.router]
    service = Service("checkout", settings, migrations=MIGRATIONS, routers=routers, public=False)
    for router in (routes.router, routes_catalogue.router, routes_corrections.router, routes_migrations.router, routes_unbilled.router):
        service.internal.include_router(router)
    install_errors(service.internal)

    async def connect() -> None:
        client, transport = stripe_client.create_client(settings)
        service.on_stop(transport.close_async)
        apim = apim_client.create_client(settings)
        service.on_stop(apim.close)
        gateway = StripeGateway(client)
        plans = Plans(str(settings.pricing_url) if settings.pricing_url else None)
        outside = service.share("outside", Outside(StripeCatalogue(client), _apim(apim, settings), plans))
        service.share("usage_door", _usage(service, settings))
        service.loop("catalogue drift", Watch(service.pool, outside, interval=settings.drift_interval).run)
        service.share("seller", Seller(service.pool, gateway, _contacts(service, settings)))
        holder = Holder(service.pool, StripeDrafts(client), service.clock, _patience(settings))
        service.loop("drafts", holder.run)
        service.settled_when(holder.waiting_for)
        service.next_due(holder.next_due)
        steps = ChangeSteps(service.pool, StripeChanges(client), service.clock).all() | holder.steps()
        worker = service.share("intents", intents.Worker(service.pool, gateway, poll_seconds=settings.intent_poll_seconds, steps=steps))
        service.loop("intents", worker.run)
        service.loop("kept charges", lambda: charging.show_kept(service.pool))

    async def settled() -> str | None:
        if count := await intents.waiting(service.pool):
            return f"{count} calls to Stripe"
        changes = await store_changes.under_way(service.pool)
        return f"{changes} changes of plan" if changes else None

    service.on_start(connect)
    service.settled_when(settled)
    return service


def _apim(client: ApiManagementClient, settings: Settings) -> ApimGateway:
    return ApimGateway(
        client,
        resource_group=settings.apim_resource_group,
        service_name=settings.apim_service_name,
        hub_name=settings.usage_event_hub_name,
        hub_connection=settings.usage_event_hub_connection.get_secret_value(),
    )


def _patience(settings: Settings) -> Patience:
    return Patience(settings.draft_hold_margin, settings.draft_final_after, settings.draft_held_alert)


def _contacts(service: Service, settings: Settings) -> ContactDoor | None:
    if settings.gateway_url is None:
        return None
    client = httpx.AsyncClient(base_url=str(settings.gateway_url), timeout=5)
    service.on_stop(client.aclose)
    return ContactDoor(client, InternalAuth(settings.token_keys, caller="checkout", scopes=["accounts:read"]))


def _usage(service: Service, settings: Settings) -> UsageDoor | None:
    if settings.collector_url is None:
        return None
    client = httpx.AsyncClient(base_url=str(settings.collector_url), timeout=20)
    service.on_stop(client.aclose)
    return UsageDoor(client, InternalAuth(settings.token_keys, caller="checkout", scopes=["usage:read"]))


def install_errors(app: FastAPI) -> None:
    """Map each error that can be named to a status and a stable code."""
    simple: dict[type[Exception], tuple[int, str]] = {
        ApimRefusedError: (502, "apim_refused"),
        ApimUnavailableError: (503, "apim_unavailable"),
        ApplyRunningError: (409, "apply_running"),
        NothingAppliedError: (409, "no_catalogue"),
        PlanMovedError: (409, "plan_moved"),
        PolicyError: (409, "policy_not_readable"),
        StripeRefusedError: (502, "stripe_refused"),
        StripeUnavailableError: (503, "stripe_unavailable"),
    }

    async def answer(_: Request, error: Exception) -> JSONResponse:
        status, code = simple[type(error)]
        return _error(status, code, str(error) or code.replace("_", " "))

    async def refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RefusedError)
        return _error(error.status, error.code, str(error))

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, CatalogueError)
        problems = [vars(problem) for problem in error.problems]
        status, code = (409, "still_subscribed") if isinstance(error, StillSubscribedError) else (422, "invalid_catalogue")
        count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        return _error(status, code, f"the catalogue has {count}; nothing was touched:\n{error}", problems=problems)

    async def stopped(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApplyStoppedError)
        return _error(502, "apply_stopped", f"{error}; apply again to go on", done=error.done, remaining=error.remaining)

    for kind in simple:
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(CatalogueError, invalid)
    app.add_exception_handler(ApplyStoppedError, stopped)


def _error(status: int, code: str, message: str, **more: object) -> JSONResponse:
    headers = {"Retry-After": "2"} if status == 503 else {}
    body = {"error": {"code": code, "message": message, **more}, "detail": message}
    return JSONResponse(body, status_code=status, headers=headers)
