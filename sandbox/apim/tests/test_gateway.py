"""Calls through the gateway: keys, limits, quotas, log lines and counts."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.mgmt.apimanagement.models import SubscriptionUpdateParameters

from sandbox_apim.limits import time_span

MISSING = (
    b'{ "statusCode": 401, "message": "Access denied due to missing subscription key. '
    b'Make sure to include subscription key when making requests to this API." }'
)
INVALID = (
    b'{ "statusCode": 401, "message": "Access denied due to invalid subscription key. '
    b'Make sure to provide a valid key for an active subscription." }'
)
LOG = """<log-to-eventhub logger-id="usage" partition-key="@(context.Subscription?.Id ?? "none")">@{ return new JObject(
  new JProperty("sid", context.Subscription?.Id), new JProperty("status", context.Response?.StatusCode),
  new JProperty("bytes", long.Parse(context.Response?.Headers.GetValueOrDefault("Content-Length", "0") ?? "0"))
).ToString(Newtonsoft.Json.Formatting.None); }</log-to-eventhub>"""


def policy(inbound: str = "", outbound: str = "", on_error: str = "") -> str:
    return (
        f"<policies><inbound><base />{inbound}</inbound><backend><base /></backend>"
        f"<outbound><base />{outbound}</outbound><on-error><base />{on_error}</on-error></policies>"
    )


def with_key(key: str) -> dict[str, str]:
    return {"Ocp-Apim-Subscription-Key": key}


async def test_a_call_without_a_key_gets_azures_own_words(arm: Any, gateway: httpx.AsyncClient, sandbox: Any) -> None:
    answer = await gateway.get("/orders")
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (401, MISSING, "154")
    assert answer.headers["content-type"] == "application/json"
    challenge = f'AzureApiManagementKey realm="{sandbox.gateway_url}/",name="Ocp-Apim-Subscription-Key",type="header"'
    assert answer.headers["www-authenticate"] == challenge


async def test_a_wrong_key_gets_azures_own_words(gateway: httpx.AsyncClient) -> None:
    answer = await gateway.get("/orders", headers=with_key("nonsense"))
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (401, INVALID, "143")


async def test_the_key_may_stand_in_the_query_and_the_header_goes_first(arm: Any, gateway: httpx.AsyncClient) -> None:
    await arm.product()
    key = await arm.subscription()
    assert (await gateway.get("/orders", params={"subscription-key": key})).status_code == 200
    assert (await gateway.get("/orders", params={"subscription-key": key}, headers=with_key("wrong"))).status_code == 401


@pytest.mark.parametrize("state", ["suspended", "cancelled", "expired", "submitted", "rejected"])
async def test_a_key_opens_nothing_in_any_state_but_active(arm: Any, gateway: httpx.AsyncClient, state: str) -> None:
    await arm.product()
    key = await arm.subscription()
    await arm.client.subscription.update(*arm.at, "sub-1", "*", SubscriptionUpdateParameters(state=state))
    assert (await gateway.get("/orders", headers=with_key(key))).content == INVALID


async def test_both_keys_work_and_a_regenerated_one_replaces_the_old(arm: Any, gateway: httpx.AsyncClient) -> None:
    await arm.product()
    first = await arm.subscription()
    second = (await arm.client.subscription.list_secrets(*arm.at, "sub-1")).secondary_key
    await arm.client.subscription.regenerate_primary_key(*arm.at, "sub-1")
    assert (await gateway.get("/orders", headers=with_key(first))).status_code == 401
    assert (await gateway.get("/orders", headers=with_key(second))).status_code == 200
    fresh = (await arm.client.subscription.list_secrets(*arm.at, "sub-1")).primary_key
    assert (await gateway.get("/orders", headers=with_key(fresh))).status_code == 200


async def test_a_key_opens_only_the_apis_of_its_product(arm: Any, gateway: httpx.AsyncClient) -> None:
    await arm.product()
    key = await arm.subscription()
    await arm.client.product_api.delete(*arm.at, "pro", "orders")
    assert (await gateway.get("/orders", headers=with_key(key))).content == INVALID
    link = {"properties": {"apiId": "/apis/orders"}}
    await arm.client.product_api_link.create_or_update(*arm.at, "pro", "link-1", link)
    assert (await gateway.get("/orders", headers=with_key(key))).status_code == 200


async def test_a_blocked_users_keys_stop(arm: Any, gateway: httpx.AsyncClient) -> None:
    await arm.user()
    await arm.product()
    key = await arm.subscription(ownerId="/users/user-1")
    await arm.client.user.update(*arm.at, "user-1", "*", {"properties": {"state": "blocked"}})
    assert (await gateway.get("/orders", headers=with_key(key))).status_code == 401


async def test_the_rate_limit_refuses_the_next_call_and_says_when_to_come_back(arm: Any, gateway: httpx.AsyncClient, sandbox: Any) -> None:
    await arm.product()
    await arm.policy(policy('<rate-limit calls="3" renewal-period="60" remaining-calls-header-name="x-remaining" />'))
    key = await arm.subscription()
    remaining = [(await gateway.get("/orders", headers=with_key(key))).headers["x-remaining"] for _ in range(3)]
    assert remaining == ["2", "1", "0"]
    refused = await gateway.get("/orders", headers=with_key(key))
    wait = refused.headers["retry-after"]
    assert refused.status_code == 429
    assert refused.text == f'{{ "statusCode": 429, "message": "Rate limit is exceeded. Try again in {wait} seconds." }}'
    assert 58 <= int(wait) <= 60
    other = await arm.subscription("sub-2")
    assert (await gateway.get("/orders", headers=with_key(other))).status_code == 200
    sandbox.clock.set_offset(timedelta(seconds=61))
    assert (await gateway.get("/orders", headers=with_key(key))).status_code == 200


async def test_the_quota_stops_calls_until_its_window_from_the_subscriptions_start_ends(
    arm: Any, gateway: httpx.AsyncClient, sandbox: Any
) -> None:
    await arm.product()
    await arm.policy(policy('<quota calls="2" renewal-period="2592000" />'))
    key = await arm.subscription()
    assert [(await gateway.get("/orders", headers=with_key(key))).status_code for _ in range(3)] == [200, 200, 403]
    refused = await gateway.get("/orders", headers=with_key(key))
    assert 2_591_990 <= int(refused.headers["retry-after"]) <= 2_592_000
    span = time_span(int(refused.headers["retry-after"]))
    assert refused.text == f'{{ "statusCode": 403, "message": "Out of call volume quota. Quota will be replenished in {span}." }}'
    sandbox.clock.set_offset(timedelta(days=30, seconds=1))
    assert (await gateway.get("/orders", headers=with_key(key))).status_code == 200


async def test_a_quota_by_month_renews_with_the_month_and_is_shared_by_its_key(arm: Any, gateway: httpx.AsyncClient, sandbox: Any) -> None:
    await arm.product()
    key_expression = '@(context.Product.Id + "-" + context.Timestamp.ToString("yyyyMM"))'
    await arm.policy(policy(f'<quota-by-key calls="2" renewal-period="0" counter-key="{key_expression}" />'))
    keys = [await arm.subscription("sub-1"), await arm.subscription("sub-2")]
    assert [(await gateway.get("/orders", headers=with_key(key))).status_code for key in [*keys, keys[0]]] == [200, 200, 403]
    counter_key = f"pro-{sandbox.clock.now():%Y%m}"
    counters = await arm.client.quota_by_counter_keys.list_by_service(*arm.at, counter_key)
    assert [(counter.counter_key, counter.value.calls_count) for counter in counters.value] == [(counter_key, 2)]
    await arm.client.quota_by_counter_keys.update(*arm.at, counter_key, {"properties": {"callsCount": 1, "kbTransferred": 0}})
    assert [(await gateway.get("/orders", headers=with_key(keys[1]))).status_code for _ in range(2)] == [200, 403]
    sandbox.clock.set_offset(timedelta(days=32))
    assert (await gateway.get("/orders", headers=with_key(keys[0]))).status_code == 200


async def test_counters_that_wait_for_the_answer_count_only_what_the_condition_says(arm: Any, gateway: httpx.AsyncClient) -> None:
    await arm.product()
    condition = "@(context.Response.StatusCode < 400)"
    await arm.policy(
        policy(f'<quota-by-key calls="1" renewal-period="0" counter-key="@(context.Subscription.Id)" increment-condition="{condition}" />')
    )
    key = await arm.subscription()
    paths = ["/orders/99999", "/status/500", "/orders", "/orders"]
    assert [(await gateway.get(path, headers=with_key(key))).status_code for path in paths] == [404, 500, 200, 403]


async def test_policies_nest_by_base_and_headers_can_be_set(arm: Any, gateway: httpx.AsyncClient) -> None:
    await arm.product()
    key = await arm.subscription()
    step = '<set-header name="x-scopes" exists-action="append"><value>{}</value></set-header>'
    around = "<policies><inbound>{0}</inbound><backend>{1}</backend><outbound>{2}</outbound><on-error>{0}</on-error></policies>"
    base = "<base />"
    put = arm.client
    await put.policy.create_or_update(
        *arm.at, "policy", {"properties": {"value": around.format("", "<forward-request />", step.format("global"))}}
    )
    await arm.policy(around.format(base, base, base + step.format("product")))
    await put.api_policy.create_or_update(
        *arm.at, "orders", "policy", {"properties": {"value": around.format(base, base, base + step.format("api"))}}
    )
    operation = {"properties": {"value": around.format(base, base, base + step.format("operation"))}}
    await put.api_operation_policy.create_or_update(*arm.at, "orders", "get-order", "policy", operation)
    assert (await gateway.get("/orders/7", headers=with_key(key))).headers["x-scopes"] == "global, product, api, operation"
    assert (await gateway.get("/orders", headers=with_key(key))).headers["x-scopes"] == "global, product, api"


async def test_on_error_can_answer_with_its_own_body(arm: Any, gateway: httpx.AsyncClient) -> None:
    await arm.product()
    answer = (
        '<choose><when condition="@(context.LastError.Reason == "QuotaExceeded")"><return-response><set-status code="403" />'
        '<set-header name="Retry-After"><value>@(context.Response.Headers.GetValueOrDefault("Retry-After", "60"))</value></set-header>'
        '<set-body>@("Upgrade " + context.Product?.Id)</set-body></return-response></when></choose>'
    )
    await arm.policy(policy('<quota calls="0" renewal-period="600" />', on_error=answer))
    key = await arm.subscription()
    refused = await gateway.get("/orders", headers=with_key(key))
    assert (refused.status_code, refused.text) == (403, "Upgrade pro")
    assert 0 < int(refused.headers["retry-after"]) <= 600


async def test_each_call_with_a_key_gives_one_log_line_whatever_its_end(
    start: Callable[..., Any], client_for: Callable[..., Any], arm_for: Any
) -> None:
    async with start(kafka_bootstrap_servers="127.0.0.1:1") as sandbox, client_for(sandbox) as client:
        arm = arm_for(client)
        await arm.product()
        await arm.logger(hub="calls.of.mine")
        limits = '<rate-limit calls="3" renewal-period="60" />'
        await arm.policy(policy(limits, outbound=LOG, on_error=LOG))
        key = await arm.subscription()
        async with httpx.AsyncClient(base_url=sandbox.gateway_url, headers=with_key(key)) as gateway:
            for path in ("/orders/7", "/orders/99999", "/status/503", "/orders"):
                await gateway.get(path)
            await gateway.get("/orders", headers=with_key("wrong"))
            status = (await gateway.get("/_sandbox/status")).json()
        lines = [(topic, line_key, json.loads(value)) for _, topic, line_key, value in sandbox.journal.take()]
    assert [(topic, line_key) for topic, line_key, _ in lines] == [("calls.of.mine", b"sub-1")] * 4
    assert [line["status"] for _, _, line in lines] == [200, 404, 503, 429]
    assert all(line["sid"] == "sub-1" and line["bytes"] > 0 for _, _, line in lines)
    assert status["settled"] is False
    assert status["waiting_for"] == ["4 log lines that Kafka has not acknowledged"]


async def test_the_gateways_own_counts_are_per_subscription_and_status(arm: Any, gateway: httpx.AsyncClient) -> None:
    await arm.product()
    key = await arm.subscription()
    for path in ("/orders", "/orders/99999", "/status/500", "/orders"):
        await gateway.get(path, headers=with_key(key))
    await gateway.get("/orders")
    counted = (await gateway.get("/_sandbox/calls", params={"sid": "sub-1"})).json()
    assert counted["total"] == 4
    assert counted["by_class"] == {"2xx": 2, "4xx": 1, "5xx": 1}
    assert counted["by_status"] == {"200": 2, "404": 1, "500": 1}
    everybody = (await gateway.get("/_sandbox/calls")).json()
    assert (everybody["total"], everybody["by_sid"][""]["total"]) == (5, 1)
    nothing = (await gateway.get("/_sandbox/calls", params={"sid": "sub-1", "to": "2020-01-01T00:00:00Z"})).json()
    assert nothing["total"] == 0
    assert (await gateway.get("/_sandbox/calls", params={"from": "yesterday"})).status_code == 400


async def test_the_policy_of_the_readme_writes_the_record_the_collector_reads(
    start: Callable[..., Any], client_for: Callable[..., Any], arm_for: Any
) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    async with start(kafka_bootstrap_servers="127.0.0.1:1") as sandbox, client_for(sandbox) as client:
        arm = arm_for(client)
        await arm.product()
        await arm.logger()
        await arm.policy(readme.split("```xml\n")[1].split("```")[0])
        key = await arm.subscription()
        async with httpx.AsyncClient(base_url=sandbox.gateway_url, headers=with_key(key)) as gateway:
            answer = await gateway.post("/orders", json={"item": "tea"})
        record = json.loads(sandbox.journal.take()[0][3])
    assert {record.pop(name) is not None for name in ("id", "time")} == {True}
    assert record == {
        "v": 1,
        "sid": "sub-1",
        "product": "pro",
        "api": "orders",
        "operation": "create-order",
        "method": "POST",
        "template": "/orders",
        "status": 201,
        "requestBytes": 14,
        "responseBytes": len(answer.content),
    }


async def test_what_no_operation_matches_is_not_found(arm: Any, gateway: httpx.AsyncClient) -> None:
    await arm.product()
    key = await arm.subscription()
    answer = await gateway.get("/nothing/here", headers=with_key(key))
    assert (answer.status_code, answer.text) == (404, '{ "statusCode": 404, "message": "Resource not found" }')
    assert (await gateway.put("/orders/7", headers=with_key(key))).status_code == 404


async def test_a_configured_backend_is_called_and_an_absent_one_is_a_500(arm: Any, gateway: httpx.AsyncClient, sandbox: Any) -> None:
    api = {"properties": {"displayName": "Self", "path": "self", "serviceUrl": sandbox.portal_url, "subscriptionRequired": False}}
    await (await arm.client.api.begin_create_or_update(*arm.at, "self", api)).result()
    operation = {"properties": {"displayName": "Live", "method": "GET", "urlTemplate": "/health/live"}}
    await arm.client.api_operation.create_or_update(*arm.at, "self", "live", operation)
    assert (await gateway.get("/self/health/live")).json() == {"status": "live"}
    await arm.client.api.update(*arm.at, "self", "*", {"properties": {"serviceUrl": "http://127.0.0.1:1"}})
    broken = await gateway.get("/self/health/live")
    assert broken.status_code == 500
    assert broken.json()["message"] == "Internal server error"


@pytest.mark.parametrize(("seconds", "shown"), [(1802, "00:30:02"), (1_235_636, "14.07:13:56"), (86_400, "1.00:00:00")])
def test_waiting_times_are_shown_as_dotnet_does(seconds: int, shown: str) -> None:
    assert time_span(seconds) == shown


async def test_the_sample_api_can_be_asked_to_create_and_to_fail(arm: Any, gateway: httpx.AsyncClient) -> None:
    await arm.product()
    gateway.headers.update(with_key(await arm.subscription()))
    created = await gateway.post("/orders", json={"item": "tea", "quantity": 3})
    assert (created.status_code, created.json()["item"]) == (201, "tea")
    address = f"/orders/{created.json()['id']}"
    assert [(await gateway.delete(address)).status_code for _ in range(2)] == [204, 404]
    assert (await gateway.post("/orders", content=b"{")).status_code == 400
    assert (await gateway.get("/status/418")).status_code == 418


async def test_a_body_that_is_too_large_is_refused(gateway: httpx.AsyncClient) -> None:
    assert (await gateway.post("/orders", content=b"x" * 1_048_577)).status_code == 413
