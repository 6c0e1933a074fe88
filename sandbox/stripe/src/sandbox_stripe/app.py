"""Builds the application: the API on /v1 and /v2, everything else through Starlette."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox_stripe import doors, edge, pages
from sandbox_stripe.errors import StripeError
from sandbox_stripe.service import Sandbox


class Edge:
    """The API answers without the middleware of pages: its errors are Stripe's, and its latency is measured."""

    def __init__(self, sandbox: Sandbox, rest: ASGIApp) -> None:
        self.sandbox = sandbox
        self.rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(("/v1/", "/v2/")):
            await edge.serve(self.sandbox, scope, receive, send)
        else:
            await self.rest(scope, receive, send)


def build(sandbox: Sandbox) -> Edge:
    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        sandbox.start()
        yield
        await sandbox.stop()

    app = Starlette(routes=[*doors.ROUTES, *pages.ROUTES], lifespan=lifespan, exception_handlers={StripeError: doors.on_stripe_error})
    app.state.sandbox = sandbox
    pages.install(app, sandbox)
    return Edge(sandbox, app)
