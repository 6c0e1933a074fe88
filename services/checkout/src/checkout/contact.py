"""The one door of delegation_gateway that checkout asks: the e-mail address of an account. It is passed on to Stripe and not kept."""

import httpx

from billing_common.internal_auth import InternalAuth


class UnknownAccountError(Exception):
    """The gateway knows no such account."""


class ContactDoor:
    """Asks `GET /v1/accounts/{id}/contact`."""

    def __init__(self, client: httpx.AsyncClient, auth: InternalAuth) -> None:
        self._client = client
        self._auth = auth

    async def email_of(self, account_id: str) -> str | None:
        """Return the address, or None when the gateway does not answer: a sale does not fail for it."""
        try:
            answer = await self._client.get(f"/v1/accounts/{account_id}/contact", headers=self._auth.headers())
        except httpx.TransportError:
            return None
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise UnknownAccountError
        if answer.status_code != httpx.codes.OK:
            return None
        email = answer.json().get("email")
        return email if isinstance(email, str) and "@" in email else None
