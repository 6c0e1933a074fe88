"""The only file that speaks to API Management: subscriptions, read and written."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError
from azure.mgmt.apimanagement.aio import ApiManagementClient
from azure.mgmt.apimanagement.models import SubscriptionCreateParameters, SubscriptionUpdateParameters
from prometheus_client import Histogram

from billing_common.apim_client import explain, is_collision, write

CALLS = Histogram(
    "turnpike_apim_call_seconds",
    "Calls to API Management, with the SDK's own repetitions",
    ["operation", "outcome"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
)


class ApimError(Exception):
    """API Management did not do it; the message is ARM's own words."""


@dataclass(frozen=True)
class Found:
    """A subscription as API Management has it. `product_id` is empty when its scope is not a product."""

    sid: str
    state: str
    product_id: str
    etag: str = ""


@dataclass(frozen=True)
class Wanted:
    """A subscription as it should be. `state` is active, suspended or cancelled."""

    sid: str
    user_id: str
    product_id: str
    display_name: str
    state: str
    comment: str


class ApimGateway:
    """Makes a subscription as wanted, whatever it was: each call may be repeated."""

    def __init__(self, client: ApiManagementClient, *, resource_group: str, service_name: str) -> None:
        self._subscriptions = client.subscription
        self._place = (resource_group, service_name)

    async def apply(self, wanted: Wanted, *, new: bool) -> None:
        """Create or change the subscription. With `new` it is not looked for first. Raises ApimError."""
        looked = not new

        async def attempt() -> None:
            nonlocal looked
            found = await self._get(wanted.sid) if looked else None
            looked = True  # a repetition finds what the first try may have done, and the ETag of now
            if found is not None:
                await self._change(found, wanted)
            elif wanted.state == "active":
                await self._create(wanted)

        started = time.monotonic()
        outcome = "failed"
        try:
            await write(attempt)
            outcome = "done"
        except AzureError as error:
            raise ApimError(_words(error)) from error
        finally:
            CALLS.labels("apply", outcome).observe(time.monotonic() - started)

    async def _get(self, sid: str) -> Found | None:
        try:
            found: Any = await self._subscriptions.get(*self._place, sid, cls=_with_etag)
        except ResourceNotFoundError:
            return None
        model, etag = found
        return Found(sid, str(model.state), _product(model.scope), etag)

    async def _create(self, wanted: Wanted) -> None:
        parameters = SubscriptionCreateParameters(
            owner_id=f"/users/{wanted.user_id}",
            scope=f"/products/{wanted.product_id}",
            display_name=wanted.display_name or wanted.sid,
            state=wanted.state,
        )
        await self._subscriptions.create_or_update(*self._place, wanted.sid, parameters, notify=False, app_type="developerPortal")

    async def _change(self, found: Found, wanted: Wanted) -> None:
        moved = wanted.state != "cancelled" and found.product_id.lower() != wanted.product_id.lower()
        if found.state == wanted.state and not moved:
            return
        parameters = SubscriptionUpdateParameters(
            state=wanted.state, scope=f"/products/{wanted.product_id}" if moved else None, state_comment=wanted.comment
        )
        await self._subscriptions.update(*self._place, wanted.sid, found.etag, parameters, notify=False, app_type="developerPortal")

    async def list_all(self) -> AsyncIterator[Found]:
        """Yield every subscription of the service, foreign ones too. Raises ApimError."""
        try:
            async for model in self._subscriptions.list(*self._place):
                yield Found(str(model.name), str(model.state), _product(model.scope))
        except AzureError as error:
            raise ApimError(_words(error)) from error


def _with_etag(_response: Any, model: Any, headers: Any) -> tuple[Any, str]:
    return model, str(headers["ETag"])  # the SDK throws it away


def _product(scope: Any) -> str:
    head, _, product_id = str(scope or "").rpartition("/products/")
    return product_id if head or str(scope).startswith("/products/") else ""


def _words(error: AzureError) -> str:
    kind = "later" if is_collision(error) else "refused"
    text = explain(error) if isinstance(error, HttpResponseError) else type(error).__name__
    return f"{kind}: {text}"[:300]
