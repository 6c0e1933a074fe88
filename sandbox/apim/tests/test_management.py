"""The real client against every group of operations: users, groups, products, subscriptions, APIs, loggers, named values, settings."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.mgmt.apimanagement import models


def with_etag(_response: object, model: Any, headers: dict[str, str]) -> tuple[Any, str]:
    return model, headers["ETag"]


async def refused(call: Any) -> HttpResponseError:
    with pytest.raises(HttpResponseError) as caught:
        await call
    return caught.value


def target(error: HttpResponseError) -> str:
    assert (error.status_code, error.error.code) == (400, "ValidationError")
    return str(error.error.details[0].target)


async def test_a_user_is_created_read_changed_and_deleted(arm: Any) -> None:
    users = arm.client.user
    parameters = models.UserCreateParameters(email="a@example.com", first_name="Ada", last_name="Byron", note="crm:42")
    created = await users.create_or_update(*arm.at, "user-1", parameters, notify=False)
    assert created.id.endswith("/providers/Microsoft.ApiManagement/service/turnpike/users/user-1")
    assert (created.state, created.identities[0].id, created.type) == ("active", "a@example.com", "Microsoft.ApiManagement/service/users")
    assert abs(created.registration_date - datetime.now(UTC)) < timedelta(minutes=1)
    changed = await users.update(*arm.at, "user-1", "*", models.UserUpdateParameters(last_name="Lovelace", state=None))
    assert (changed.last_name, changed.first_name, changed.note) == ("Lovelace", "Ada", "crm:42")
    assert await users.get_entity_tag(*arm.at, "user-1")
    assert [group.name async for group in arm.client.user_group.list(*arm.at, "user-1")] == ["developers"]
    await (await users.begin_delete(*arm.at, "user-1", "*", delete_subscriptions=True)).result()
    with pytest.raises(ResourceNotFoundError):
        await users.get(*arm.at, "user-1")


async def test_a_change_without_a_state_unblocks_a_user_as_azure_does(arm: Any) -> None:
    await arm.user()
    await arm.client.user.update(*arm.at, "user-1", "*", models.UserUpdateParameters(state="blocked"))
    changed = await arm.client.user.update(*arm.at, "user-1", "*", models.UserUpdateParameters(note="x"))
    assert changed.state == "active"  # the client's model sends it


@pytest.mark.parametrize(
    ("properties", "field"),
    [
        ({"email": "new@example.com", "firstName": "A"}, "lastName"),
        ({"email": "USER-1@example.com", "firstName": "A", "lastName": "B"}, "email"),
        ({"email": "no address", "firstName": "A", "lastName": "B"}, "email"),
        ({"email": "n@example.com", "firstName": "A" * 101, "lastName": "B"}, "firstName"),
        ({"email": "n@example.com", "firstName": "A", "lastName": "B", "state": "asleep"}, "state"),
        ({"email": 7, "firstName": "A", "lastName": "B"}, "email"),
    ],
)
async def test_a_wrong_user_is_refused_with_the_field(raw_arm: Any, arm: Any, properties: dict[str, Any], field: str) -> None:
    await arm.user()
    answer = await raw_arm.put("/users/other", json={"properties": properties})
    assert answer.status_code == 400
    assert answer.json()["error"]["details"][0]["target"] == field


async def test_a_user_with_subscriptions_goes_only_together_with_them(arm: Any) -> None:
    await arm.user()
    await arm.product()
    await arm.subscription(ownerId="/users/user-1")
    assert target(await refused(arm.client.user.begin_delete(*arm.at, "user-1", "*"))) == "deleteSubscriptions"
    await (await arm.client.user.begin_delete(*arm.at, "user-1", "*", delete_subscriptions=True)).result()
    with pytest.raises(ResourceNotFoundError):
        await arm.client.subscription.get(*arm.at, "sub-1")


async def test_a_token_needs_an_expiry_within_thirty_days(arm: Any) -> None:
    await arm.user()
    for ahead in (timedelta(days=31), timedelta(minutes=-1)):
        parameters = models.UserTokenParameters(key_type="primary", expiry=datetime.now(UTC) + ahead)
        assert target(await refused(arm.client.user.get_shared_access_token(*arm.at, "user-1", parameters))) == "expiry"


async def test_groups_hold_users_and_products(arm: Any) -> None:
    await arm.user()
    await arm.product()
    await arm.client.group.create_or_update(*arm.at, "partners", models.GroupCreateParameters(display_name="Partners"))
    await arm.client.group_user.create(*arm.at, "partners", "user-1")
    await arm.client.product_group.create_or_update(*arm.at, "pro", "partners")
    assert await arm.client.group_user.check_entity_exists(*arm.at, "partners", "user-1") is True
    assert await arm.client.group_user.check_entity_exists(*arm.at, "partners", "nobody") is False
    assert [user.name async for user in arm.client.group_user.list(*arm.at, "partners")] == ["user-1"]
    assert [group.name async for group in arm.client.product_group.list_by_product(*arm.at, "pro")] == ["developers", "partners"]
    await arm.client.product_group.delete(*arm.at, "pro", "partners")
    with pytest.raises(ResourceNotFoundError):
        await arm.client.product_group.check_entity_exists(*arm.at, "pro", "partners")
    assert target(await refused(arm.client.group.delete(*arm.at, "developers", "*"))) == "groupId"
    await arm.client.group.delete(*arm.at, "partners", "*")


async def test_a_product_is_created_changed_and_deleted_with_its_subscriptions(arm: Any) -> None:
    products = arm.client.product
    created = await products.create_or_update(*arm.at, "pro", models.ProductContract(display_name="Pro"))
    assert (created.state, created.subscription_required, created.approval_required) == ("notPublished", True, False)
    changed = await products.update(*arm.at, "pro", "*", models.ProductUpdateParameters(state="published", description="d"))
    assert (changed.state, changed.display_name, changed.description) == ("published", "Pro", "d")
    await arm.subscription()
    assert [one.name async for one in arm.client.product_subscriptions.list(*arm.at, "pro")] == ["sub-1"]
    assert target(await refused(products.delete(*arm.at, "pro", "*"))) == "deleteSubscriptions"
    await products.delete(*arm.at, "pro", "*", delete_subscriptions=True)
    await products.delete(*arm.at, "pro", "*")  # a second time: 204


async def test_approval_and_limit_belong_to_products_that_need_a_subscription(arm: Any) -> None:
    for name, value in (("approvalRequired", True), ("subscriptionsLimit", 1)):
        given = {"properties": {"displayName": "Open", "subscriptionRequired": False, name: value}}
        assert target(await refused(arm.client.product.create_or_update(*arm.at, "open", given))) == name


async def test_the_limit_counts_per_owner_and_those_without_share_one(arm: Any) -> None:
    await arm.product(subscriptionsLimit=1)
    await arm.user("user-1")
    await arm.user("user-2")
    await arm.subscription("a", ownerId="/users/user-1")
    await arm.subscription("b", ownerId="/users/user-2")
    await arm.subscription("c")
    error = await refused(arm.subscription("d"))
    assert error.error.details[0].message == "Subscriptions limit reached for same user"


async def test_apis_are_linked_to_products_in_both_forms(arm: Any) -> None:
    await arm.client.product.create_or_update(*arm.at, "pro", models.ProductContract(display_name="Pro"))
    link = models.ProductApiLinkContract(api_id="/subscriptions/s/resourceGroups/g/providers/Microsoft.ApiManagement/service/x/apis/orders")
    created = await arm.client.product_api_link.create_or_update(*arm.at, "pro", "link-1", link)
    assert created.api_id.endswith("/service/turnpike/apis/orders")
    assert [api.name async for api in arm.client.product_api.list_by_product(*arm.at, "pro")] == ["orders"]
    await arm.client.product_api_link.delete(*arm.at, "pro", "link-1")
    assert [api.name async for api in arm.client.product_api.list_by_product(*arm.at, "pro")] == []
    with pytest.raises(ResourceNotFoundError):
        await arm.client.product_api.create_or_update(*arm.at, "pro", "nothing")
    await arm.client.product_api.create_or_update(*arm.at, "pro", "orders")
    assert await arm.client.product_api.check_entity_exists(*arm.at, "pro", "orders")
    await arm.client.product_api.delete(*arm.at, "pro", "orders")
    await arm.client.product_api.delete(*arm.at, "pro", "orders")


async def test_a_subscription_starts_submitted_and_never_shows_its_keys(arm: Any) -> None:
    await arm.product()
    await arm.user()
    parameters = models.SubscriptionCreateParameters(scope="/products/pro", display_name="Mine", owner_id="/users/user-1")
    created = await arm.client.subscription.create_or_update(*arm.at, "sub-1", parameters)
    assert (created.state, created.primary_key, created.secondary_key, created.start_date) == ("submitted", None, None, None)
    assert created.scope.endswith("/service/turnpike/products/pro")
    assert created.owner_id.endswith("/service/turnpike/users/user-1")
    active = await arm.client.subscription.update(*arm.at, "sub-1", "*", models.SubscriptionUpdateParameters(state="active"))
    assert active.start_date is not None
    secrets = await arm.client.subscription.list_secrets(*arm.at, "sub-1")
    again = await arm.client.subscription.create_or_update(*arm.at, "sub-1", parameters)
    assert again.state == "active"
    assert (await arm.client.subscription.list_secrets(*arm.at, "sub-1")).primary_key == secrets.primary_key
    assert [one.name async for one in arm.client.user_subscription.list(*arm.at, "user-1")] == ["sub-1"]
    assert (await arm.client.user_subscription.get(*arm.at, "user-1", "sub-1")).name == "sub-1"
    await arm.client.subscription.delete(*arm.at, "sub-1", "*")
    await arm.client.subscription.delete(*arm.at, "sub-1", "*")


@pytest.mark.parametrize(
    ("properties", "field"),
    [
        ({"displayName": "x"}, "scope"),
        ({"displayName": "x", "scope": "/products/none"}, "scope"),
        ({"displayName": "x", "scope": "products/pro"}, "scope"),
        ({"scope": "/products/pro"}, "displayName"),
        ({"displayName": "x", "scope": "/products/pro", "ownerId": "/users/none"}, "ownerId"),
        ({"displayName": "x", "scope": "/products/pro", "state": "canceled"}, "state"),
        ({"displayName": "x", "scope": "/products/pro", "primaryKey": "taken"}, "primaryKey"),
        ({"displayName": "x", "scope": "/products/pro", "stateComment": "c"}, "stateComment"),
    ],
)
async def test_a_wrong_subscription_is_refused_with_the_field(arm: Any, raw_arm: Any, properties: dict[str, Any], field: str) -> None:
    await arm.product()
    await arm.subscription("first", primaryKey="taken")
    answer = await raw_arm.put("/subscriptions/second", json={"properties": properties})
    assert answer.status_code == 400
    assert answer.json()["error"]["details"][0]["target"] == field


async def test_an_api_and_its_operations_are_created_changed_and_deleted(arm: Any) -> None:
    parameters = models.ApiCreateOrUpdateParameter(display_name="Echo", path="echo", service_url="https://example.com", protocols=["https"])
    created = await (await arm.client.api.begin_create_or_update(*arm.at, "echo", parameters)).result()
    assert (created.path, created.service_url, created.provisioning_state) == ("echo", "https://example.com", "Succeeded")
    operation = models.OperationContract(
        display_name="One",
        method="GET",
        url_template="/{id}",
        template_parameters=[models.ParameterContract(name="id", type="string", required=True)],
    )
    await arm.client.api_operation.create_or_update(*arm.at, "echo", "one", operation)
    assert [one.url_template async for one in arm.client.api_operation.list_by_api(*arm.at, "echo")] == ["/{id}"]
    operation.template_parameters = None
    assert target(await refused(arm.client.api_operation.create_or_update(*arm.at, "echo", "two", operation))) == "templateParameters"
    same_path = models.ApiCreateOrUpdateParameter(display_name="Other", path="/echo/")
    assert target(await refused(arm.client.api.begin_create_or_update(*arm.at, "other", same_path))) == "path"
    await arm.client.api_operation.delete(*arm.at, "echo", "one", "*")
    await (await arm.client.api.begin_delete(*arm.at, "echo", "*")).result()
    assert [api.name async for api in arm.client.api.list_by_service(*arm.at)] == ["orders"]


async def test_a_logger_hides_its_connection(arm: Any, raw_arm: Any) -> None:
    await arm.logger()
    found = await arm.client.logger.get(*arm.at, "usage")
    assert found.credentials["name"] == "gateway.calls"
    assert found.credentials["connectionString"].startswith("{{Logger-Credentials--")
    changed = await arm.client.logger.update(*arm.at, "usage", "*", models.LoggerUpdateContract(description="d"))
    assert (changed.description, changed.credentials["name"]) == ("d", "gateway.calls")
    assert "SharedAccessKey" not in (await raw_arm.get("/loggers")).text
    bare = models.LoggerContract(logger_type="azureEventHub")
    assert target(await refused(arm.client.logger.create_or_update(*arm.at, "bare", bare))) == "credentials"
    await arm.client.logger.delete(*arm.at, "usage", "*")


async def test_a_named_value_is_used_in_policies_and_hides_secrets(arm: Any) -> None:
    values = arm.client.named_value
    parameters = models.NamedValueCreateContract(display_name="limit", value="7", secret=True)
    created = await (await values.begin_create_or_update(*arm.at, "limit", parameters)).result()
    assert created.value is None
    assert (await values.list_value(*arm.at, "limit")).value == "7"
    await arm.product()
    xml = '<policies><inbound><quota calls="{{limit}}" renewal-period="600" /></inbound></policies>'
    await arm.policy(xml)
    assert (await arm.client.product_policy.get(*arm.at, "pro", "policy", format="rawxml")).value == xml
    await (await values.begin_update(*arm.at, "limit", "*", models.NamedValueUpdateParameters(value="8"))).result()
    assert (await values.list_value(*arm.at, "limit")).value == "8"
    error = await refused(arm.policy(xml.replace("limit", "other")))
    assert "Cannot find a property 'other'" in error.error.details[0].message
    await values.delete(*arm.at, "limit", "*")


async def test_a_policy_is_kept_as_written_and_shown_in_the_format_asked_for(arm: Any) -> None:
    await arm.product()
    limit = '<quota-by-key calls="1" renewal-period="0" counter-key="@(context.Subscription.Id + "<")" />'
    xml = f"<policies><inbound>{limit}</inbound></policies>"
    await arm.policy(xml)
    policies = arm.client.product_policy
    assert (await policies.get(*arm.at, "pro", "policy", format="rawxml")).value == xml
    escaped = (await policies.get(*arm.at, "pro", "policy", format="xml")).value
    assert "@(context.Subscription.Id + &quot;&lt;&quot;)" in escaped
    await arm.policy(escaped, format="xml")
    assert [one.name async for one in policies.list_by_product(*arm.at, "pro")] == ["policy"]
    await policies.delete(*arm.at, "pro", "policy", "*")
    with pytest.raises(ResourceNotFoundError):
        await policies.get(*arm.at, "pro", "policy")


async def test_a_policy_the_gateway_does_not_know_is_refused_with_its_place(arm: Any) -> None:
    await arm.product()
    error = await refused(arm.policy("<policies>\n  <inbound>\n    <validate-jwt />\n  </inbound>\n</policies>"))
    assert target(error) == "validate-jwt"
    assert error.error.details[0].message.startswith("Error in element 'validate-jwt' on line 3, column 5:")
    with pytest.raises(ResourceNotFoundError):
        await arm.client.product_policy.get(*arm.at, "pro", "policy")


async def test_delegation_settings_hide_their_key_and_answer_the_codes_the_client_takes(arm: Any) -> None:
    settings = arm.client.delegation_settings
    assert (await settings.get(*arm.at)).subscriptions.enabled is False
    wanted = models.PortalDelegationSettings(
        url="https://billing.example/delegation",
        validation_key="AAECAw==",
        subscriptions=models.SubscriptionsDelegationSettingsProperties(enabled=True),
        user_registration=models.RegistrationDelegationSettingsProperties(enabled=True),
    )
    saved = await settings.create_or_update(*arm.at, wanted, if_match="*")
    assert (saved.url, saved.validation_key) == ("https://billing.example/delegation", None)
    assert (await settings.list_secrets(*arm.at)).validation_key == "AAECAw=="
    assert await settings.update(*arm.at, "*", models.PortalDelegationSettings(url="https://other.example/")) is None
    assert (await settings.get(*arm.at)).url == "https://other.example/"
    assert (await settings.list_secrets(*arm.at)).validation_key == "AAECAw=="
    wanted.validation_key = "not base64"
    assert target(await refused(settings.create_or_update(*arm.at, wanted))) == "validationKey"
    assert (await arm.client.sign_in_settings.get(*arm.at)).enabled is False
    changed = await arm.client.sign_in_settings.create_or_update(*arm.at, models.PortalSigninSettings(enabled=True))
    assert changed.enabled is True
    assert (await arm.client.sign_up_settings.get(*arm.at)).enabled is True
    assert {one.name for one in (await arm.client.portal_settings.list_by_service(*arm.at)).value} == {"delegation", "signin", "signup"}


async def test_the_service_names_its_three_addresses(arm: Any, sandbox: Any) -> None:
    service = await arm.client.api_management_service.get(*arm.at)
    assert (service.gateway_url, service.developer_portal_url) == (sandbox.gateway_url, sandbox.portal_url)
    assert (service.management_api_url, service.sku.name) == (sandbox.management_url, "Developer")
