"""One way to make an API Management client and to write to it. Import it only where APIM is spoken to."""

import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar

import aiohttp
import stamina
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError
from azure.core.pipeline.transport import AioHttpTransport
from azure.mgmt.apimanagement.aio import ApiManagementClient
from pydantic import SecretStr

from billing_common.settings import ApimSettings

T = TypeVar("T")
COLLISIONS = frozenset({409, 412, 422, 429})  # parallel writes to one service collide even with If-Match *


class StaticCredential:
    """A fixed token, for the sandbox."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        return AccessToken(self._token, int(time.time()) + 3600)

    async def close(self) -> None:
        """Nothing is open."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Nothing is open."""


def _credential(token: SecretStr | None) -> Any:
    if token is not None:
        return StaticCredential(token.get_secret_value())
    from azure.identity.aio import DefaultAzureCredential  # half a second to import, and of no use on the sandbox

    return DefaultAzureCredential()


def _transport(settings: ApimSettings) -> AioHttpTransport:
    """Return a transport with one TLS context: given a CA file, the SDK makes a new one, and so a new connection, for each request."""
    context = ssl.create_default_context(cafile=str(settings.apim_ca_file) if settings.apim_ca_file else None)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context), cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=True
    )
    seconds = settings.apim_timeout_seconds
    return AioHttpTransport(session=session, connection_timeout=seconds, read_timeout=seconds)


def create_client(settings: ApimSettings) -> ApiManagementClient:
    """Return a client bound to the running event loop; close it with `await client.close()`."""
    return ApiManagementClient(
        _credential(settings.apim_static_token),
        settings.apim_subscription_id,
        base_url=settings.apim_base_url,
        transport=_transport(settings),
        polling_interval=1,
    )


def is_collision(error: Exception) -> bool:
    """Whether the write may be tried again: a collision, throttling, an outage."""
    if isinstance(error, ServiceRequestError | ServiceResponseError):
        return True
    return isinstance(error, HttpResponseError) and (error.status_code in COLLISIONS or (error.status_code or 0) >= 500)


async def write(operation: Callable[[], Awaitable[T]], *, attempts: int = 5) -> T:
    """Do one write, again after a collision, throttling or an outage, with a growing pause. Other errors pass through."""
    async for attempt in stamina.retry_context(
        on=is_collision, attempts=attempts, timeout=60, wait_initial=0.1, wait_max=5, wait_jitter=0.1
    ):
        with attempt:
            return await operation()
    raise AssertionError("unreachable: the retry context returns or raises")


def explain(error: HttpResponseError) -> str:
    """Return ARM's own words with the details that str() hides."""
    if error.error is None:
        return f"HTTP {error.status_code}"
    details = "; ".join(f"{detail.target}: {detail.message}" for detail in (error.error.details or []))
    return f"{error.error.code}: {error.error.message}{f' ({details})' if details else ''}"
