"""The collector's internal door: how usage is made up, single events, and the counts that reconciliation compares."""

from collections.abc import Mapping
from typing import Any, Protocol

import httpx

from billing_common.internal_auth import InternalAuth


class CollectorUnavailableError(Exception):
    """The collector does not answer; ask again later."""


class CollectorRefusedError(CollectorUnavailableError):
    """The collector takes what was asked for no question; says what is wrong with it."""


class CollectorUnknownError(Exception):
    """The collector knows nothing of what was asked about."""


class Collector(Protocol):
    """What explanations and reconciliations ask."""

    async def ask(self, path: str, params: Mapping[str, Any]) -> dict[str, Any]: ...

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]: ...


class CollectorGateway:
    """Asks over HTTP with a fresh token for each request."""

    def __init__(self, client: httpx.AsyncClient, auth: InternalAuth) -> None:
        self._client, self._auth = client, auth

    async def ask(self, path: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the decoded answer. Raises CollectorUnknownError, CollectorRefusedError, or CollectorUnavailableError."""
        named = {name: value for name, value in params.items() if value is not None}
        return await self._decoded("GET", path, params=named)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The same with a body."""
        return await self._decoded("POST", path, json=body)

    async def _decoded(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        try:
            answer = await self._client.request(method, path, headers=self._auth.headers(), **more)
        except httpx.HTTPError as error:
            raise CollectorUnavailableError(type(error).__name__) from error
        if answer.status_code == 404:
            raise CollectorUnknownError(path)
        if answer.status_code in {400, 422}:
            raise CollectorRefusedError(str(answer.json().get("detail")))
        if answer.status_code not in {200, 202}:
            raise CollectorUnavailableError(f"HTTP {answer.status_code}")
        found: dict[str, Any] = answer.json()
        return found
