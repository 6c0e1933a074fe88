"""Why an invoice says what it says: its lines, days, hours, endpoints and single events, for the account that pays it."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response, StreamingResponse

from delegation_gateway import bill_page, read_models
from delegation_gateway.bill_page import WORDS, Asked, EventsShown
from delegation_gateway.internal_door import NotKnownError
from delegation_gateway.parts import HereParts, SignedIn
from delegation_gateway.read_models import Invoice
from delegation_gateway.reporter_gateway import Bill, Day, Reporter
from delegation_gateway.routes.subscriptions import own
from turnpike_ui import PageError

router = APIRouter(prefix="/subscriptions/{subscription_id}/invoices/{invoice_id}")


def _no_such_invoice(subscription_id: str) -> PageError:
    back = ("Open the subscription", f"/subscriptions/{subscription_id}")
    return PageError(
        404, "There is no such invoice", "It does not exist, belongs to another account, or cannot be opened here.", action=back
    )


@dataclass(frozen=True)
class Owned:
    """An invoice of the visitor's, who explains it, and the name of its subscription."""

    invoice: Invoice
    reporter: Reporter
    subscription_id: str
    name: str


async def own_invoice(parts: HereParts, visitor: SignedIn, subscription_id: str, invoice_id: str) -> Owned:
    """Find the visitor's invoice; another account's is not found."""
    subscription = await own(parts, visitor, subscription_id)
    invoice = await read_models.find_invoice(parts.pool, invoice_id, subscription.subscription_id, visitor.account_id)
    if invoice is None or parts.reporter is None:
        raise _no_such_invoice(subscription.subscription_id)
    return Owned(invoice, parts.reporter, subscription.subscription_id, subscription.display_name)


Own = Annotated[Owned, Depends(own_invoice)]


@router.get("")
async def show(request: Request, parts: HereParts, visitor: SignedIn, owned: Own, asked: Annotated[Asked, Query()]) -> Response:
    """Show the tree with the branch that is asked for open."""
    invoice, reporter, subscription_id = owned.invoice, owned.reporter, owned.subscription_id
    try:
        bill = await reporter.bill(invoice.invoice_id)
        opened = await _opened(reporter, bill, asked)
        events = await _events(reporter, bill, asked) if opened else None
    except NotKnownError:
        raise _no_such_invoice(subscription_id) from None
    if (bill.subscription_id, bill.account_id) != (subscription_id, visitor.account_id):
        raise _no_such_invoice(subscription_id)
    context = {
        "visitor": visitor,
        "invoice": invoice,
        "name": owned.name,
        "bill": bill,
        "words": WORDS,
        "remainder": bill_page.remainder(bill),
        "branches": bill_page.branches(bill, asked, opened),
        "opened": opened,
        "asked": asked,
        "events": events,
        "hour_span": bill_page.hour_span,
        "back": f"/subscriptions/{subscription_id}",
    }
    return parts.pages.render(request, "bill.html", context)


async def _opened(reporter: Reporter, bill: Bill, asked: Asked) -> Day | None:
    return await reporter.day(bill.invoice_id, asked.usage, asked.day) if asked.usage and asked.day else None


async def _events(reporter: Reporter, bill: Bill, asked: Asked) -> EventsShown | None:
    usage = next((one for one in bill.usage if one.key == asked.usage), None)
    if usage is None or asked.at is None:
        return None
    meter = {"meter_id": usage.meter_id} if asked.outcome == "counted" else {}
    return bill_page.events_shown(await reporter.events(bill.invoice_id, asked.wanted() | meter), asked, usage)


@router.get("/usage.csv", response_class=StreamingResponse)
async def as_csv(owned: Own, level: Literal["endpoints", "events"] = "endpoints") -> StreamingResponse:
    """Download all of it: by hour and endpoint, or event by event."""
    invoice = owned.invoice
    try:
        body = await owned.reporter.csv(invoice.invoice_id, level)
    except NotKnownError:
        raise _no_such_invoice(owned.subscription_id) from None
    name = re.sub(r"[^A-Za-z0-9-]", "-", invoice.number or invoice.invoice_id)
    headers = {"Content-Disposition": f'attachment; filename="invoice-{name}-{level}.csv"', "Cache-Control": "no-store"}
    return StreamingResponse(body, media_type="text/csv; charset=utf-8", headers=headers)
