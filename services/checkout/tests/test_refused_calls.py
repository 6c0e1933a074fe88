"""What a caller gets from a gateway that runs our policies: allowed, gated, too fast, used up."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from azure.mgmt.apimanagement.models import SubscriptionCreateParameters

from billing_common.catalogue import Catalogue, CatalogueError, Product
from billing_common.catalogue_changes import read_over
from billing_common.key_sids import sid_of
from checkout import policy
from checkout.carrying import Outside
from checkout.gates import note_unknown
from checkout.policy_answers import Plans
from checkout.settings import Settings

from .conftest import Sandboxes

PRICING = "https://billing.example.com/pricing"
Sell = Callable[[dict[str, Any]], Awaitable[httpx.AsyncClient]]


def catalogue(**fields: Any) -> Catalogue:
    plan = {"id": "gated", "name": 'The "Gate"', "model": "Free", "apis": ["orders"]} | fields
    meters = {"meters": {"calls": {"name": "Calls"}}} if "quota" in fields else {}
    return Catalogue.from_document({"version": 1, **meters, "products": [plan]})


@pytest.fixture
async def sell(outside: Outside, settings: Settings, sandboxes: Sandboxes) -> AsyncIterator[Sell]:
    """Return a function that puts a plan and a subscription to it into API Management, and returns a caller with its key."""
    callers: list[httpx.AsyncClient] = []

    async def begin(fields: dict[str, Any]) -> httpx.AsyncClient:
        product = catalogue(**fields).products[0]
        await _put(outside, product)
        at, sid = (settings.apim_resource_group, settings.apim_service_name), f"sub-{product.id}"
        api = outside.apim._client.subscription
        wanted = SubscriptionCreateParameters(scope=f"/products/{product.id}", display_name=sid, state="active")
        await api.create_or_update(*at, sid, wanted)
        key = (await api.list_secrets(*at, sid)).primary_key
        callers.append(httpx.AsyncClient(base_url=sandboxes.calls, headers={"Ocp-Apim-Subscription-Key": str(key)}))
        return callers[-1]

    yield begin
    for caller in callers:
        await caller.aclose()


async def _put(outside: Outside, product: Product) -> None:
    await outside.apim.put_logger()
    await outside.apim.put_product(product)
    await outside.apim.add_api(product.id, "orders")
    await outside.apim.put_policy(product.id, policy.merge(None, product, Plans(PRICING)))


async def test_an_operation_beyond_the_plan_is_refused_by_name_and_the_others_work(sell: Sell) -> None:
    caller = await sell({"id": "g1", "operations": {"orders": ["list-orders", "get-order"]}})
    assert [(await caller.get(path)).status_code for path in ("/orders", "/orders/7")] == [200, 200]
    refused = await caller.delete("/orders/7")
    assert refused.status_code == 403
    assert refused.headers["content-type"] == "application/json"
    assert refused.json() == {
        "statusCode": 403,
        "code": "operation_not_in_plan",
        "message": f'The plan The "Gate" does not include the operation delete-order of orders: for a plan that does, see {PRICING}.',
        "plan": "g1",
        "api": "orders",
        "operation": "delete-order",
        "upgrade": PRICING,
    }
    assert (await caller.get("/orders/7")).status_code == 200  # the backend never saw the deletion


async def test_refused_operations_do_not_use_up_the_quota(sell: Sell) -> None:
    caller = await sell({"id": "g2", "quota": {"calls": 2}, "operations": {"orders": ["get-order"]}})
    assert [(await caller.get("/orders")).status_code for _ in range(5)] == [403] * 5
    assert [(await caller.get("/orders/7")).status_code for _ in range(3)] == [200, 200, 403]


async def test_too_many_calls_are_told_limit_window_wait_and_where_to_upgrade(sell: Sell) -> None:
    caller = await sell({"id": "g3", "rate_limit": {"calls": 1, "per_seconds": 60}})
    assert (await caller.get("/orders")).status_code == 200
    refused = await caller.get("/orders")
    body = refused.json()
    assert (refused.status_code, body["statusCode"], body["code"]) == (429, 429, "rate_limit_exceeded")
    assert (body["plan"], body["limit"], body["window"], body["upgrade"]) == ("g3", 1, "60 seconds", PRICING)
    assert "takes 1 calls in 60 seconds with one key. Call again after the seconds that Retry-After names;" in body["message"]
    assert body["message"].endswith(f"for a plan that takes more, see {PRICING}.")
    assert 1 <= int(refused.headers["retry-after"]) <= 60


@pytest.mark.parametrize(
    ("window", "words", "days_max"), [("calendar_month", "calendar month", 31), ("30_days", "30 days", 30)], ids=["month", "30 days"]
)
async def test_a_used_up_quota_is_told_limit_window_wait_and_where_to_upgrade(sell: Sell, window: str, words: str, days_max: int) -> None:
    caller = await sell({"id": f"q-{days_max}", "quota": {"calls": 1, "window": window}})
    assert (await caller.get("/orders")).status_code == 200
    refused = await caller.get("/orders")
    body = refused.json()
    assert (refused.status_code, body["statusCode"], body["code"]) == (403, 403, "quota_exceeded")
    assert (body["plan"], body["limit"], body["window"], body["upgrade"]) == (f"q-{days_max}", 1, words, PRICING)
    assert f"{words} are used up." in body["message"]
    assert body["message"].endswith(f"for a plan with more, see {PRICING}.")
    assert 1 <= int(refused.headers["retry-after"]) <= days_max * 86_400


@pytest.mark.parametrize("window", ["calendar_month", "30_days"])
async def test_one_allowance_is_for_all_keys_of_a_subscription_and_not_for_those_of_another(
    sell: Sell, outside: Outside, settings: Settings, sandboxes: Sandboxes, window: str
) -> None:
    plan = f"k-{window.replace('_', '-')}"
    first = await sell({"id": plan, "quota": {"calls": 2, "window": window}, "keys": 3})
    at, api = (settings.apim_resource_group, settings.apim_service_name), outside.apim._client.subscription
    keys = {}
    for sid in (sid_of(f"sub-{plan}", 2), f"other-{plan}"):
        await api.create_or_update(*at, sid, SubscriptionCreateParameters(scope=f"/products/{plan}", display_name=sid, state="active"))
        keys[sid] = str((await api.list_secrets(*at, sid)).primary_key)
    async with httpx.AsyncClient(base_url=sandboxes.calls) as anybody:
        second, other = ({"Ocp-Apim-Subscription-Key": key} for key in keys.values())
        assert (await first.get("/orders")).status_code == 200
        assert (await anybody.get("/orders", headers=second)).status_code == 200
        assert (await first.get("/orders")).status_code == 403
        assert (await anybody.get("/orders", headers=second)).json()["code"] == "quota_exceeded"
        assert (await anybody.get("/orders", headers=other)).status_code == 200


async def test_a_key_that_is_not_known_keeps_azures_own_words(sell: Sell) -> None:
    caller = await sell({"id": "g4", "rate_limit": {"calls": 9}, "operations": {"orders": ["get-order"]}})
    refused = await caller.get("/orders/7", headers={"Ocp-Apim-Subscription-Key": "nobody"})
    assert refused.status_code == 401
    assert "invalid subscription key" in refused.json()["message"]


async def test_misspelt_apis_and_operations_are_refused_before_anything_is_touched_with_their_lines(outside: Outside) -> None:
    plan: dict[str, Any] = {"id": "typo", "name": "T", "model": "Free", "apis": ["orders", "ordres"]}
    plan |= {"operations": {"orders": ["get-orders", "get-order"]}}
    text = json.dumps({"version": 1, "products": [plan]}, indent=1)
    reading = read_over(text, {})
    await note_unknown(outside.apim, reading)
    with pytest.raises(CatalogueError) as refused:
        reading.result()
    api, operation = refused.value.problems
    assert (api.path, operation.path) == ("$.products[0].apis[1]", "$.products[0].operations.orders[0]")
    assert ['"ordres"' in text.splitlines()[api.line - 1], '"get-orders"' in text.splitlines()[operation.line - 1]] == [True, True]
    assert 'API Management has no API "ordres"' in api.message
    assert 'Did you mean "orders"?' in api.message
    assert 'the API "orders" has no operation "get-orders"' in operation.message
    assert 'Did you mean "get-order"?' in operation.message
    assert operation.allowed == "create-order, delete-order, get-order, get-status, list-orders"
    plan |= {"apis": ["orders"], "operations": {"orders": ["list-orders", "get-order"]}}
    fine = read_over(json.dumps({"version": 1, "products": [plan]}), {})
    await note_unknown(outside.apim, fine)
    assert fine.result().products[0].id == "typo"
    assert await outside.apim.read_product("typo") is None


async def test_a_catalogue_without_apis_asks_nobody() -> None:
    reading = read_over(json.dumps({"version": 1, "products": [{"id": "a", "name": "A", "model": "Free"}]}), {})
    await note_unknown(None, reading)  # type: ignore[arg-type]
    assert reading.result().products[0].id == "a"
