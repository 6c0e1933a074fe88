"""API Management, for the catalogue: the logger, products with their groups, APIs and policies."""

import hashlib
from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import Any

from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError
from azure.mgmt.apimanagement import models
from azure.mgmt.apimanagement.aio import ApiManagementClient

from billing_common import apim_client
from billing_common.catalogue import Product
from checkout.policy import LOGGER_ID

GROUPS = ("developers", "guests")


class ApimUnavailableError(Exception):
    """No answer, or one that may be better next time."""


class ApimRefusedError(Exception):
    """APIM has understood and says no; the message has its reason."""


@dataclass(frozen=True)
class SeenApimProduct:
    """A product at APIM with what hangs on it."""

    display_name: str
    description: str
    published: bool
    subscription_required: bool
    approval_required: bool
    groups: frozenset[str]
    apis: frozenset[str]
    policy: str | None


class ApimGateway:
    """Each method is one write that may be repeated, or a few reads."""

    def __init__(self, client: ApiManagementClient, *, resource_group: str, service_name: str, hub_name: str, hub_connection: str) -> None:
        self._client = client
        self._place = (resource_group, service_name)
        self._hub_name = hub_name
        self._hub_connection = hub_connection
        mark = hashlib.sha256(f"{hub_name}\n{hub_connection}".encode()).hexdigest()[:8]
        self._logger_text = f"Turnpike counts calls here ({mark})"  # the answer hides the secret: the mark tells whether it is ours

    async def logger_is_right(self) -> bool:
        found = await self._read(self._client.logger.get(*self._place, LOGGER_ID))
        return found is not None and found.description == self._logger_text

    async def put_logger(self) -> None:
        contract = models.LoggerContract(
            logger_type="azureEventHub",
            description=self._logger_text,
            is_buffered=True,
            credentials={"name": self._hub_name, "connectionString": self._hub_connection},
        )
        await self._write(lambda: self._client.logger.create_or_update(*self._place, LOGGER_ID, contract))

    async def read_product(self, product_id: str) -> SeenApimProduct | None:
        found = await self._read(self._client.product.get(*self._place, product_id))
        if found is None:
            return None
        groups = await self._names(self._client.product_group.list_by_product(*self._place, product_id))
        apis = await self._names(self._client.product_api.list_by_product(*self._place, product_id))
        policy = await self._read(self._client.product_policy.get(*self._place, product_id, "policy", format="xml"))
        return SeenApimProduct(
            found.display_name or "",
            found.description or "",
            found.state == "published",
            found.subscription_required is not False,  # ARM leaves out what is the default
            found.approval_required is True,
            groups,
            apis,
            policy.value if policy else None,
        )

    async def read_apis(self) -> frozenset[str]:
        """Return the ids of all APIs; of one with revisions, the current one's."""
        return await self._names(self._client.api.list_by_service(*self._place))

    async def read_operations(self, api_id: str) -> frozenset[str]:
        """Return the ids of an API's operations."""
        return await self._names(self._client.api_operation.list_by_api(*self._place, api_id))

    async def _names(self, listing: AsyncIterable[Any]) -> frozenset[str]:
        try:
            found: list[str | None] = [entry.name async for entry in listing]
        except AzureError as error:
            raise _translated(error) from error
        return frozenset(name for name in found if name and ";rev=" not in name)

    async def put_product(self, product: Product) -> None:
        contract = models.ProductContract(
            display_name=product.name,
            description=product.description,
            subscription_required=True,
            approval_required=False,
            state="published",
        )
        await self._write(lambda: self._client.product.create_or_update(*self._place, product.id, contract))

    async def unpublish(self, product_id: str) -> None:
        """Hide a product in the portal; its keys go on working."""
        change = models.ProductUpdateParameters(state="notPublished")
        await self._write(lambda: self._client.product.update(*self._place, product_id, "*", change))

    async def add_group(self, product_id: str, group_id: str) -> None:
        await self._write(lambda: self._client.product_group.create_or_update(*self._place, product_id, group_id))

    async def remove_group(self, product_id: str, group_id: str) -> None:
        await self._write(lambda: self._client.product_group.delete(*self._place, product_id, group_id))

    async def add_api(self, product_id: str, api_id: str) -> None:
        await self._write(lambda: self._client.product_api.create_or_update(*self._place, product_id, api_id))

    async def remove_api(self, product_id: str, api_id: str) -> None:
        await self._write(lambda: self._client.product_api.delete(*self._place, product_id, api_id))

    async def put_policy(self, product_id: str, xml: str) -> None:
        contract = models.PolicyContract(value=xml, format="xml")
        await self._write(lambda: self._client.product_policy.create_or_update(*self._place, product_id, "policy", contract, if_match="*"))

    async def _read(self, reading: Any) -> Any:
        try:
            return await reading
        except ResourceNotFoundError:
            return None
        except Exception as error:
            raise _translated(error) from error

    async def _write(self, operation: Any) -> None:
        try:
            await apim_client.write(operation)
        except Exception as error:
            raise _translated(error) from error


def _translated(error: Exception) -> Exception:
    if apim_client.is_collision(error):
        status = getattr(error, "status_code", None)
        return ApimUnavailableError(f"API Management answers HTTP {status}" if status else "API Management does not answer")
    if isinstance(error, HttpResponseError):
        return ApimRefusedError(apim_client.explain(error))
    return error
