"""Builds the service: engines, clients and pages; maps errors to HTTP."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import httpx
import structlog
from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from billing_common.apim_client import create_client
from billing_common.internal_auth import InternalAuth
from billing_common.refusals import DATABASE_AWAY
from billing_common.service import Service
from delegation_gateway import accounts_store, handlers
from delegation_gateway.apim_gateway import ApimGateway, ApimUnavailableError, UserRefusedError
from delegation_gateway.catalogues import Catalogues
from delegation_gateway.checkout_gateway import CheckoutGateway, CheckoutUnavailableError
from delegation_gateway.collector_gateway import CollectorGateway
from delegation_gateway.internal_door import DoorUnavailableError, InternalDoor
from delegation_gateway.parts import Parts, SignInRequiredError, sign_in_path
from delegation_gateway.passwords import Passwords
from delegation_gateway.reporter_gateway import ReporterGateway
from delegation_gateway.routes import accounts, bills, changes, delegation, internal, keys, pricing, public, subscribe, subscriptions, usage
from delegation_gateway.routes.portal import ensure_apim_user
from delegation_gateway.settings import Settings
from turnpike_ui import Brand, NavLink, Pages
from turnpike_ui.errors import Explanation

NAME = "delegation_gateway"
MIGRATIONS = Path(__file__).parents[2] / "migrations"
TEMPLATES = Path(__file__).parent / "templates"
REPAIR_SECONDS = 15
FORM_BYTES_MAX = 64 * 1024
REPAIR_AFTER = timedelta(seconds=30)  # by then the request that made the account has had its own tries

log = structlog.get_logger(__name__)


def navigation(request: Request) -> list[NavLink]:
    visitor = getattr(request.state, "visitor", None)
    links = [NavLink("Pricing", "/pricing"), NavLink("Subscriptions", "/subscriptions")]
    return links if visitor is not None else [links[0], NavLink("Sign in", "/sign-in", icon="user", at_end=True)]


def make_pages(settings: Settings) -> Pages:
    brand = Brand("Turnpike", footer="Prices are without tax. Times are UTC.")
    return Pages(
        "Turnpike",
        [TEMPLATES],
        navigation,
        form_action_origins=settings.form_action_origins,
        public_origin=settings.public_url,
        brand=brand,
    )


def install_routes(public_app: FastAPI, internal_app: FastAPI, pages: Pages, *, cors_origins: Sequence[str] = ()) -> None:
    """Add every route and the pages of the errors that routes raise. Tests install the same on applications of their own."""
    for module in (public, pricing, accounts, delegation, subscribe, subscriptions, usage, bills, keys, changes):
        public_app.include_router(module.router, max_body_size=FORM_BYTES_MAX)
    internal_app.include_router(internal.router)
    pages.install(public_app)
    public_app.add_middleware(PublicPrices, cors_origins=cors_origins)

    @public_app.exception_handler(SignInRequiredError)
    async def ask_to_sign_in(_request: Request, error: SignInRequiredError) -> Response:
        return RedirectResponse(sign_in_path(error.next_path), 303)

    @public_app.exception_handler(asyncpg.CharacterNotInRepertoireError)
    async def holds_a_zero_byte(request: Request, _error: asyncpg.CharacterNotInRepertoireError) -> Response:
        return pages.error(request, 400)  # no browser sends one, Postgres has no place for it

    async def database_is_away(request: Request, error: Exception) -> Response:
        log.warning("page not shown: the database does not answer", error=type(error).__name__)
        return pages.error(request, 503)

    for kind in DATABASE_AWAY:
        public_app.add_exception_handler(kind, database_is_away)

    @public_app.exception_handler(ApimUnavailableError)
    async def portal_does_not_answer(request: Request, error: ApimUnavailableError) -> Response:
        log.warning("API Management does not answer", detail=str(error)[:200])
        text = "The API gateway's management does not answer. Nothing was changed; try again in a minute."
        return pages.error(request, 503, Explanation("The developer portal does not answer", text, "clock"))

    @public_app.exception_handler(UserRefusedError)
    async def portal_refused(request: Request, error: UserRefusedError) -> Response:
        log.warning("API Management refused a user", detail=str(error)[:200])
        text = "The developer portal will not take this account. It may know the e-mail address already: ask your provider."
        return pages.error(request, 409, Explanation("The portal refused this account", text))

    @public_app.exception_handler(CheckoutUnavailableError)
    async def checkout_does_not_answer(request: Request, error: CheckoutUnavailableError) -> Response:
        log.warning("checkout does not answer", detail=str(error)[:200])
        text = "The payment page could not be opened. Nothing was charged; your request is kept, go on with it in a minute."
        explanation = Explanation("The payment page does not answer", text, "clock")
        return pages.error(request, 503, explanation, ("Go to your subscriptions", "/subscriptions"))

    @public_app.exception_handler(DoorUnavailableError)
    async def usage_does_not_answer(request: Request, error: DoorUnavailableError) -> Response:
        log.warning("usage is not told", detail=str(error)[:200])
        text = "Your usage could not be read right now. Nothing is lost: try again in a minute."
        return pages.error(
            request, 503, Explanation("Usage does not answer", text, "clock"), ("Go to your subscriptions", "/subscriptions")
        )


class PublicPrices:
    """Sends prices compressed, and lets scripts of named sites read them as JSON.

    A page with a session's token in it is never compressed: its length would tell about the token.
    """

    def __init__(self, app: ASGIApp, *, cors_origins: Sequence[str]) -> None:
        self._app = app
        self._compressed = GZipMiddleware(app, minimum_size=1_000, compresslevel=6)
        self._shared = CORSMiddleware(
            self._compressed, cors_origins, allow_methods=["GET"], allow_headers=["If-None-Match"], expose_headers=["ETag"]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        app = self._app
        if path == pricing.JSON_PATH:
            app = self._shared
        elif path in pricing.NOBODYS_PATHS or (path == "/pricing" and "cookie" not in Headers(scope=scope)):
            app = self._compressed
        await app(scope, receive, send)


def create_service(settings: Settings) -> Service:
    """Return the service, ready to run."""
    service = Service(NAME, settings, migrations=MIGRATIONS, routers=[handlers.router])
    assert service.public is not None
    pages = make_pages(settings)
    install_routes(service.public, service.internal, pages, cors_origins=settings.cors_origins)
    auth = InternalAuth(settings.token_keys, caller=NAME, scopes=["checkout:write", "quotes:read"])

    async def connect() -> None:
        client = create_client(settings)
        http = httpx.AsyncClient(base_url=settings.checkout_url, timeout=settings.checkout_timeout_seconds)
        collector = open_door(service, settings, settings.collector_url, "usage:read")
        reporter = open_door(service, settings, settings.reporter_url, "reports:read")
        parts = Parts(
            pool=service.pool,
            clock=service.clock,
            settings=settings,
            pages=pages,
            apim=ApimGateway(client, settings),
            checkout=CheckoutGateway(http, auth),
            passwords=Passwords(),
            catalogues=Catalogues(),
            collector=CollectorGateway(collector) if collector else None,
            reporter=ReporterGateway(reporter) if reporter else None,
        )
        service.share("parts", parts)
        service.on_stop(client.close)
        service.on_stop(http.aclose)

    async def configure_delegation() -> None:
        parts: Parts = service.context["parts"]
        await parts.apim.ensure_delegation(f"{settings.public_url}/apim-delegation", settings.validation_keys[0])
        log.info("delegation settings written")

    async def repair_users() -> None:
        while True:
            await repair_missing_users(service.context["parts"], before=datetime.now(UTC) + service.clock.offset - REPAIR_AFTER)
            await asyncio.sleep(REPAIR_SECONDS)

    service.on_start(connect)
    service.loop("users", repair_users)
    if settings.configure_delegation:
        service.loop("delegation", configure_delegation)
    return service


def open_door(service: Service, settings: Settings, address: str | None, scope: str) -> InternalDoor | None:
    """Return another service's internal door, closed with this one; None where no address is set."""
    if address is None:
        return None
    client = httpx.AsyncClient(base_url=address, timeout=settings.usage_timeout_seconds)
    service.on_stop(client.aclose)
    return InternalDoor(client, InternalAuth(settings.token_keys, caller=NAME, scopes=[scope]))


async def repair_missing_users(parts: Parts, *, before: datetime) -> int:
    """Repeat the calls that made no user known at APIM; returns how many were made now."""
    made = 0
    for member in await accounts_store.members_missing_in_apim(parts.pool, before=before):
        try:
            await ensure_apim_user(parts, member)
        except UserRefusedError:
            log.warning("API Management refused a user", user_id=member.user_id)
        else:
            made += 1
    return made
