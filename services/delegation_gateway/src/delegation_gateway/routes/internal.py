"""The internal door for other services: whom mails about an account go to."""

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Path
from pydantic import BaseModel

from billing_common.internal_auth import require_scope
from delegation_gateway import accounts_store
from delegation_gateway.parts import HereParts

router = APIRouter(prefix="/v1/accounts")


class Contact(BaseModel):
    account_id: str
    user_id: str
    email: str
    name: str


@router.get("/{account_id}/contact", dependencies=[Depends(require_scope("accounts:read"))])
async def contact(parts: HereParts, account_id: Annotated[str, Path(max_length=80)]) -> Contact:
    """Return the member who answers for an account; events carry no personal data, so who needs it asks here."""
    member = await accounts_store.first_member(parts.pool, account_id)
    if member is None:
        raise HTTPException(404, f"no account {account_id}")
    return Contact(account_id=account_id, user_id=member.user_id, email=member.email, name=f"{member.first_name} {member.last_name}")
