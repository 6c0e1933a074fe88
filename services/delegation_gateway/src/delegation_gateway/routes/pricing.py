"""The prices for everybody: as a page, as its live part, inside pages of others, and as JSON."""

import hashlib
from typing import Any

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.responses import HTMLResponse, Response

from delegation_gateway.parts import HereParts, MaybeVisitor, Parts
from delegation_gateway.price_book import PriceBook
from delegation_gateway.pricing_answers import PricesAnswer, answer_of
from delegation_gateway.pricing_desk import BusyError
from delegation_gateway.pricing_page import Prices
from delegation_gateway.pricing_questions import ADDRESS_MAX, AddressTooLongError, Reading, read
from turnpike_ui import PageError

router = APIRouter()
log = structlog.get_logger(__name__)
JSON_PATH = "/v1/pricing"
FIGURES_PATH = "/pricing/figures"
EMBED_PATH = "/pricing/embed"
NOBODYS_PATHS = (FIGURES_PATH, EMBED_PATH)  # the same for everybody
FRESH_SECONDS = 60


class Problem(BaseModel):
    type: str
    loc: list[str]
    msg: str


class Problems(BaseModel):
    """What is wrong with the question, all at once: `loc` ends with the parameter's name, `msg` says what to write instead."""

    detail: list[Problem]


def _query(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": {"type": "string", **schema}}


PARAMETERS = [
    {
        "name": "usage",
        "in": "query",
        "required": False,
        "style": "form",
        "explode": True,
        "description": "Usage in a month, one parameter per meter (its name is `meters[].parameter`), for example calls=120000",
        "schema": {"type": "object", "additionalProperties": {"type": "string", "pattern": "^[0-9 ,.]+$"}, "example": {"calls": "120000"}},
    },
    _query("currency", "ISO 4217 code; default: the first of `currencies`", example="usd"),
    _query("interval", "plans billed by the month or by the year; default: the first of `intervals`", enum=["month", "year"]),
    _query("product", "only this plan; `cheapest`, `ranges` and `curves` still look at all"),
    _query("by", "the meter that `ranges` and `curves` follow; default: the first"),
]


@router.get("/pricing", response_class=HTMLResponse)
async def pricing(request: Request, parts: HereParts, visitor: MaybeVisitor) -> Response:
    """Show the plans that are on sale, what each costs for some usage, and which one costs least."""
    book = await _book(parts)
    context = {"visitor": visitor, **_place(parts, "/pricing")}
    if book is None:
        return parts.pages.render(request, "pricing.html", context)
    reading = _read(request, book)
    context["prices"] = await _prices(parts, book, reading)
    return parts.pages.render(request, "pricing.html", context | {"errors": reading.errors}, 422 if reading.errors else 200)


@router.get(FIGURES_PATH, response_class=HTMLResponse)
async def figures(request: Request, parts: HereParts) -> Response:
    """Return the parts of the page that follow the question, for its script; after a mistake only what to do about it.

    A mistake while somebody still types is no failure: the answer is 200.
    """
    book = await _book(parts)
    if book is None:
        raise PageError(404, "Nothing is on sale yet", "The catalogue has not been applied. Try again in a minute.")
    reading = _read(request, book)
    framed = request.query_params.get("framed") == "yes"
    context = {**_place(parts, EMBED_PATH if framed else "/pricing", framed=framed), "errors": reading.errors}
    context["prices"] = await _prices(parts, book, reading)
    page = parts.pages.render(request, "pricing_live.html", context)
    return _tagged(request, page, "no-cache")


@router.get(EMBED_PATH, response_class=HTMLResponse)
async def embed(request: Request, parts: HereParts) -> Response:
    """Show the same in a frame of another site, if the settings name that site; nobody is signed in there."""
    book, origins = await _book(parts), parts.settings.frame_origins
    context = {**_place(parts, EMBED_PATH, framed=True), "theme": "system"}
    status = 200
    if book is not None:
        reading = _read(request, book)
        context |= {"prices": await _prices(parts, book, reading), "errors": reading.errors, "theme": reading.theme}
        status = 422 if reading.errors else 200
    page = parts.pages.render(request, "pricing_embed.html", context, status)
    page.headers["Content-Security-Policy"] = parts.pages.policy(frame_ancestors=origins)
    return _tagged(request, page, "no-cache")


@router.get(
    JSON_PATH,
    responses={304: {"description": "The same as the answer with this ETag"}, 422: {"model": Problems}},
    openapi_extra={"parameters": PARAMETERS},
)
async def prices_as_json(request: Request, parts: HereParts) -> PricesAnswer:
    """Return every plan with its price for some usage, which one costs least from where to where, and the lines of a chart.

    All amounts come from the function that the invoice agrees with. Answers may be kept for a minute and have an ETag.
    """
    book = await _book(parts)
    if book is None:
        raise PageError(404, "Nothing is on sale yet", "The catalogue has not been applied. Try again in a minute.")
    reading = _read(request, book)
    if reading.errors:
        problems = [{"type": "value_error", "loc": ["query", name], "msg": text} for name, text in reading.errors.items()]
        return JSONResponse({"detail": problems}, 422)  # type: ignore[return-value]
    answer = answer_of(book, await _prices(parts, book, reading), parts.settings.public_url)
    page = Response(answer.model_dump_json(), media_type="application/json")
    return _tagged(request, page, f"public, max-age={FRESH_SECONDS}")  # type: ignore[return-value]


async def _book(parts: Parts) -> PriceBook | None:
    async with parts.pool.acquire() as connection:
        return await parts.catalogues.prices(connection)


def _read(request: Request, book: PriceBook) -> Reading:
    try:
        return read(request.query_params.multi_items(), book.catalogue)
    except AddressTooLongError:
        raise PageError(414, "This address is too long", f"The question after the ? may hold {ADDRESS_MAX:,} characters.") from None


async def _prices(parts: Parts, book: PriceBook, reading: Reading) -> Prices:
    try:
        return await parts.desk.prices(book, reading)
    except BusyError:
        log.warning("prices not worked out: too many at once")
        text = "Many people are asking for prices at this moment. Try again in a few seconds."
        raise PageError(503, "The prices take longer than they should", text, headers={"Retry-After": "2"}) from None


def _place(parts: Parts, address: str, *, framed: bool = False) -> dict[str, Any]:
    """Return what the templates need to know about where they are shown."""
    return {"prices": None, "address": address, "framed": framed, "site": parts.settings.public_url if framed else ""}


def _tagged(request: Request, page: Response, caching: str) -> Response:
    """Let caches keep an answer that is nobody's own, and answer 304 to who has it already."""
    page.headers["Cache-Control"] = caching
    tag = f'W/"{hashlib.sha256(bytes(page.body)).hexdigest()[:20]}"'  # weak: the same answer may come compressed
    page.headers["ETag"] = tag
    known = {one.strip() for one in request.headers.get("if-none-match", "").split(",")}
    if page.status_code == 200 and known & {tag, "*"}:
        kept = {name: page.headers[name] for name in ("Cache-Control", "ETag", "Content-Security-Policy") if name in page.headers}
        return Response(status_code=304, headers=kept)
    return page
