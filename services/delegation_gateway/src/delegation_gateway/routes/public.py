"""Pages for everybody: the start page and the prices."""

import re

from fastapi import APIRouter, Request
from starlette.responses import Response

from billing_common.rating import RatingError
from delegation_gateway.parts import HereParts, MaybeVisitor
from delegation_gateway.plans import plan_of, quote

router = APIRouter()
CALLS_MAX = 10**12
CALLS_DEFAULT = 120_000
PRESETS = (10_000, 100_000, 1_000_000)


@router.get("/")
async def home(request: Request, parts: HereParts, visitor: MaybeVisitor) -> Response:
    return parts.pages.render(request, "home.html", {"visitor": visitor, "portal_url": parts.settings.portal_url})


@router.get("/pricing")
async def pricing(request: Request, parts: HereParts, visitor: MaybeVisitor, calls: str = "") -> Response:
    """Show the plans that are on sale, and what each would cost for a number of calls."""
    async with parts.pool.acquire() as connection:
        applied = await parts.catalogues.latest(connection)
    if applied is None:
        return parts.pages.render(request, "pricing.html", {"visitor": visitor, "plans": [], "errors": {}, "calls": ""})
    catalogue, errors = applied[1], {}
    number = read_number(calls) if calls.strip() else CALLS_DEFAULT
    if number is None:
        errors["calls"] = f"Enter a number of calls between 0 and {CALLS_MAX:,}"
    quotes = []
    for product in catalogue.products if number is not None else ():
        try:
            quotes.append(quote(catalogue, product, number or 0, at=parts.clock.now()))
        except RatingError:  # a plan that cannot be priced by one number of calls is left out of the comparison
            continue
    offered = [one for one in quotes if one.total_minor is not None]
    context = {
        "visitor": visitor,
        "plans": [plan_of(catalogue, product) for product in catalogue.products],
        "calls": f"{number:,}" if number is not None else calls[:30],
        "quotes": quotes,
        "cheapest": min(offered, key=lambda one: one.total_minor or 0, default=None),
        "presets": PRESETS,
        "errors": errors,
    }
    return parts.pages.render(request, "pricing.html", context, 422 if errors else 200)


def read_number(text: str) -> int | None:
    """Read "120,000", "120 000" and "120000"; None for what is no number or beyond what is sold."""
    digits = re.sub(r"[\s,.'_]", "", text.strip())
    if not re.fullmatch(r"[0-9]{1,15}", digits) or int(digits) > CALLS_MAX:
        return None
    return int(digits)
