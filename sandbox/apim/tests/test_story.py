"""The way a consumer goes: product, user, token, subscription, key, calls, suspension, restoration."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from azure.mgmt.apimanagement.models import SubscriptionUpdateParameters, UserTokenParameters


async def test_a_key_works_from_the_moment_its_subscription_is_active_until_it_is_suspended(arm: Any, gateway: httpx.AsyncClient) -> None:
    await arm.user()
    await arm.product()
    key = await arm.subscription(ownerId="/users/user-1")
    headers = {"Ocp-Apim-Subscription-Key": key}
    assert (await gateway.get("/orders", headers=headers)).status_code == 200
    await arm.client.subscription.update(*arm.at, "sub-1", "*", SubscriptionUpdateParameters(state="suspended"))
    refused = await gateway.get("/orders", headers=headers)
    assert refused.status_code == 401
    await arm.client.subscription.update(*arm.at, "sub-1", "*", SubscriptionUpdateParameters(state="active"))
    assert (await gateway.get("/orders/7", headers=headers)).json()["id"] == 7


async def test_the_token_of_the_management_api_signs_in_at_the_portal(arm: Any, portal: httpx.AsyncClient) -> None:
    await arm.user()
    expiry = datetime.now(UTC) + timedelta(minutes=5)
    token = await arm.client.user.get_shared_access_token(*arm.at, "user-1", UserTokenParameters(key_type="primary", expiry=expiry))
    answer = await portal.get("/signin-sso", params={"token": token.value, "returnUrl": "/profile"})
    assert (answer.status_code, answer.headers["location"]) == (302, "/profile")
    assert "Ada Byron" in (await portal.get("/profile")).text
