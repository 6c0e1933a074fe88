"""API Management as this service needs it: users, sign-in tokens, keys to show, delegation settings. No other file imports its SDK."""

from datetime import datetime
from typing import Literal, Protocol
from urllib.parse import quote

from azure.core.exceptions import AzureError, HttpResponseError
from azure.mgmt.apimanagement.aio import ApiManagementClient
from azure.mgmt.apimanagement.models import (
    PortalDelegationSettings,
    RegistrationDelegationSettingsProperties,
    SubscriptionsDelegationSettingsProperties,
    UserCreateParameters,
    UserTokenParameters,
)

from billing_common.apim_client import explain, write
from billing_common.settings import ApimSettings
from turnpike_ui.pages import local_path


class ApimUnavailableError(Exception):
    """API Management does not answer, or refuses what it should take; the same call may be made again later."""


class UserRefusedError(Exception):
    """API Management will not have this user; the text says why."""


Which = Literal["primary", "secondary"]


class Apim(Protocol):
    """What the routes use."""

    async def ensure_user(self, user_id: str, *, email: str, first_name: str, last_name: str) -> None: ...
    async def sign_in_token(self, user_id: str, *, expires_at: datetime) -> str: ...
    async def keys(self, sid: str) -> tuple[str, str]: ...
    async def regenerate(self, sid: str, which: Which) -> None: ...
    async def ensure_delegation(self, url: str, key: str) -> None: ...


class ApimGateway:
    """The SDK's calls, with its errors turned into the two that routes tell apart."""

    def __init__(self, client: ApiManagementClient, settings: ApimSettings) -> None:
        self._client = client
        self._place = (settings.apim_resource_group, settings.apim_service_name)

    async def ensure_user(self, user_id: str, *, email: str, first_name: str, last_name: str) -> None:
        """Make the user; the same call again changes nothing. Raises UserRefusedError or ApimUnavailableError."""
        parameters = UserCreateParameters(email=email, first_name=first_name, last_name=last_name, state="active")
        try:
            await write(lambda: self._client.user.create_or_update(*self._place, user_id, parameters, notify=False))
        except HttpResponseError as error:
            if error.status_code == 400:
                raise UserRefusedError(explain(error)) from None
            raise ApimUnavailableError(explain(error)) from error
        except AzureError as error:
            raise ApimUnavailableError(type(error).__name__) from error

    async def sign_in_token(self, user_id: str, *, expires_at: datetime) -> str:
        """Return the token that signs this user into the developer portal."""
        parameters = UserTokenParameters(key_type="primary", expiry=expires_at)
        try:
            result = await self._client.user.get_shared_access_token(*self._place, user_id, parameters)
        except AzureError as error:
            raise ApimUnavailableError(type(error).__name__) from error
        if result.value is None:
            raise ApimUnavailableError("the answer holds no token")
        return str(result.value)

    async def keys(self, sid: str) -> tuple[str, str]:
        """Return the primary and the secondary key of an APIM subscription, to be shown once and stored nowhere."""
        try:
            secrets = await self._client.subscription.list_secrets(*self._place, sid)
        except AzureError as error:
            raise ApimUnavailableError(type(error).__name__) from error
        return str(secrets.primary_key or ""), str(secrets.secondary_key or "")

    async def regenerate(self, sid: str, which: Which) -> None:
        """Replace one value of a key. Once: the SDK's own repetition could replace it a second time."""
        call = {
            "primary": self._client.subscription.regenerate_primary_key,
            "secondary": self._client.subscription.regenerate_secondary_key,
        }[which]
        try:
            await call(*self._place, sid, retry_total=0)
        except AzureError as error:
            raise ApimUnavailableError(type(error).__name__) from error

    async def ensure_delegation(self, url: str, key: str) -> None:
        """Have the developer portal send sign-ups, sign-ins and subscriptions here. A real portal must be published again after it."""
        parameters = PortalDelegationSettings(
            url=url,
            validation_key=key,
            subscriptions=SubscriptionsDelegationSettingsProperties(enabled=True),
            user_registration=RegistrationDelegationSettingsProperties(enabled=True),
        )
        try:
            await write(lambda: self._client.delegation_settings.create_or_update(*self._place, parameters, if_match="*"))
        except AzureError as error:
            raise ApimUnavailableError(type(error).__name__) from error


def sign_in_address(portal_url: str, token: str, return_url: str = "/") -> str:
    """Return where the browser goes to be signed in; the whole token is encoded, because it holds `&`, `+` and `/`."""
    return f"{portal_url}/signin-sso?token={quote(token, safe='')}&returnUrl={quote(local_path(return_url), safe='')}"
