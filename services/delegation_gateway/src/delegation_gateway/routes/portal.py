"""The way back to the developer portal, signed in."""

from datetime import UTC, datetime, timedelta

from starlette.responses import RedirectResponse

from delegation_gateway import accounts_store
from delegation_gateway.accounts_store import Member
from delegation_gateway.apim_gateway import UserRefusedError, sign_in_address
from delegation_gateway.parts import Parts

TOKEN_LIFETIME = timedelta(minutes=5)  # APIM counts whole minutes; the portal gets a fresh token of its own after signing in


async def to_portal(parts: Parts, member: Member, return_url: str) -> RedirectResponse:
    """Redirect with a sign-in token. Raises ApimUnavailableError and UserRefusedError."""
    await ensure_apim_user(parts, member)
    token = await parts.apim.sign_in_token(member.user_id, expires_at=datetime.now(UTC) + TOKEN_LIFETIME)
    return RedirectResponse(sign_in_address(parts.settings.portal_url, token, return_url), 303)


async def ensure_apim_user(parts: Parts, member: Member) -> None:
    """Make the member's APIM user if no outcome of that is known; the intent is the member's row itself."""
    if member.is_in_apim:
        return
    try:
        await parts.apim.ensure_user(member.user_id, email=member.email, first_name=member.first_name, last_name=member.last_name)
    except UserRefusedError:
        await accounts_store.set_apim_state(parts.pool, member.user_id, "refused")
        raise
    await accounts_store.set_apim_state(parts.pool, member.user_id, "created")
