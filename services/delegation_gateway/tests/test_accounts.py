"""Registering, signing in and out: through the pages, into real tables."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from billing_common.events import AccountRegistered
from billing_common.internal_auth import issue_token
from billing_common.testing import events_in_outbox
from delegation_gateway import accounts_store
from delegation_gateway.app import repair_missing_users
from delegation_gateway.domain import Registration, registration_errors
from delegation_gateway.parts import Parts
from delegation_gateway.signature import make_link

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="
PASSWORD = "four words make one"


def link(operation: str, **values: str) -> str:
    return f"/apim-delegation?{make_link(KEY, operation, 'c2FsdA==', **values)}"


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"first_name": " "}, "first_name", "Enter your first name"),
        ({"last_name": "x" * 101}, "last_name", "at most 100"),
        ({"first_name": "a\nb"}, "first_name", "on one line"),
        ({"email": ""}, "email", "Enter your e-mail address"),
        ({"email": "ada"}, "email", "like name@example.com"),
        ({"email": "ada@host"}, "email", "like name@example.com"),
        ({"email": "a@b.c"}, "email", "like name@example.com"),
        ({"email": "ada@exa mple.com"}, "email", "like name@example.com"),
        ({"email": "ada@example.com\nbcc: x@y.zz"}, "email", "like name@example.com"),
        ({"email": "a" * 250 + "@example.com"}, "email", "like name@example.com"),
        ({"password": "short"}, "password", "at least 10"),
        ({"password": "x" * 201}, "password", "at most 200"),
        ({"password": "ADA@example.com"}, "password", "not your e-mail"),
    ],
)
def test_each_wrong_field_is_named_with_what_to_do(changes: dict[str, str], field: str, words: str) -> None:
    good = {"first_name": "Ada", "last_name": "Byron", "email": "ada@example.com", "password": PASSWORD}
    assert registration_errors(Registration(**good)) == {}
    errors = registration_errors(Registration(**(good | changes)))
    assert list(errors) == [field]
    assert words in errors[field]


async def test_signing_up_from_the_portal_leads_back_there_signed_in(browser: Any, connection: asyncpg.Connection, apim: Any) -> None:
    page = await browser.get(link("SignUp", returnUrl="/products?a=1&b=2"))
    given = {"first_name": "Ada", "last_name": "Byron", "email": "Ada@Example.com", "password": PASSWORD}
    answer = await browser.submit(page, "/register", **(given | {"return_url": "/products?a=1&b=2"}))
    member = await connection.fetchrow("select * from members")
    assert answer.status_code == 303
    token = f"{member['user_id']}%26202601020304%26a%2Bb%2Fc%3D%3D"
    assert answer.headers["location"] == f"http://portal.test/signin-sso?token={token}&returnUrl=%2Fproducts%3Fa%3D1%26b%3D2"
    assert apim.users == {member["user_id"]: "Ada Byron <Ada@Example.com>"}
    assert (member["apim_state"], member["password_hash"][:9]) == ("created", "$argon2id")
    [event] = await events_in_outbox(connection, AccountRegistered)
    assert (event.account_id, event.user_id) == (member["account_id"], member["user_id"])
    assert "example" not in event.model_dump_json().lower()
    assert (await browser.get("/subscriptions")).status_code == 200


async def test_the_same_form_sent_twice_makes_one_account(browser: Any, connection: asyncpg.Connection) -> None:
    page = await browser.get("/register")
    fields = {"first_name": "Ada", "last_name": "Byron", "email": "ada@example.com", "password": PASSWORD}
    answers = [await browser.submit(page, "/register", **fields) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 303]
    assert await connection.fetchval("select count(*) from members") == 1
    assert len(await events_in_outbox(connection, AccountRegistered)) == 1


async def test_an_address_that_is_taken_is_refused_whatever_its_letters(
    browser: Any, other_browser: Any, connection: asyncpg.Connection
) -> None:
    await browser.register()
    answer = await other_browser.register("ADA@example.com")
    assert answer.status_code == 422
    assert "Sign in instead" in answer.text
    assert await connection.fetchval("select count(*) from accounts") == 1


async def test_a_wrong_form_comes_back_with_what_was_typed_but_never_the_password(browser: Any) -> None:
    answer = await browser.register("nobody", password="my secret words")
    assert answer.status_code == 422
    assert "<title>Error: Create an account" in answer.text
    assert 'value="nobody"' in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert "my secret words" not in answer.text


async def test_an_account_stays_when_the_portal_does_not_answer_and_its_user_is_made_later(
    browser: Any, connection: asyncpg.Connection, apim: Any, parts: Parts
) -> None:
    apim.fails = True
    page = await browser.get(link("SignUp", returnUrl="/"))
    answer = await browser.submit(page, "/register", first_name="Ada", last_name="Byron", email="ada@example.com", password=PASSWORD)
    assert answer.status_code == 503
    assert await connection.fetchval("select apim_state from members") == "intended"
    assert (await browser.get("/subscriptions")).status_code == 200
    apim.fails = False
    assert await repair_missing_users(parts, before=datetime.now(UTC) + timedelta(seconds=1)) == 1
    assert await connection.fetchval("select apim_state from members") == "created"
    assert await repair_missing_users(parts, before=datetime.now(UTC) + timedelta(seconds=1)) == 0


async def test_an_address_that_the_portal_refuses_gets_a_page_that_says_so(browser: Any, apim: Any) -> None:
    apim.refuses = True
    page = await browser.get(link("SignUp", returnUrl="/"))
    answer = await browser.submit(page, "/register", first_name="Ada", last_name="Byron", email="ada@example.com", password=PASSWORD)
    assert answer.status_code == 409
    assert "will not take this account" in answer.text


async def test_a_sign_in_link_works_again_and_again(member: Any) -> None:
    member.browser.client.cookies.clear()
    for _ in range(2):
        page = await member.browser.get(link("SignIn", returnUrl="/profile"))
        answer = await member.browser.submit(page, "/sign-in", email="ADA@example.com", password=PASSWORD)
        assert answer.headers["location"].startswith("http://portal.test/signin-sso?token=")
        member.browser.client.cookies.clear()


async def test_unknown_address_and_wrong_password_get_the_same_answer(member: Any) -> None:
    member.browser.client.cookies.clear()
    wrong = await member.browser.post("/sign-in", email="ada@example.com", password="not the password")
    unknown = await member.browser.post("/sign-in", email="eda@example.com", password="not the password")
    assert wrong.status_code == unknown.status_code == 422
    assert wrong.text.replace("ada@", "eda@") == unknown.text


async def test_too_many_wrong_passwords_lock_the_address_for_a_while_even_with_the_right_one(member: Any) -> None:
    member.browser.client.cookies.clear()
    for _ in range(3):
        await member.browser.post("/sign-in", email="ada@example.com", password="not the password")
    answer = await member.browser.post("/sign-in", email="ada@example.com", password=PASSWORD)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "900"


async def test_signing_in_leads_to_the_page_that_was_asked_for_and_never_to_another_site(member: Any) -> None:
    member.browser.client.cookies.clear()
    asked = await member.browser.get("/subscriptions/abc?x=1")
    assert asked.headers["location"] == "/sign-in?next=%2Fsubscriptions%2Fabc%3Fx%3D1"
    page = await member.browser.get(asked.headers["location"])
    answer = await member.browser.submit(page, "/sign-in", email="ada@example.com", password=PASSWORD)
    assert answer.headers["location"] == "/subscriptions/abc?x=1"
    away = await member.browser.post("/sign-in", email="ada@example.com", password=PASSWORD, next="//evil.example")
    assert away.headers["location"] == "/"


async def test_the_cookie_is_closed_to_scripts_and_holds_a_token_that_is_stored_as_a_hash(
    browser: Any, connection: asyncpg.Connection
) -> None:
    answer = await browser.register()
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    token = browser.client.cookies["session"]
    assert token.encode() not in await connection.fetchval("select token_hash from sessions")


async def test_an_expired_session_is_nobody(member: Any, connection: asyncpg.Connection) -> None:
    await connection.execute("update sessions set expires_at = now() - interval '1 second'")
    assert (await member.browser.get("/subscriptions")).status_code == 303


async def test_signing_out_ends_the_session_and_needs_the_form_of_this_session(member: Any, stranger: Any) -> None:
    page = await stranger.browser.get("/subscriptions")
    foreign = page.text.split('name="form_token" value="')[1].split('"')[0]
    assert (await member.browser.post("/sign-out", form_token=foreign)).status_code == 403
    own = await member.browser.get("/subscriptions")
    token = member.browser.client.cookies["session"]
    assert (await member.browser.submit(own, "/sign-out")).status_code == 303
    member.browser.client.cookies.set("session", token)
    assert (await member.browser.get("/subscriptions")).status_code == 303


async def test_signing_out_in_the_portal_asks_first_and_then_leads_back(member: Any) -> None:
    page = await member.browser.get(link("SignOut", userId=member.user_id))
    assert page.status_code == 200
    assert (await member.browser.get("/subscriptions")).status_code == 200
    answer = await member.browser.submit(page, "/apim-delegation")
    assert answer.headers["location"] == "http://portal.test"
    assert (await member.browser.get("/subscriptions")).status_code == 303
    assert (await member.browser.get(link("SignOut", userId=member.user_id))).headers["location"] == "http://portal.test"


@pytest.mark.parametrize("operation", ["ChangePassword", "ChangeProfile", "CloseAccount"])
async def test_what_is_not_offered_yet_is_a_page_for_the_member_and_refused_for_others(operation: str, member: Any, stranger: Any) -> None:
    page = await member.browser.get(link(operation, userId=member.user_id))
    assert page.status_code == 501
    assert "Ask your API provider" in page.text or "ask your API provider" in page.text
    assert (await stranger.browser.get(link(operation, userId=member.user_id))).status_code == 403


async def test_a_forged_or_broken_link_is_a_page_with_a_way_back(browser: Any) -> None:
    forged = await browser.get(link("SignIn", returnUrl="/").replace("returnUrl=%2F", "returnUrl=%2Fx"))
    broken = await browser.get("/apim-delegation?operation=SignIn")
    assert (forged.status_code, broken.status_code) == (403, 400)
    for page in (forged, broken):
        assert 'href="http://portal.test"' in page.text


@pytest.mark.parametrize("path", ["/sign-in", "/register"])
@pytest.mark.parametrize("field", ["email", "registration_id"])
async def test_a_zero_byte_in_a_form_is_refused_and_no_failure_of_ours(path: str, field: str, browser: Any) -> None:
    given = {"first_name": "Ada", "last_name": "Byron", "email": "ada@example.com", "password": PASSWORD, field: "a\0b@example.com"}
    answer = await browser.post(path, **given)
    assert 400 <= answer.status_code < 500
    assert "text/html" in answer.headers["content-type"]


async def test_without_its_database_a_page_says_that_nothing_was_lost(browser: Any, apps: tuple[FastAPI, FastAPI]) -> None:
    class Away:
        def acquire(self) -> None:
            raise ConnectionRefusedError

    apps[0].state.parts = replace(apps[0].state.parts, pool=Away())
    for page in (await browser.get("/pricing"), await browser.get("/sign-in")):
        assert page.status_code == 503
        assert "Nothing was lost" in page.text


async def test_the_internal_door_tells_the_contact_only_to_who_may_know(member: Any, apps: tuple[FastAPI, FastAPI]) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(apps[1]), base_url="http://internal.test") as client:
        address = f"/v1/accounts/{member.account_id}/contact"
        tokens = {scope: issue_token(["k" * 32], caller="test", scopes=[scope]) for scope in ("accounts:read", "status:read")}
        allowed = await client.get(address, headers={"Authorization": f"Bearer {tokens['accounts:read']}"})
        assert allowed.json() == {
            "account_id": member.account_id,
            "user_id": member.user_id,
            "email": "ada@example.com",
            "name": "Ada Byron",
        }
        assert (await client.get(address, headers={"Authorization": f"Bearer {tokens['status:read']}"})).status_code == 403
        assert (await client.get(address)).status_code == 401
        unknown = await client.get("/v1/accounts/nobody/contact", headers={"Authorization": f"Bearer {tokens['accounts:read']}"})
        assert unknown.status_code == 404


async def test_an_account_whose_address_was_taken_in_the_same_moment_leaves_nothing(connection: asyncpg.Connection) -> None:
    asked = Registration("Ada", "Byron", "ada@example.com", PASSWORD)
    added = [
        await accounts_store.add_account(
            connection, asked, account_id=f"a-{n}", user_id=f"u-{n}", registration_id=f"r-{n}", password_hash="x", at=datetime.now(UTC)
        )
        for n in (1, 2)
    ]
    assert added == [True, False]
    assert await connection.fetchval("select array_agg(account_id) from accounts") == ["a-1"]
