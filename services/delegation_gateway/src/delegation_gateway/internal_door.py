"""Asking another service at its internal door: a fresh token for each request, and two ways to fail."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx

from billing_common.internal_auth import InternalAuth


class DoorUnavailableError(Exception):
    """The service behind the door does not answer; ask again later."""


class NotKnownError(Exception):
    """The service knows nothing of what was asked about."""


class InternalDoor:
    """One service's door. Both ways of asking raise NotKnownError on 404 and 422, DoorUnavailableError where there is no good answer."""

    def __init__(self, client: httpx.AsyncClient, auth: InternalAuth) -> None:
        self._client, self._auth = client, auth

    async def ask(self, path: str, params: Mapping[str, Any] | None = None) -> bytes:
        """Return the whole body."""
        return (await self._good(path, params, stream=False)).content

    async def stream(self, path: str, params: Mapping[str, Any] | None = None) -> AsyncIterator[bytes]:
        """Return the body piece by piece, once it is known to be good."""
        return _pieces(await self._good(path, params, stream=True))

    async def _good(self, path: str, params: Mapping[str, Any] | None, *, stream: bool) -> httpx.Response:
        named = {name: value for name, value in (params or {}).items() if value is not None}
        request = self._client.build_request("GET", path, params=named, headers=self._auth.headers())
        try:
            answer = await self._client.send(request, stream=stream)
        except httpx.HTTPError as error:
            raise DoorUnavailableError(type(error).__name__) from error
        if answer.status_code != 200:
            await answer.aclose()
            raise NotKnownError(path) if answer.status_code in {404, 422} else DoorUnavailableError(f"HTTP {answer.status_code}")
        return answer


async def _pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_bytes():
            yield piece
    finally:
        await answer.aclose()
