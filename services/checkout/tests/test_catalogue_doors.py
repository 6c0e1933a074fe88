"""Plan, apply and quote through the doors, against both sandboxes."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import httpx
import pytest
import stripe

from billing_common.catalogue import Catalogue
from billing_common.events import CatalogueApplied
from billing_common.testing import events_in_outbox
from checkout import store_catalogue
from checkout.apim_gateway import ApimUnavailableError
from checkout.applying import Outside
from checkout.store_catalogue import Version

TEXT = (Path(__file__).parents[3] / "monetizationModels.json").read_text()
Topics = Callable[[], Awaitable[list[str]]]


async def test_applying_puts_the_seven_products_into_apim_and_stripe(
    door: httpx.AsyncClient, stripe_api: stripe.StripeClient, outside: Outside, pool: asyncpg.Pool
) -> None:
    answer = (await door.post("/v1/catalogue/apply", content=TEXT)).json()
    assert answer["version"] == 1
    assert answer["remaining"] == []
    prices = await stripe_api.v1.prices.list_async({"limit": 100, "active": True})
    by_key = {price.lookup_key.rsplit(":", 1)[0]: price for price in prices.data if price.lookup_key}
    assert set(by_key) == {
        "turnpike:developer:usage:calls:usd",
        "turnpike:payg:usage:calls:usd",
        "turnpike:basic:base:usd",
        "turnpike:standard:base:usd",
        "turnpike:standard:usage:calls:usd",
        "turnpike:pro:base:usd",
        "turnpike:pro:usage:calls:usd",
        "turnpike:enterprise:unit:usd",
    }
    seen = [await outside.apim.read_product(product.id) for product in Catalogue.parse(TEXT).products]
    assert all(product and product.published and product.apis == {"orders"} and "developers" in product.groups for product in seen)
    async with pool.acquire() as connection:
        event = (await events_in_outbox(connection, CatalogueApplied))[0]
    ids = event.stripe_ids["standard"]
    assert ids["prices"]["base"] == by_key["turnpike:standard:base:usd"].id
    assert ids["meters"]["calls"]["event_name"] == "turnpike_standard_calls"
    assert event.stripe_ids.keys() == {"free", "developer", "payg", "basic", "standard", "pro", "enterprise"}
    assert event.stripe_ids["free"] == {"product": "turnpike_free", "prices": {}, "prices_by_currency": {}, "meters": {}}


async def test_applying_the_same_again_changes_nothing_and_publishes_nothing(
    applied: Version, door: httpx.AsyncClient, outbox: Topics
) -> None:
    before = await outbox()
    plan = (await door.post("/v1/catalogue/plan", content=TEXT)).json()
    assert (plan["changes"], plan["steps"]) == (False, [])
    again = (await door.post("/v1/catalogue/apply", content=TEXT)).json()
    assert (again["version"], again["new_version"], again["done"]) == (1, False, [])
    assert await outbox() == before == []


async def test_a_new_price_replaces_the_old_one_which_is_archived_and_back_again(
    applied: Version, door: httpx.AsyncClient, stripe_api: stripe.StripeClient
) -> None:
    async def active() -> list[str]:
        product = {"product": "turnpike_payg", "active": True, "limit": 10}
        return [str(price.unit_amount_decimal) for price in (await stripe_api.v1.prices.list_async(product)).data]  # type: ignore[arg-type]

    dearer = TEXT.replace('"0.15"', '"0.17"')
    plan = (await door.post("/v1/catalogue/plan", content=dearer)).json()
    assert [(step["action"], step["kind"]) for step in plan["steps"]] == [("create", "price"), ("archive", "price")]
    answer = (await door.post(f"/v1/catalogue/apply?plan={plan['plan']}", content=dearer)).json()
    assert (answer["version"], await active()) == (2, ["0.17"])
    back = (await door.post("/v1/catalogue/apply", content=TEXT)).json()
    assert [step["action"] for step in back["steps"]] == ["reactivate", "archive"]
    assert (back["version"], await active()) == (3, ["0.15"])
    assert (await door.get("/v1/catalogue", params={"version": 2**31})).status_code == 422
    history = (await door.get("/v1/catalogue")).json()["history"]
    assert [entry["version"] for entry in history] == [3, 2, 1]


async def test_an_apply_refuses_when_the_world_moved_since_the_plan(applied: Version, door: httpx.AsyncClient) -> None:
    answer = await door.post("/v1/catalogue/apply?plan=0123456789abcdef", content=TEXT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "plan_moved")


async def test_a_broken_catalogue_is_refused_with_all_problems_before_anything_is_touched(door: httpx.AsyncClient, outbox: Topics) -> None:
    broken = TEXT.replace('"model": "Metered"', '"model": "Meterd"').replace('"keys": 5', '"keys": 0')
    answer = await door.post("/v1/catalogue/apply", content=broken)
    problems = answer.json()["error"]["problems"]
    assert answer.status_code == 422
    assert [problem["path"] for problem in problems] == ["$.products[2].model", "$.products[5].keys"]
    assert all(problem["line"] > 1 for problem in problems)
    assert await outbox() == []


async def test_an_interrupted_apply_says_what_is_left_and_the_next_one_finishes(
    applied: Version, pool: asyncpg.Pool, outside: Outside, monkeypatch: pytest.MonkeyPatch, door: httpx.AsyncClient
) -> None:
    changed = TEXT.replace("Packages of 1,500,000 calls, as many as you need.", "As many packages as you need.").replace(
        '"calls": 3500', '"calls": 3600'
    )

    async def down(*_: object) -> None:
        raise ApimUnavailableError("HTTP 503")

    with monkeypatch.context() as outage:
        outage.setattr(outside.apim, "put_policy", down)
        stopped = (await door.post("/v1/catalogue/apply", content=changed)).json()["error"]
    assert stopped["code"] == "apply_stopped"
    assert [text.split(" ")[1] for text in stopped["done"]] == ["update", "update"]
    assert len(stopped["remaining"]) == 1
    finished = (await door.post("/v1/catalogue/apply", content=changed)).json()
    assert finished["done"] == stopped["remaining"]
    assert finished["version"] == 2
    states = [row["state"] for row in await pool.fetch("select state from catalogue_apply order by started_at")]
    assert states.count("failed") == 1
    await door.post("/v1/catalogue/apply", content=TEXT)


async def test_two_applies_at_once_do_not_mix(applied: Version, pool: asyncpg.Pool, door: httpx.AsyncClient) -> None:
    async with store_catalogue.apply_lock(pool):
        answer = await door.post("/v1/catalogue/apply", content=TEXT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "apply_running")


async def test_a_product_with_subscribers_cannot_be_removed(applied: Version, pool: asyncpg.Pool, door: httpx.AsyncClient) -> None:
    await pool.execute("insert into account(account_id) values ('a')")
    await pool.execute(
        "insert into subscription values ('s', 'a', 'u', 'pro', 1, 'Name', 'usd', false, 'live', 1, 'active', $1, null, 'sub_x', $1)",
        datetime.now(UTC),
    )
    document = json.loads(TEXT)
    document["products"] = [product for product in document["products"] if product["id"] != "pro"]
    answer = await door.post("/v1/catalogue/plan", content=json.dumps(document))
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "still_subscribed")
    document = json.loads(TEXT.replace('"currency": "usd"', '"currency": "eur"'))
    document["products"] = [product for product in document["products"] if product["id"] != "enterprise"]
    answer = await door.post("/v1/catalogue/plan", content=json.dumps(document))
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "still_subscribed")
    assert "live subscriptions in usd and no price in it" in answer.json()["error"]["message"]


QUOTES = [
    ({"product": "enterprise", "calls": 2_000_000}, 149_990),
    ({"product": "standard", "usage": {"calls": 250_000}}, 23_995),
    ({"product": "standard", "calls": 0, "from": "2026-11-16T00:00:00Z"}, 4498),
    ({"product": "payg", "calls": 12_345}, 1852),
    ({"product": "free", "calls": 50}, 0),
]


@pytest.mark.parametrize(("body", "total"), QUOTES)
async def test_a_quote_has_the_lines_of_the_invoice(known: None, door: httpx.AsyncClient, body: dict[str, object], total: int) -> None:
    answer = (await door.post("/v1/quotes", json=body)).json()
    assert answer["total_minor"] == total == sum(line["amount_minor"] for line in answer["lines"])
    assert answer["currency"] == "usd"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"product": "standart", "calls": 1}, 404, "unknown_product"),
        ({"product": "payg", "usage": {"tokens": 1}}, 422, "cannot_be_priced"),
        ({"product": "payg", "calls": 1, "currency": "eur"}, 422, "cannot_be_priced"),
        ({"product": "payg", "calls": 1, "from": "2026-11-01T00:00:00Z", "to": "2027-01-01T00:00:00Z"}, 422, "outside_period"),
    ],
)
async def test_a_quote_that_makes_no_sense_is_refused(
    known: None, door: httpx.AsyncClient, body: dict[str, object], status: int, code: str
) -> None:
    answer = await door.post("/v1/quotes", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_the_doors_need_a_token_with_the_scope(door: httpx.AsyncClient) -> None:
    assert (await door.post("/v1/catalogue/apply", content=TEXT, headers={"authorization": ""})).status_code == 401
