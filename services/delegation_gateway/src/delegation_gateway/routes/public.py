"""The start page, for everybody."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from delegation_gateway.parts import HereParts, MaybeVisitor

router = APIRouter()


@router.get("/")
async def home(request: Request, parts: HereParts, visitor: MaybeVisitor) -> Response:
    return parts.pages.render(request, "home.html", {"visitor": visitor, "portal_url": parts.settings.portal_url})
