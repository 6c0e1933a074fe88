"""The developer portal as a browser sees it."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from azure.mgmt.apimanagement.models import UserTokenParameters

from sandbox_apim.signin import SIGNED_FIELDS, delegation_signature

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="
DELEGATION = {
    "properties": {
        "url": "http://127.0.0.1:9/apim-delegation",
        "validationKey": KEY,
        "subscriptions": {"enabled": True},
        "userRegistration": {"enabled": True},
    }
}


async def sign_in(arm: Any, portal: httpx.AsyncClient, user: str = "user-1") -> None:
    await arm.user(user)
    await arm.client.delegation_settings.create_or_update(*arm.at, DELEGATION)
    expiry = datetime.now(UTC) + timedelta(minutes=5)
    token = await arm.client.user.get_shared_access_token(*arm.at, user, UserTokenParameters(key_type="primary", expiry=expiry))
    assert (await portal.get("/signin-sso", params={"token": token.value})).status_code == 302


def checked(answer: httpx.Response, operation: str) -> dict[str, str]:
    """Return the parameters of a delegation redirect after checking its signature."""
    assert answer.status_code == 302
    assert answer.headers["location"].startswith("http://127.0.0.1:9/apim-delegation?")
    query = {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["location"]).query).items()}
    values = [query[field] for field in SIGNED_FIELDS[operation]]
    assert query["operation"] == operation
    assert query["sig"] == delegation_signature(KEY, query["salt"], *values)
    return query


@pytest.mark.parametrize(("path", "operation"), [("/signin", "SignIn"), ("/signup", "SignUp")])
async def test_signing_up_and_in_happen_at_the_delegates_site(arm: Any, portal: httpx.AsyncClient, path: str, operation: str) -> None:
    await arm.client.delegation_settings.create_or_update(*arm.at, DELEGATION)
    assert checked(await portal.get(path), operation)["returnUrl"] == "/"


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("/change-password", "ChangePassword"),
        ("/delegation-changeProfile", "ChangeProfile"),
        ("/delegation-closeAccount", "CloseAccount"),
        ("/signout", "SignOut"),
    ],
)
async def test_a_signed_in_user_is_named_in_the_redirect(arm: Any, portal: httpx.AsyncClient, path: str, operation: str) -> None:
    await sign_in(arm, portal)
    assert checked(await portal.get(path), operation)["userId"] == "user-1"


async def test_signing_out_ends_the_session(arm: Any, portal: httpx.AsyncClient) -> None:
    await sign_in(arm, portal)
    cookie = portal.cookies["apim_portal_session"]
    await portal.get("/signout")
    assert "apim_portal_session" not in portal.cookies
    portal.cookies.set("apim_portal_session", cookie)
    assert (await portal.get("/profile")).status_code == 401


async def test_subscribing_names_product_and_user_and_needs_a_session(arm: Any, portal: httpx.AsyncClient) -> None:
    await arm.product(subscriptionsLimit=1)
    assert (await portal.get("/delegation-subscribe?productId=pro")).headers["location"] == "/signin"
    await sign_in(arm, portal)
    assert "/delegation-subscribe?productId=pro" in (await portal.get("/products/pro")).text
    query = checked(await portal.get("/delegation-subscribe?productId=pro"), "Subscribe")
    assert (query["productId"], query["userId"]) == ("pro", "user-1")
    await arm.subscription(ownerId="/users/user-1")
    assert (await portal.get("/delegation-subscribe?productId=pro")).status_code == 409


async def test_cancelling_is_only_for_the_owner(arm: Any, portal: httpx.AsyncClient) -> None:
    await sign_in(arm, portal)
    await arm.user("user-2")
    await arm.product()
    await arm.subscription("mine", ownerId="/users/user-1")
    await arm.subscription("theirs", ownerId="/users/user-2")
    assert checked(await portal.get("/delegation-unsubscribe?subscriptionId=mine"), "Unsubscribe")["subscriptionId"] == "mine"
    assert (await portal.get("/delegation-unsubscribe?subscriptionId=theirs")).status_code == 404
    assert (await portal.post("/profile/subscriptions/theirs/keys")).status_code == 404


async def test_keys_are_shown_by_post_only_and_never_cached(arm: Any, portal: httpx.AsyncClient) -> None:
    await sign_in(arm, portal)
    await arm.product()
    key = await arm.subscription(ownerId="/users/user-1")
    assert key not in (await portal.get("/profile")).text
    shown = await portal.post("/profile/subscriptions/sub-1/keys")
    assert key in shown.text
    assert shown.headers["cache-control"] == "no-store"
    assert (await portal.get("/profile/subscriptions/sub-1/keys")).status_code == 405


async def test_another_site_cannot_ask_for_keys(arm: Any, portal: httpx.AsyncClient) -> None:
    await sign_in(arm, portal)
    await arm.product()
    key = await arm.subscription(ownerId="/users/user-1")
    for headers in ({"sec-fetch-site": "same-site"}, {"origin": "https://evil.example"}):
        refused = await portal.post("/profile/subscriptions/sub-1/keys", headers=headers)
        assert refused.status_code == 403
        assert key not in refused.text


async def test_a_visitor_sees_the_products_of_the_groups_he_is_in(arm: Any, portal: httpx.AsyncClient) -> None:
    await arm.product("pro")
    await arm.product("hidden", state="notPublished")
    await arm.client.product.create_or_update(*arm.at, "unlinked", {"properties": {"displayName": "Unlinked", "state": "published"}})
    assert (await portal.get("/products/pro")).status_code == 404
    await sign_in(arm, portal)
    listed = (await portal.get("/products")).text
    assert "/products/pro" in listed
    assert "/products/hidden" not in listed
    assert "/products/unlinked" not in listed
    group = {"properties": {"displayName": "Partners"}}
    await arm.client.group.create_or_update(*arm.at, "partners", group)
    await arm.client.product_group.create_or_update(*arm.at, "unlinked", "partners")
    await arm.client.group_user.create(*arm.at, "partners", "user-1")
    assert "/products/unlinked" in (await portal.get("/products")).text


async def test_without_delegation_the_portal_says_what_is_missing(portal: httpx.AsyncClient) -> None:
    answer = await portal.get("/signin")
    assert answer.status_code == 503
    assert "Delegation is not configured" in answer.text


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "/\\evil.example"])
async def test_signing_in_never_leads_to_another_site(arm: Any, portal: httpx.AsyncClient, target: str) -> None:
    await arm.user()
    sso = (await arm.client.user.generate_sso_url(*arm.at, "user-1")).value
    answer = await portal.get(sso, params={**{k: v[0] for k, v in parse_qs(urlsplit(sso).query).items()}, "returnUrl": target})
    assert (answer.status_code, answer.headers["location"]) == (302, "/")


async def test_a_forged_token_or_a_blocked_user_does_not_sign_in(arm: Any, portal: httpx.AsyncClient) -> None:
    assert (await portal.get("/signin-sso", params={"token": "user-1&209901010000&" + "A" * 86 + "=="})).status_code == 401
    assert (await portal.get("/signin-sso")).status_code == 401
    await sign_in(arm, portal)
    await arm.client.user.update(*arm.at, "user-1", "*", {"properties": {"state": "blocked"}})
    assert (await portal.get("/profile")).status_code == 401


async def test_pages_carry_the_strict_policy_and_no_inline_style(arm: Any, portal: httpx.AsyncClient) -> None:
    await sign_in(arm, portal)
    await arm.product()
    await arm.subscription(ownerId="/users/user-1")
    for path in ("/", "/products", "/products/pro", "/profile", "/nowhere"):
        page = await portal.get(path)
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert "style=" not in page.text
        assert "<style" not in page.text


async def test_the_doors_stand_on_the_portals_port_as_well(portal: httpx.AsyncClient) -> None:
    status = (await portal.get("/_sandbox/status")).json()
    assert (status["service"], status["settled"], status["next_due"], status["waiting_for"]) == ("sandbox_apim", True, None, [])
    moved = await portal.put("/_sandbox/clock", json={"offset_seconds": 3600})
    assert (moved.status_code, moved.json()["offset_seconds"]) == (200, 3600)
    assert (await portal.put("/_sandbox/clock", json={"offset_seconds": 60})).status_code == 409
    assert (await portal.put("/_sandbox/clock", json={"offset": 60})).status_code == 400
    assert [(await portal.get(path)).status_code for path in ("/health/live", "/health/ready")] == [200, 200]
    assert "sandbox_apim_log_lines_waiting 0.0" in (await portal.get("/metrics")).text
