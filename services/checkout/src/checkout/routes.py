"""Requests in, on the internal port: quotes, Checkout sessions and billing-portal sessions."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, HttpUrl

from billing_common import quoting
from billing_common.internal_auth import require_scope
from billing_common.moments import Moment
from checkout import domain, selling, store, store_catalogue
from checkout.domain import RefusedError

router = APIRouter()
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$")]
Quantity = Annotated[int, Field(ge=0, le=10**15)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class QuoteRequest(Body):
    """What would this usage cost? Without `from` a full period that is paid for; with it the first one of a subscription that begins then.

    `to`: it is cancelled then, within that period.
    """

    product: Id
    usage: dict[str, Quantity] = Field(default_factory=dict, max_length=50)
    calls: Quantity | None = None
    currency: str | None = Field(default=None, pattern="^[a-z]{3}$")
    start: Moment | None = Field(default=None, alias="from")
    end: Moment | None = Field(default=None, alias="to")
    catalogue_version: int | None = Field(default=None, ge=1, le=domain.VERSION_MAX)


class SessionRequest(Body):
    """Who wants to buy what, and where the browser goes afterwards."""

    subscription_id: Id
    account_id: Id
    user_id: Id
    product_id: Id
    display_name: str = Field(min_length=1, max_length=100)
    success_url: HttpUrl
    cancel_url: HttpUrl
    currency: str | None = Field(default=None, pattern="^[a-z]{3}$")
    catalogue_version: int | None = Field(default=None, ge=1, le=domain.VERSION_MAX)


class PortalRequest(Body):
    account_id: Id
    return_url: HttpUrl


@router.post("/v1/quotes", dependencies=[Depends(require_scope("quotes:read"))])
async def quote(body: QuoteRequest, request: Request) -> dict[str, Any]:
    """Price a usage with the applied catalogue, line by line as on the invoice."""
    pool, now = request.app.state.pool, request.app.state.clock.now()
    wanted = await store_catalogue.get(pool, body.catalogue_version) if body.catalogue_version else await store_catalogue.latest(pool)
    if wanted is None:
        raise RefusedError(409, "no_catalogue", "no such catalogue has been applied")
    asked = quoting.Question(body.product, body.usage, body.calls, body.start, body.end, body.currency)
    try:
        answer = quoting.quote(wanted.catalogue, asked, now=now)
    except quoting.QuoteError as error:
        raise RefusedError(404 if error.code == "unknown_product" else 422, error.code, str(error)) from error
    return {**answer.public(), "catalogue_version": wanted.version}


@router.post("/v1/checkout-sessions", dependencies=[Depends(require_scope("checkout:write"))])
async def checkout_session(body: SessionRequest, request: Request) -> dict[str, Any]:
    """Return where the customer pays. Asked again, it is the same session while that is open."""
    wish = domain.Request(body.subscription_id, body.account_id, body.user_id, body.product_id, body.display_name, body.currency)
    opened = await selling.start_checkout(
        request.app.state.seller,
        wish,
        success_url=str(body.success_url),
        cancel_url=str(body.cancel_url),
        now=request.app.state.clock.now(),
        version_number=body.catalogue_version,
    )
    return {"session_id": opened.session_id, "url": opened.url, "expires_at": opened.expires_at.isoformat()}


@router.post("/v1/billing-portal-sessions", dependencies=[Depends(require_scope("checkout:write"))])
async def billing_portal_session(body: PortalRequest, request: Request) -> dict[str, Any]:
    """Return where the customer changes the card and sees invoices."""
    async with request.app.state.pool.acquire() as connection:
        customer = await store.customer_of(connection, body.account_id)
    if customer is None:
        raise RefusedError(404, "no_customer", "this account has not bought anything yet")
    return {"url": await request.app.state.seller.stripe.create_portal_session(customer, str(body.return_url))}
