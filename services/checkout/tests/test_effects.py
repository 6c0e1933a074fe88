"""What a changed price means for those who are subscribed: counted from the rows, priced from collected usage."""

import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import pytest

from billing_common.catalogue import Catalogue
from billing_common.internal_auth import InternalAuth
from checkout import store_catalogue, store_subscribers
from checkout.effects import effects
from checkout.store_catalogue import Version
from checkout.usage_door import UsageDoor

from .conftest import KEYS

NOW = datetime(2027, 3, 20, tzinfo=UTC)
FEBRUARY = ["2027-02-01T00:00:00+00:00", "2027-03-01T00:00:00+00:00"]
Answer = Callable[[httpx.Request], httpx.Response]


def document(amount: str, **fields: Any) -> dict[str, Any]:
    price = {"base": "10", "setup": "99", "usage": [{"meter": "calls", "amount": amount, "per": 100}]}
    product = {"id": "it", "name": "It", "model": "Hybrid", "price": price, "currencies": {"eur": price}} | fields
    return {"version": 1, "meters": {"calls": {"name": "API calls"}}, "products": [product]}


@pytest.fixture
async def versions(pool: asyncpg.Pool) -> list[Version]:
    """Version 1 at 0.10, version 2 at 0.20."""
    made = []
    for number, amount in ((1, "0.10"), (2, "0.20")):
        made.append(Version(number, Catalogue.from_document(document(amount)).document(), {}, [], "test", NOW))
        async with pool.acquire() as connection:
            await store_catalogue.add(connection, made[-1])
    await pool.execute("insert into account(account_id) values ('a')")
    return made


@pytest.fixture
async def subscribe(pool: asyncpg.Pool) -> Callable[..., Any]:
    async def add(name: str, version: int, started: datetime, *, currency: str = "usd", state: str = "live") -> None:
        await pool.execute(
            "insert into subscription values ($1, 'a', 'u', 'it', $2, 'N', $3, false, $4, 1, 'active', $5, null, $1, $5)",
            name, version, currency, state, started,
        )  # fmt: skip

    return add


@pytest.fixture
async def door_of() -> AsyncIterator[Callable[[Answer], UsageDoor]]:
    clients = []

    def make(answer: Answer) -> UsageDoor:
        clients.append(httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://collector"))
        return UsageDoor(clients[-1], InternalAuth(KEYS, caller="checkout", scopes=["usage:read"]))

    yield make
    for client in clients:
        await client.aclose()


def used(**calls: int) -> tuple[Answer, list[Any]]:
    asked: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"].startswith("Bearer ")
        entries = json.loads(request.content)["entries"]
        asked.extend(entries)
        known = [entry["subscription_id"] for entry in entries if entry["subscription_id"] in calls]
        return httpx.Response(200, json={"totals": {name: {"it": {"calls": calls[name]}, "old": {"calls": 9}} for name in known}})

    return answer, asked


JANUARY, MID_FEBRUARY, MARCH = datetime(2027, 1, 5, tzinfo=UTC), datetime(2027, 2, 15, tzinfo=UTC), datetime(2027, 3, 2, tzinfo=UTC)


async def test_everybody_on_another_price_is_counted_by_version_and_their_last_month_is_priced_old_and_new(
    pool: asyncpg.Pool, versions: list[Version], subscribe: Callable[..., Any], door_of: Callable[[Answer], UsageDoor]
) -> None:
    await subscribe("old", 1, JANUARY)
    await subscribe("new", 2, JANUARY)
    await subscribe("euro", 2, MID_FEBRUARY, currency="eur")
    await subscribe("fresh", 2, MARCH)
    await subscribe("stranger", 2, JANUARY)
    await subscribe("ended", 1, JANUARY, state="ended")
    answer, asked = used(old=1000, new=2000, euro=1000)
    found = await effects(pool, door_of(answer), Catalogue.from_document(document("0.30")), versions[1], now=NOW)
    assert (found["it"]["live"], found["it"]["stay_on_old_price"]) == (5, 5)
    assert found["it"]["by_version"] == [
        {"version": 1, "currency": "usd", "subscribers": 1, "on_old_price": True},
        {"version": 2, "currency": "eur", "subscribers": 1, "on_old_price": True},
        {"version": 2, "currency": "usd", "subscribers": 3, "on_old_price": True},
    ]
    assert {(entry["subscription_id"], entry["from"], entry["to"]) for entry in asked} == {
        (name, *FEBRUARY) for name in ("old", "new", "euro", "stranger")
    }
    last = found["it"]["last_period"]
    assert (last["from"], last["to"], last["subscribers"], last["began_within"]) == (*FEBRUARY, 3, 1)
    sums = [
        tuple(total[name] for name in ("currency", "subscribers", "before_minor", "after_minor", "pay_more")) for total in last["totals"]
    ]
    assert sums == [("usd", 2, 1100 + 1400, 1300 + 1600, 2), ("eur", 1, 500 + 200, 500 + 300, 1)]
    assert [(one["subscription_id"], one["after_minor"] - one["before_minor"]) for one in last["most_changed"]] == [
        ("new", 200), ("old", 200), ("euro", 100),
    ]  # fmt: skip
    assert last["not_compared"] == {"no period has come to an end yet": 1, "usage_collector does not know the subscription": 1}


async def test_who_has_the_price_already_does_not_stay_on_an_old_one(
    pool: asyncpg.Pool, versions: list[Version], subscribe: Callable[..., Any], door_of: Callable[[Answer], UsageDoor]
) -> None:
    await subscribe("old", 1, JANUARY)
    await subscribe("new", 2, JANUARY)
    answer, _ = used(old=1000, new=1000)
    found = await effects(pool, door_of(answer), Catalogue.from_document(document("0.10")), versions[1], now=NOW)
    assert found["it"]["stay_on_old_price"] == 1
    assert [entry["on_old_price"] for entry in found["it"]["by_version"]] == [False, True]
    assert found["it"]["last_period"]["totals"][0]["pay_less"] == 1


async def test_a_product_whose_price_stays_is_not_spoken_of(pool: asyncpg.Pool, versions: list[Version]) -> None:
    renamed = Catalogue.from_document(document("0.20", name="Other", rate_limit={"calls": 5}))
    assert await effects(pool, None, renamed, versions[1], now=NOW) == {}
    assert await effects(pool, None, renamed, None, now=NOW) == {}


async def test_a_new_meter_is_not_taken_for_one_that_was_never_used(
    pool: asyncpg.Pool, versions: list[Version], subscribe: Callable[..., Any], door_of: Callable[[Answer], UsageDoor]
) -> None:
    await subscribe("old", 1, JANUARY)
    wanted = document("0.20")
    wanted["meters"]["bytes"] = {"name": "Bytes", "property": "responseBytes"}
    wanted["products"][0]["price"]["usage"].append({"meter": "bytes", "amount": "1", "per": 1000})  # the same object in both currencies
    found = await effects(pool, door_of(used(old=5)[0]), Catalogue.from_document(wanted), versions[1], now=NOW)
    assert found["it"]["last_period"]["not_compared"] == {'the meter "bytes" was not counted': 1}


async def test_who_came_from_another_product_is_priced_from_then_on_and_not_before(
    pool: asyncpg.Pool, versions: list[Version], subscribe: Callable[..., Any], door_of: Callable[[Answer], UsageDoor]
) -> None:
    stays = "insert into plan_stay values ($1, $2, $3, $4, 1)"
    for name in ("upgraded", "later", "moved"):
        await subscribe(name, 1, JANUARY)
    await pool.execute(stays, "upgraded", JANUARY, "small", 1)
    await pool.execute(stays, "upgraded", MID_FEBRUARY, "it", 1)
    await pool.execute(stays, "later", JANUARY, "small", 1)
    await pool.execute(stays, "later", MARCH, "it", 1)
    await pool.execute(stays, "moved", JANUARY, "it", 1)
    await pool.execute(stays, "moved", MID_FEBRUARY, "it", 2)  # the same product at another price
    answer, _ = used(upgraded=1000, later=1000, moved=1000)
    found = await effects(pool, door_of(answer), Catalogue.from_document(document("0.30")), versions[1], now=NOW)
    last = found["it"]["last_period"]
    assert last["totals"][0]["before_minor"] == (500 + 100) + (1000 + 100)
    assert (last["subscribers"], last["began_within"], last["not_compared"]) == (2, 1, {"it was another product": 1})


def unreachable(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused", request=request)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (unreachable, "usage_collector does not answer (ConnectError)"),
        (lambda _: httpx.Response(503), "usage_collector answers HTTP 503"),
        (None, "CHECKOUT_COLLECTOR_URL is not set"),
    ],
)
async def test_a_collector_that_does_not_answer_is_told_and_the_rest_of_the_plan_stands(
    pool: asyncpg.Pool,
    versions: list[Version],
    subscribe: Callable[..., Any],
    door_of: Callable[[Answer], UsageDoor],
    answer: Answer | None,
    words: str,
) -> None:
    await subscribe("old", 1, JANUARY)
    door = door_of(answer) if answer else None
    found = await effects(pool, door, Catalogue.from_document(document("0.30")), versions[1], now=NOW)
    assert found["it"]["stay_on_old_price"] == 1
    assert words in found["it"]["last_period"]["unknown"]


async def test_many_subscribers_are_asked_for_a_thousand_at_a_time(
    pool: asyncpg.Pool, versions: list[Version], door_of: Callable[[Answer], UsageDoor]
) -> None:
    await pool.execute(
        "insert into subscription select 's' || n, 'a', 'u', 'it', 1, 'N', 'usd', false, 'live', 1, 'active', $1, null, 's' || n, $1"
        " from generate_series(1, 1001) n",
        JANUARY,
    )
    sizes: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        entries = json.loads(request.content)["entries"]
        sizes.append(len(entries))
        return httpx.Response(200, json={"totals": {entry["subscription_id"]: {"it": {"calls": 100}} for entry in entries}})

    found = await effects(pool, door_of(answer), Catalogue.from_document(document("0.30")), versions[1], now=NOW)
    assert sizes == [1000, 1]
    assert found["it"]["last_period"]["totals"][0]["after_minor"] == 1001 * 1030


async def test_a_source_that_changes_alone_says_who_goes_on_being_counted_as_before(
    pool: asyncpg.Pool, versions: list[Version], subscribe: Callable[..., Any]
) -> None:
    await subscribe("one", 2, JANUARY)
    await subscribe("two", 2, JANUARY, currency="eur")
    await subscribe("ended", 2, JANUARY, state="ended")
    counted_elsewhere = Catalogue.from_document(document("0.20", source="ingest"))
    found = await effects(pool, None, counted_elsewhere, versions[1], now=NOW)
    assert (found["it"]["live"], found["it"]["stay_on_old_price"], found["it"]["counted_as_before"]) == (2, 0, {"stream": 2})


async def test_a_product_is_of_a_source_as_long_as_somebody_has_bought_it_so(
    pool: asyncpg.Pool, versions: list[Version], subscribe: Callable[..., Any]
) -> None:
    newer = Version(3, Catalogue.from_document(document("0.20", source="ingest")).document(), {}, [], "test", NOW)
    async with pool.acquire() as connection:
        await store_catalogue.add(connection, newer)
    await subscribe("ended", 1, JANUARY, state="ended")
    await subscribe("new", 3, JANUARY)
    assert await store_subscribers.products_of_source(pool, "stream") == frozenset()
    await subscribe("buying", 2, JANUARY, state="requested")
    assert await store_subscribers.products_of_source(pool, "stream") == {"it"}
    assert await store_subscribers.products_of_source(pool, "ingest") == {"it"}
