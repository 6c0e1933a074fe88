"""What every management call obeys: version, token, ETags, filters, paging, throttling, faults, bad input."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.mgmt.apimanagement import models
from pydantic import SecretStr

from sandbox_apim.arm.errors import ArmError
from sandbox_apim.arm.http import Throttle


def with_etag(_response: object, model: Any, headers: dict[str, str]) -> tuple[Any, str]:
    return model, headers["ETag"]


async def test_a_call_without_a_version_is_refused(raw_arm: httpx.AsyncClient) -> None:
    answer = await raw_arm.get("/products", params={"api-version": ""})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "MissingApiVersionParameter")


async def test_a_wrong_token_is_refused(start: Callable[..., Any], client_for: Callable[..., Any], raw_arm: httpx.AsyncClient) -> None:
    answer = await raw_arm.get("/products", headers={"authorization": "Bearer wrong"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "InvalidAuthenticationToken")
    assert answer.headers["www-authenticate"].startswith("Bearer ")


async def test_another_token_can_be_set(start: Callable[..., Any], client_for: Callable[..., Any]) -> None:
    async with start(arm_token=SecretStr("mine")) as sandbox, client_for(sandbox) as client:
        with pytest.raises(ClientAuthenticationError):
            await client.product.get("g", "s", "pro")


async def test_names_can_be_fixed_and_are_then_checked(start: Callable[..., Any], client_for: Callable[..., Any]) -> None:
    async with start(arm_resource_group="Mine", arm_service_name="apim") as sandbox, client_for(sandbox) as client:
        assert (await client.api_management_service.get("mine", "APIM")).name == "APIM"
        with pytest.raises(ResourceNotFoundError) as caught:
            await client.api_management_service.get("other", "apim")
        assert caught.value.error.code == "ResourceGroupNotFound"
        with pytest.raises(ResourceNotFoundError):
            await client.api_management_service.get("mine", "other")


async def test_a_stale_etag_is_refused_and_the_current_one_taken(arm: Any) -> None:
    await arm.product()
    await arm.subscription()
    subscriptions = arm.client.subscription
    model, etag = await subscriptions.get(*arm.at, "sub-1", cls=with_etag)
    assert (etag[0], etag[-1], model.state) == ('"', '"', "active")
    change = models.SubscriptionUpdateParameters(state="suspended")
    _, fresh = await subscriptions.update(*arm.at, "sub-1", etag, change, cls=with_etag)
    assert fresh != etag
    with pytest.raises(HttpResponseError) as caught:
        await subscriptions.update(*arm.at, "sub-1", etag, models.SubscriptionUpdateParameters(state="active"))
    assert (caught.value.status_code, caught.value.error.code) == (412, "PreconditionFailed")
    with pytest.raises(HttpResponseError):
        await subscriptions.delete(*arm.at, "sub-1", etag)
    assert (await subscriptions.get(*arm.at, "sub-1")).state == "suspended"
    _, listed = await subscriptions.list_secrets(*arm.at, "sub-1", cls=with_etag)
    assert listed == fresh
    await subscriptions.delete(*arm.at, "sub-1", fresh)


async def test_if_match_on_something_new_is_refused_and_a_star_is_not_for_put(raw_arm: httpx.AsyncClient) -> None:
    body = {"properties": {"displayName": "Pro"}}
    assert (await raw_arm.put("/products/pro", json=body, headers={"if-match": '"AAAA"'})).status_code == 412
    assert (await raw_arm.put("/products/pro", json=body, headers={"if-match": "*"})).status_code == 201
    assert (await raw_arm.put("/products/pro", json=body)).status_code == 200
    assert (await raw_arm.patch("/products/pro", json=body)).status_code == 400
    assert (await raw_arm.delete("/products/pro")).status_code == 400


async def test_what_does_not_exist_is_an_arm_error_and_deleting_it_is_not(arm: Any, raw_arm: httpx.AsyncClient) -> None:
    for method, path in (("GET", "/users/x"), ("PATCH", "/users/x"), ("POST", "/users/x/token"), ("GET", "/products/x/apis")):
        answer = await raw_arm.request(method, path, json={"properties": {}}, headers={"if-match": "*"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "ResourceNotFound"), path
    assert (await raw_arm.head("/users/x")).status_code == 404
    assert (await raw_arm.delete("/users/x", headers={"if-match": "*"})).status_code == 204
    assert (await raw_arm.get("/workspaces")).status_code == 404
    assert (await raw_arm.post("/products")).status_code == 405


async def test_lists_are_paged_and_the_client_follows(arm: Any, raw_arm: httpx.AsyncClient) -> None:
    await arm.product()
    for number in range(5):
        await arm.subscription(f"sub-{number}")
    pages = arm.client.subscription.list(*arm.at, top=2).by_page()
    sizes = [len([one async for one in page]) async for page in pages]
    assert sizes == [2, 2, 2]  # five and the built-in one
    names = [one.name async for one in arm.client.subscription.list(*arm.at, top=4, skip=1)]
    assert names == ["sub-0", "sub-1", "sub-2", "sub-3", "sub-4"]
    first = (await raw_arm.get("/subscriptions", params={"$top": 2})).json()
    assert (first["count"], len(first["value"])) == (6, 2)
    assert first["nextLink"].startswith("https://127.0.0.1:")
    assert (await raw_arm.get("/users", params={"$top": 100})).json()["nextLink"] == ""
    for wrong in ({"$top": 0}, {"$top": "x"}, {"$skip": -1}):
        assert (await raw_arm.get("/users", params=wrong)).status_code == 400


async def test_more_than_a_page_is_found_without_asking_for_a_size(arm: Any, sandbox: Any) -> None:
    for number in range(105):
        sandbox.store.put(f"groups/g{number}", {"displayName": f"g{number}", "builtIn": False})
    assert len([one async for one in arm.client.group.list_by_service(*arm.at)]) == 108


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("state eq 'active'", ["master", "sub-1"]),
        ("ownerId eq '/users/user-1'", ["sub-1"]),
        ("userId eq 'user-1' and state eq 'active'", ["sub-1"]),
        ("productId eq 'pro'", ["sub-1", "sub-2"]),
        ("endswith(scope,'/products/pro')", ["sub-1", "sub-2"]),
        ("contains(displayName, 'o''b')", ["sub-2"]),
        ("startswith(name,'SUB')", ["sub-1", "sub-2"]),
        ("substringof('ub-2', name)", ["sub-2"]),
        ("name ge 'sub-2'", ["sub-2"]),
        ("name ne 'sub-2' and name gt 'n'", ["sub-1"]),
        ("(name eq 'sub-1')", ["sub-1"]),
    ],
)
async def test_a_filter_finds_what_it_says(arm: Any, text: str, names: list[str]) -> None:
    await arm.user()
    await arm.product()
    await arm.subscription("sub-1", ownerId="/users/user-1")
    await arm.subscription("sub-2", displayName="o'b", state="suspended")
    assert [one.name async for one in arm.client.subscription.list(*arm.at, filter=text)] == names


@pytest.mark.parametrize("text", ["state", "state eq", "color eq 'red'", "state ne 'active'", "name eq 'a' or name eq 'b'", "x" * 5000])
async def test_a_wrong_filter_is_refused(arm: Any, text: str) -> None:
    with pytest.raises(HttpResponseError) as caught:
        [one async for one in arm.client.subscription.list(*arm.at, filter=text)]
    assert (caught.value.status_code, caught.value.error.details[0].target) == (400, "$filter")


async def test_users_are_filtered_by_the_time_they_registered(arm: Any) -> None:
    await arm.user()
    late = [one.name async for one in arm.client.user.list_by_service(*arm.at, filter="registrationDate gt datetime'2020-01-01T00:00:00'")]
    early = [one.name async for one in arm.client.user.list_by_service(*arm.at, filter="registrationDate le datetime'2020-01-01T00:00:00'")]
    assert (late, early) == (["1", "user-1"], [])


async def test_ids_may_hold_encoded_signs_but_never_lead_elsewhere(arm: Any, sandbox: Any) -> None:
    await arm.user("a@b.c")
    assert (await arm.client.user.get(*arm.at, "A@B.C")).name == "a@b.c"
    for name in ("..", "."):
        with pytest.raises(HttpResponseError) as caught:
            await arm.client.subscription.delete(*arm.at, name, "*")
        assert caught.value.status_code in {400, 405}
    assert sandbox.store.get("subscriptions/master") is not None


def test_reads_are_throttled_when_asked_for() -> None:
    throttle = Throttle(enforced=True)
    left = [int(throttle.take("GET")["x-ms-ratelimit-remaining-subscription-reads"]) for _ in range(250)]
    assert left[0] == 249
    with pytest.raises(ArmError) as caught:
        _take(throttle, 200)
    assert caught.value.status == 429
    assert int(caught.value.headers["Retry-After"]) >= 1
    assert throttle.take("PUT")["x-ms-ratelimit-remaining-subscription-writes"] == "199"


def _take(throttle: Throttle, times: int) -> None:
    for _ in range(times):
        throttle.take("HEAD")


async def test_a_fault_script_ends_the_next_calls_and_the_client_tries_again(
    sandbox: Any, client_for: Callable[..., Any], portal: httpx.AsyncClient
) -> None:
    script = {"match": {"method": "GET", "path_prefix": "/users"}, "kind": "status", "status": 429, "retry_after": 1, "times": 1}
    assert (await portal.post("/_sandbox/faults", json=script)).status_code == 201
    async with client_for(sandbox, retry_total=3) as client:
        assert (await client.user.get("g", "s", "1")).name == "1"
    assert (await portal.get("/_sandbox/faults")).json() == {"faults": []}
    assert (await portal.post("/_sandbox/faults", json=script | {"status": 412, "retry_after": None, "times": 2})).status_code == 201
    async with client_for(sandbox) as client:
        assert [group.name async for group in client.group.list_by_service("g", "s")]
        with pytest.raises(HttpResponseError) as caught:
            await client.user.get("g", "s", "1")
        assert caught.value.status_code == 412
    assert (await portal.post("/_sandbox/faults", json={"status": 200})).status_code == 400
    await portal.delete("/_sandbox/faults")
    assert (await portal.get("/_sandbox/faults")).json() == {"faults": []}


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"properties": 7}', b"\xff", b"[" * 100_000, b"null"])
async def test_a_broken_body_is_a_400(raw_arm: httpx.AsyncClient, body: bytes) -> None:
    answer = await raw_arm.put("/products/pro", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] in {"ValidationError", "InvalidRequestContent"}


async def test_a_body_that_is_too_large_is_refused(raw_arm: httpx.AsyncClient) -> None:
    assert (await raw_arm.put("/products/pro", content=b"x" * 1_048_577)).status_code == 413
