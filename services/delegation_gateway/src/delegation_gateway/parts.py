"""What routes work with: the parts app.py built, who is signed in, and the errors every route may raise."""

from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import quote

import asyncpg
from fastapi import Depends, Request

from billing_common.clock import BusinessClock
from delegation_gateway import sessions
from delegation_gateway.apim_gateway import Apim
from delegation_gateway.catalogues import Catalogues
from delegation_gateway.checkout_gateway import Checkout
from delegation_gateway.collector_gateway import Collector
from delegation_gateway.passwords import Passwords
from delegation_gateway.pricing_desk import PricingDesk
from delegation_gateway.reporter_gateway import Reporter
from delegation_gateway.sessions import Visitor
from delegation_gateway.settings import Settings
from turnpike_ui import PageError, Pages

SUBSCRIPTIONS = ("Go to your subscriptions", "/subscriptions")  # the way on from most pages that refuse something


class SignInRequiredError(Exception):
    """The page is for members; `next_path` is where to go on after signing in."""

    def __init__(self, next_path: str) -> None:
        super().__init__(next_path)
        self.next_path = next_path


@dataclass(frozen=True)
class Parts:
    pool: asyncpg.Pool
    clock: BusinessClock
    settings: Settings
    pages: Pages
    apim: Apim
    checkout: Checkout
    passwords: Passwords
    catalogues: Catalogues
    desk: PricingDesk = field(default_factory=PricingDesk)
    collector: Collector | None = None  # None: not set up, usage is shown as totals only
    reporter: Reporter | None = None  # None: not set up, invoices are listed and not explained


def parts_of(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


async def visitor_or_none(request: Request, parts: Annotated[Parts, Depends(parts_of)]) -> Visitor | None:
    """Find out who is signed in; the header of every page shows it."""
    async with parts.pool.acquire() as connection:
        visitor = await sessions.visitor_of(request, connection, parts.settings)
    request.state.visitor = visitor
    return visitor


async def visitor_required(request: Request, visitor: Annotated[Visitor | None, Depends(visitor_or_none)]) -> Visitor:
    if visitor is None:
        raise SignInRequiredError(path_of(request) if request.method == "GET" else "/subscriptions")
    return visitor


def path_of(request: Request) -> str:
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def sign_in_path(next_path: str) -> str:
    return f"/sign-in?next={quote(next_path, safe='')}"


def check_form(visitor: Visitor, form_token: str) -> None:
    """Refuse a form that was not made for this session."""
    if not visitor.owns_form(form_token):
        raise PageError(
            403, "This form is from another session", "Nothing was changed. Open the page again and repeat what you wanted to do."
        )


def other_user() -> PageError:
    return PageError(
        403,
        "This link belongs to somebody else",
        "You are signed in as another member than the one it was made for. Sign out here, then start again in the portal.",
        action=SUBSCRIPTIONS,
    )


def no_such_subscription() -> PageError:
    return PageError(404, "There is no such subscription", "It does not exist or belongs to another account.", action=SUBSCRIPTIONS)


HereParts = Annotated[Parts, Depends(parts_of)]
MaybeVisitor = Annotated[Visitor | None, Depends(visitor_or_none)]
SignedIn = Annotated[Visitor, Depends(visitor_required)]
