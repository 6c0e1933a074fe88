"""Plan, apply and quote through the doors, against both sandboxes."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import httpx
import pytest
import stripe

from billing_common import quoting
from billing_common.catalogue import Catalogue
from billing_common.events import CatalogueApplied
from billing_common.testing import events_in_outbox
from checkout import store_catalogue
from checkout.apim_gateway import ApimUnavailableError
from checkout.carrying import Outside
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
    assert (await door.get("/v1/catalogue", params={"version": 9})).json()["error"][
        "message"
    ] == "no catalogue has been applied as version 9"


async def test_the_history_tells_who_when_what_changed_in_lines_and_which_ids_came_into_being(
    applied: Version, door: httpx.AsyncClient
) -> None:
    dearer = TEXT.replace('"0.15"', '"0.19"')
    new = (await door.post("/v1/catalogue/apply", params={"by": "Anna Lee"}, content=dearer)).json()
    await door.post("/v1/catalogue/apply", content=TEXT)
    third, second, first = (await door.get("/v1/catalogue/history")).json()["versions"]
    assert [entry["version"] for entry in (third, second, first)] == [3, 2, 1]
    assert [entry["applied_by"] for entry in (third, second)] == ["test", "Anna Lee"]
    assert (second["diff"], third["diff"]) == (
        ['payg: price.usage[calls].amount: "0.15" -> "0.19"'],
        ['payg: price.usage[calls].amount: "0.19" -> "0.15"'],
    )
    price = new["stripe_ids"]["payg"]["prices"]["usage:calls"]
    assert (second["created"], third["created"]) == ({price: "price payg usage:calls usd"}, {})
    assert first["diff"][0] == "free: a new product"
    shown = (await door.get("/v1/catalogue", params={"version": 2})).json()
    assert (shown["applied_by"], shown["stripe_ids"], shown["diff"]) == ("Anna Lee", new["stripe_ids"], second["diff"])
    assert len((await door.get("/v1/catalogue/history", params={"limit": 1})).json()["versions"]) == 1


async def test_an_apply_can_be_followed_and_its_last_state_is_told(applied: Version, door: httpx.AsyncClient) -> None:
    assert (await door.get("/v1/catalogue/apply")).status_code == 404
    dearer = TEXT.replace('"0.15"', '"0.18"')
    answer = (await door.post("/v1/catalogue/apply", params={"by": "Anna"}, content=dearer)).json()
    last = (await door.get("/v1/catalogue/apply")).json()
    assert (last["plan"], last["state"], last["requested_by"]) == (answer["plan"], "done", "Anna")
    assert (last["done"], last["remaining"]) == (answer["done"], [])
    await door.post("/v1/catalogue/apply", content=TEXT)


async def test_the_plan_groups_what_changes_by_product_and_system(applied: Version, door: httpx.AsyncClient) -> None:
    document = json.loads(TEXT.replace('"0.15"', '"0.175"').replace('"calls": 200,', '"calls": 250,'))
    plan = (await door.post("/v1/catalogue/plan", content=json.dumps(document))).json()
    payg = next(product for product in plan["products"] if product["product_id"] == "payg")
    assert payg["file"] == ['price.usage[calls].amount: "0.15" -> "0.175"', "rate_limit.calls: 200 -> 250"]
    (price,) = payg["systems"]["stripe"]["replaced"]
    assert price["text"] == "price: usage of API calls: USD 0.15 per 100 calls -> USD 0.175 per 100 calls"
    assert payg["systems"]["apim"]["changed"][0]["text"].startswith("policy payg: 250 calls in 60 s; our block in inbound: <rate-limit")
    assert payg["systems"]["apim"]["untouched"] == {"product": 1, "group": 2, "api": 1}
    assert [product["product_id"] for product in plan["products"]][:3] == ["", "free", "developer"]
    assert plan["subscribers"] == {"payg": {"live": 0, "stay_on_old_price": 0, "counted_as_before": {}, "by_version": []}}
    assert (plan["current_version"], plan["changes"], len(plan["steps"])) == (1, True, 3)


async def test_a_file_that_only_turnpike_reads_differently_is_a_change_without_steps(applied: Version, door: httpx.AsyncClient) -> None:
    more_keys = TEXT.replace('"keys": 5', '"keys": 6')
    plan = (await door.post("/v1/catalogue/plan", content=more_keys)).json()
    assert (plan["steps"], plan["changes"]) == ([], True)
    assert [product["file"] for product in plan["products"] if product["file"]] == [["keys: 5 -> 6"]]
    assert (await door.post("/v1/catalogue/apply", params={"plan": plan["plan"]}, content=more_keys)).json()["version"] == 2
    other = await door.post("/v1/catalogue/apply", params={"plan": plan["plan"]}, content=TEXT.replace('"keys": 5', '"keys": 7'))
    assert other.json()["error"]["code"] == "plan_moved"


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


async def test_everything_that_is_wrong_is_told_at_once_with_its_line_and_nothing_outside_is_even_compared(
    applied: Version, pool: asyncpg.Pool, door: httpx.AsyncClient, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        raise AssertionError("a file that cannot be sold needs no look at Stripe or at the products of API Management")

    monkeypatch.setattr(outside.stripe, "read", never)
    monkeypatch.setattr(outside.apim, "read_product", never)
    await pool.execute("insert into account(account_id) values ('a')")
    await pool.execute(
        "insert into subscription values ('s', 'a', 'u', 'pro', 1, 'N', 'usd', false, 'live', 1, 'active', now(), null, 'sub_x', now())"
    )
    tiers = [{"up_to": 10, "amount": "-1"}, {"up_to": 5, "amount": "1"}]
    product = {"id": "it", "name": "It", "model": "Graduated", "price": {"usage": [{"meter": "calls", "tiers": tiers}]}}
    dear = {"usage": [{"meter": "calls", "tiers": [{"up_to": None, "amount": "1"}]}]}
    document = {
        "version": 1,
        "meters": {"calls": {"name": "Calls"}, "idle": {"name": "Idle"}},
        "products": [
            product,
            product | {"price": dear, "currencies": {"xxx": dear}, "apis": ["ordres"], "interval": "monthly"},
            {
                "id": "ab",
                "name": "F",
                "model": "Freemium",
                "keys": 0,
                "price": {"usage": [{"meter": "cals", "amount": "1.5"}]},
            },
        ],
    }
    text = json.dumps(document, indent=1)
    for action in ("plan", "apply"):
        answer = (await door.post(f"/v1/catalogue/{action}", content=text)).json()["error"]
        assert answer["code"] == "invalid_catalogue"
        found = {(problem["path"], problem["message"].split(" ")[0]) for problem in answer["problems"]}
        assert {
            ("$.meters.idle", "no"),
            ("$.products", "the"),
            ("$.products[0].id", "the"),
            ("$.products[0].price.usage[0].tiers[0].amount", '"-1"'),
            ("$.products[1].apis[0]", "API"),
            ("$.products[1].currencies.xxx", '"xxx"'),
            ("$.products[1].interval", '"monthly"'),
            ("$.products[2].keys", "0"),
            ("$.products[2].price.usage[0]", "the"),
            ("$.products[2].price.usage[0].meter", "there"),
        } <= found, answer["message"]
        lines = text.splitlines()
        assert all(lines[problem["line"] - 1].strip() for problem in answer["problems"])
        assert "pro" in next(problem["message"] for problem in answer["problems"] if problem["path"] == "$.products")


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
    (problem,) = answer.json()["error"]["problems"]
    assert problem["path"] == "$.currency"
    assert "has 1 live subscription in usd and no price in it; it has eur" in problem["message"]
    broken = json.loads(TEXT.replace('"keys": 5', '"keys": 0'))
    broken["products"] = [product | {"id": "por"} if product["id"] == "pro" else product for product in broken["products"]]
    answer = await door.post("/v1/catalogue/plan", content=json.dumps(broken, indent=1))
    problems = answer.json()["error"]["problems"]
    assert (answer.status_code, [problem["path"] for problem in problems]) == (422, ["$.products", "$.products[5].keys"])
    assert 'Did you mean "por"?' in problems[0]["message"]
    assert problems[0]["line"] > 1


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


async def test_a_quote_is_what_the_one_function_says(known: None, door: httpx.AsyncClient) -> None:
    start, end = datetime(2026, 11, 16, tzinfo=UTC), datetime(2026, 11, 20, tzinfo=UTC)
    asked = quoting.Question("pro", {"calls": 600_000}, start=start, end=end, currency="usd")
    body = {"product": "pro", "usage": {"calls": 600_000}, "from": "2026-11-16T02:00:00+02:00", "to": end.isoformat(), "currency": "usd"}
    answer = (await door.post("/v1/quotes", json=body)).json()
    assert answer.pop("catalogue_version") == 1
    assert answer == quoting.quote(Catalogue.parse(TEXT), asked, now=start).public()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"product": "standart", "calls": 1}, 404, "unknown_product"),
        ({"product": "payg", "calls": 1, "usage": {"calls": 1}}, 422, "which_meter"),
        ({"product": "payg", "calls": 1, "from": "2026-11-16T00:00:00Z", "to": "2026-11-10T00:00:00Z"}, 422, "outside_period"),
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
