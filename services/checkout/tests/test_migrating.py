"""Who moves to the price of a newer catalogue, when and at what proration, and who stays with which reason."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from billing_common.catalogue import Catalogue
from billing_common.clock import BusinessClock
from billing_common.events import Event, SubscriptionChangeProgressed, SubscriptionCreated
from billing_common.testing import events_in_outbox
from checkout import migrating, store_catalogue
from checkout.migrating import Move, Stays
from checkout.store_catalogue import Version
from checkout.store_changes import Subscriber

START, MIDDLE = datetime(2027, 1, 1, tzinfo=UTC), datetime(2027, 1, 16, 11, 59, 59, tzinfo=UTC)
END = datetime(2027, 2, 1, tzinfo=UTC)
STANDARD: dict[str, Any] = {
    "id": "standard", "name": "Standard", "model": "TierWithOverage",
    "price": {"base": "31.00", "usage": [{"meter": "calls", "included": 10, "amount": "1"}]},
}  # fmt: skip
PAYG: dict[str, Any] = {"id": "payg", "name": "Pay", "model": "Metered", "price": {"usage": [{"meter": "calls", "amount": "1"}]}}
DEARER = {"base": "62.00", "usage": [{"meter": "calls", "included": 10, "amount": "2"}]}


def document(*products: dict[str, Any]) -> dict[str, Any]:
    return {"version": 1, "meters": {"calls": {"name": "Calls"}}, "products": list(products)}


OLD = Catalogue.from_document(document(STANDARD, PAYG))
NEW = Catalogue.from_document(document(STANDARD | {"price": DEARER}, PAYG))


def subscriber(**changes: Any) -> Subscriber:
    given: dict[str, Any] = {
        "subscription_id": "s-1", "account_id": "a-1", "product_id": "standard", "catalogue_version": 1, "currency": "usd",
        "started_at": START, "status": "active", "plan_since": None, "ends": False, "cancellation": None, "has_open_change": False,
    }  # fmt: skip
    return Subscriber(**given | changes)


def decide(one: Subscriber, when: Any = "now", *, now: datetime = MIDDLE, new: Catalogue = NEW) -> Move | Stays | None:
    return migrating.decide(one, {1: OLD}, new, when=when, now=now)


def test_a_move_now_prorates_to_the_second_and_one_with_the_next_period_not_at_all() -> None:
    move, later = decide(subscriber()), decide(subscriber(), "period_end")
    assert isinstance(move, Move)
    assert (move.when, move.effective_at, move.proration_minor) == ("now", datetime(2027, 1, 16, 12, tzinfo=UTC), 1550)
    assert isinstance(later, Move)
    assert (later.when, later.effective_at, later.proration_minor) == ("period_end", END, 0)


def test_in_the_last_hour_of_a_period_now_is_its_end() -> None:
    move = decide(subscriber(), now=END - timedelta(hours=1))
    assert isinstance(move, Move)
    assert (move.when, move.effective_at) == ("period_end", END)


def test_who_pays_the_same_or_has_a_product_that_is_gone_is_not_asked() -> None:
    assert decide(subscriber(product_id="payg")) is None
    assert decide(subscriber(catalogue_version=7)) is None
    assert decide(subscriber(), new=Catalogue.from_document(document(PAYG))) is None


@pytest.mark.parametrize("when", ["now", "period_end"])
def test_who_pays_the_same_and_is_counted_by_another_source_moves(when: str) -> None:
    move = decide(subscriber(), when, new=Catalogue.from_document(document(STANDARD | {"source": "ingest"}, PAYG)))
    assert isinstance(move, Move)
    assert (move.when, move.proration_minor) == (when, 0)


STAYING = [
    ({"ends": True}, "ending"),
    ({"cancellation": "now"}, "ending"),
    ({"has_open_change": True}, "change_pending"),
    ({"status": "trialing"}, "in_trial"),
    ({"status": "unpaid"}, "unpaid_invoice"),
]


@pytest.mark.parametrize(("facts", "code"), STAYING)
def test_who_cannot_move_stays_with_a_reason(facts: dict[str, Any], code: str) -> None:
    stays = decide(subscriber(**facts))
    assert isinstance(stays, Stays)
    assert stays.code == code


def test_an_open_invoice_is_no_reason_to_stay_and_whole_fees_move_with_the_period() -> None:
    assert isinstance(decide(subscriber(status="past_due")), Move)
    whole = Catalogue.from_document(document(STANDARD | {"price": DEARER, "policies": {"proration": "none"}}))
    assert isinstance(decide(subscriber(), new=whole), Stays)
    assert isinstance(decide(subscriber(), "period_end", new=whole), Move)


# --- at the doors -------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def sold(pool: asyncpg.Pool, publish: Callable[[Event], Awaitable[None]], clock: BusinessClock) -> datetime:
    """Two subscribers of version 1, and version 2 applied; returns when a period begins."""
    start = clock.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    async with pool.acquire() as connection:
        ids = {"standard": {"prices_by_currency": {"usd": {"base": "price_b", "usage:calls": "price_u"}}}}
        for number, catalogue in ((1, OLD), (2, NEW)):
            await store_catalogue.add(connection, Version(number, catalogue.document(), ids, [], "test", start))
    for name, product in (("1", "standard"), ("2", "payg")):
        await publish(
            SubscriptionCreated(
                cause_id=f"c{name}", occurred_at=start, subscription_id=f"s-{name}", account_id=f"a-{name}", revision=1, user_id="u",
                product_id=product, catalogue_version=1, display_name="W", status="active", currency="usd", started_at=start,
                current_period_start=start, current_period_end=(start + timedelta(days=32)).replace(day=1),
                stripe_subscription_id=f"sub_{name}", stripe_customer_id=f"cus_{name}",
            )
        )  # fmt: skip
    return start


async def test_the_plan_touches_nothing_and_the_start_moves_each_subscriber_once(
    sold: datetime, pool: asyncpg.Pool, door: httpx.AsyncClient
) -> None:
    body = {"text": json.dumps(NEW.document())}
    planned = (await door.post("/v1/migrations/plan", params={"when": "next-period"}, json=body)).json()
    assert (planned["moving"], planned["staying"], [move["subscription_id"] for move in planned["moves"]]) == (1, 0, ["s-1"])
    assert await pool.fetchval("select count(*) from plan_change") == 0
    started = (await door.post("/v1/migrations", params={"when": "next-period"})).json()
    assert (started["version"], started["moving"]) == (2, 1)
    assert started["totals"] == [{"currency": "usd", "when": "next-period", "subscribers": 1, "proration_minor": 0}]
    again = (await door.post("/v1/migrations", params={"when": "next-period"})).json()
    assert (again["moving"], again["stays"][0]["code"]) == (0, "change_pending")
    [row] = await pool.fetch("select kind, parameters from intent")
    assert (row["kind"], json.loads(row["parameters"])["prices"]) == ("change_plan", {"base": "price_b", "usage:calls": "price_u"})
    [shown] = (await door.get("/v1/migrations")).json()["migrations"]
    assert (shown["subscription_id"], shown["state"], shown["from_catalogue_version"], shown["catalogue_version"]) == ("s-1", "asked", 1, 2)


async def test_a_move_now_closes_the_usage_before_anything_is_asked_of_stripe(
    sold: datetime, pool: asyncpg.Pool, door: httpx.AsyncClient, clock: BusinessClock
) -> None:
    if sold.replace(day=28) + timedelta(days=3, hours=23) < clock.now():
        pytest.skip("in the last hours of a month a move now is one at its end")
    started = (await door.post("/v1/migrations", params={"when": "now"})).json()
    async with pool.acquire() as connection:
        [event] = await events_in_outbox(connection, SubscriptionChangeProgressed)
    assert (event.state, event.product_id, event.catalogue_version, event.subscription_id) == ("closing", "standard", 2, "s-1")
    assert event.effective_at.isoformat() == started["moves"][0]["effective_at"]
    assert await pool.fetchval("select count(*) from intent") == 0


async def test_an_unknown_time_is_refused(sold: datetime, door: httpx.AsyncClient) -> None:
    assert (await door.post("/v1/migrations", params={"when": "tomorrow"})).status_code == 422
    assert (await door.post("/v1/migrations")).status_code == 422
