"""Corrections of closed periods: rated by the plan of the period, put on the draft, the next invoice or one of their own, once."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
import stripe

from billing_common.clock import BusinessClock
from billing_common.events import AccountRegistered, Event, SubscriptionCreated, SubscriptionUpdated, UsageCorrected
from checkout import correction_calls, correction_store
from checkout.handlers import NotKnownYetError
from checkout.intents import Worker
from checkout.store_catalogue import Version
from checkout.stripe_gateway import StripeGateway, StripeRefusedError, StripeUnavailableError

Publish = Callable[[Event], Awaitable[None]]
START = datetime(2026, 11, 1, tzinfo=UTC)
END = datetime(2026, 12, 1, tzinfo=UTC)
NAMES = {"subscription_id": "s-1", "account_id": "a-1"}


def corrected(before: int, after: int, *, product: str = "payg", at: datetime = END, **fields: Any) -> UsageCorrected:
    values: dict[str, Any] = {
        "cause_id": f"{before}-{after}",
        "occurred_at": at,
        "correction_id": uuid4(),
        "kind": "adjustment",
        "amounts": {"calls": after - before},
        "at": START + timedelta(days=4),
        "product_id": product,
        "catalogue_version": 1,
        "segment_start": START,
        "segment_end": END,
        "after_close": True,
        "totals_before": {"calls": before},
        "totals_after": {"calls": after},
    }
    return UsageCorrected(**NAMES | values | fields)


def live(product: str = "payg", **fields: Any) -> SubscriptionCreated:
    values: dict[str, Any] = {
        "cause_id": "live",
        "occurred_at": START,
        "revision": 1,
        "user_id": "u-1",
        "product_id": product,
        "catalogue_version": 1,
        "display_name": "Weather",
        "status": "active",
        "currency": "usd",
        "started_at": START,
        "current_period_start": START,
        "current_period_end": END,
        "stripe_subscription_id": "sub_1",
        "stripe_customer_id": "cus_1",
    }
    return SubscriptionCreated(**NAMES | values | fields)


async def sold(pool: asyncpg.Pool, publish: Publish, product: str = "payg", **fields: Any) -> None:
    await publish(AccountRegistered(cause_id="a", occurred_at=START, account_id="a-1", user_id="u-1"))
    await pool.execute("update account set stripe_customer_id = $1", fields.get("stripe_customer_id", "cus_1"))
    await publish(live(product, **fields))


async def charges(pool: asyncpg.Pool) -> list[tuple[int, str]]:
    rows = await correction_store.listed(pool, "s-1", 100)
    return [(row["amount_minor"], row["state"]) for row in reversed(rows)]


@pytest.mark.parametrize(
    ("product", "before", "after", "amount"),
    [
        ("payg", 10_000, 9_000, -150),
        ("payg", 9_000, 10_000, 150),
        ("standard", 150_000, 140_000, -1_000),
        ("standard", 100_000, 90_000, 0),  # within what is included
        ("standard", 100_500, 99_500, -50),  # only what was above it
        ("enterprise", 1_500_001, 1_500_000, -74_995),
        ("enterprise", 1, 0, 0),  # at least one package either way
    ],
)
async def test_a_correction_costs_what_the_period_costs_more_or_less(
    known: None, pool: asyncpg.Pool, publish: Publish, product: str, before: int, after: int, amount: int
) -> None:
    await sold(pool, publish, product)
    event = corrected(before, after, product=product)
    await publish(event)
    await publish(event)
    assert await charges(pool) == [(amount, "pending" if amount else "done")]
    assert await pool.fetchval("select count(*) from intent") == (1 if amount else 0)


async def test_many_small_corrections_come_to_the_cent_of_one(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await sold(pool, publish)
    for total in range(10_001, 10_031, 3):
        await publish(corrected(total, total + 3))
    assert sum(amount for amount, _ in await charges(pool)) == round(10_031 * 0.15) - round(10_001 * 0.15)


async def test_segments_of_one_plan_in_a_period_are_one_quantity(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    """60,000 and 60,000 calls of 100,000 included: neither segment alone would cost anything for usage."""
    await sold(pool, publish, "standard")
    middle = START + timedelta(days=10)
    add = "insert into settled_segment values ('s-1', $1, $2, $3)"
    await pool.execute(add, START, middle, '{"calls": 60000}')
    await pool.execute(add, middle, END, '{"calls": 60000}')
    first = {"product": "standard", "segment_end": middle}
    await publish(corrected(60_000, 55_000, **first))
    await publish(corrected(60_000, 50_000, product="standard", segment_start=middle))
    await publish(corrected(55_000, 45_000, **first))
    assert [amount for amount, _ in await charges(pool)] == [-500, -1_000, -500]


async def test_usage_before_a_change_of_plan_is_corrected_at_the_old_plans_price(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    """100,500 calls on Standard (100,000 included, then $0.10 per 100), then 500,100 on Pro (500,000 included, then $0.06 per 100)."""
    await sold(pool, publish, "standard")
    cut = START + timedelta(days=10, seconds=1)
    new = live("pro").model_dump() | {"cause_id": "new", "revision": 2, "plan_since": cut - timedelta(minutes=5)}
    await publish(SubscriptionUpdated.model_validate(new))
    add = "insert into settled_segment values ('s-1', $1, $2, $3)"
    await pool.execute(add, START, cut, '{"calls": 100500}')
    await pool.execute(add, cut, END, '{"calls": 500100}')
    await publish(corrected(100_500, 100_000, product="standard", segment_end=cut))
    await publish(corrected(500_100, 500_000, product="pro", segment_start=cut))
    await publish(corrected(100_000, 99_000, product="standard", segment_end=cut))
    assert [amount for amount, _ in await charges(pool)] == [-50, -6, 0]


async def test_the_line_says_what_was_corrected_and_when(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await sold(pool, publish)
    await publish(corrected(10_000, 8_800))
    await publish(corrected(8_800, 9_800, kind="late"))
    assert [row["description"] for row in reversed(await correction_store.listed(pool, "s-1", 10))] == [
        "Correction: -1,200 API calls, 5 November 2026",
        "Late usage: +1,000 API calls, 5 November 2026",
    ]


async def test_what_goes_to_stripe_as_usage_and_what_is_free_costs_nothing_here(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await sold(pool, publish)
    await publish(corrected(10_000, 9_000, after_close=False))
    await pool.execute("update subscription set free = true")
    await publish(corrected(10_000, 8_000, product="free"))
    assert await charges(pool) == []


async def test_a_correction_waits_for_its_subscription_and_its_catalogue(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    with pytest.raises(NotKnownYetError):
        await publish(corrected(10_000, 9_000, at=datetime.now(UTC)))
    await sold(pool, publish)
    with pytest.raises(NotKnownYetError):
        await publish(corrected(10_000, 9_000, catalogue_version=2))
    assert await pool.fetchval("select count(*) from correction_charge") == 0


# --- against the sandbox of Stripe ---------------------------------------------------------------------------------------------


class AtStripe:
    """A subscription of the sandbox, on a test clock of its own."""

    def __init__(self, api: stripe.StripeClient, pool: asyncpg.Pool, publish: Publish, worker: Worker) -> None:
        self.api, self.pool, self.publish, self.worker = api, pool, publish, worker
        self.clock = self.customer = self.subscription = ""
        self.version = 1
        self.start = datetime.now(UTC).replace(day=3, hour=9, minute=0, second=0, microsecond=0)
        self.end = (self.start.replace(day=28) + timedelta(days=7)).replace(day=1, hour=0)

    async def subscribe(self, version: Version) -> None:
        self.version = version.version
        self.clock = (await self.api.v1.test_helpers.test_clocks.create_async({"frozen_time": int(self.start.timestamp())})).id
        self.customer = (await self.api.v1.customers.create_async({"test_clock": self.clock})).id
        method = await self.api.v1.payment_methods.attach_async("pm_card_visa", {"customer": self.customer})
        params: Any = {
            "customer": self.customer,
            "default_payment_method": method.id,
            "items": [{"price": version.price_ids("payg", "usd")["usage:calls"]}],
            "billing_mode": {"type": "flexible"},
            "billing_cycle_anchor_config": {"day_of_month": 1, "hour": 0, "minute": 0, "second": 0},
        }
        self.subscription = (await self.api.v1.subscriptions.create_async(params)).id
        ids = {"stripe_subscription_id": self.subscription, "stripe_customer_id": self.customer}
        await sold(self.pool, self.publish, started_at=self.start, current_period_start=self.start, **ids)
        await self.pool.execute("update account set stripe_customer_id = $1", self.customer)

    async def use(self, calls: int) -> None:
        sent: Any = {
            "event_name": "turnpike_payg_calls",
            "payload": {"stripe_customer_id": self.customer, "value": str(calls)},
            "timestamp": int((self.start + timedelta(minutes=1)).timestamp()),
        }
        await self.api.v1.billing.meter_events.create_async(sent)

    async def advance(self, to: datetime) -> None:
        await self.api.v1.test_helpers.test_clocks.advance_async(self.clock, {"frozen_time": int(to.timestamp())})
        for _ in range(100):
            if (await self.api.v1.test_helpers.test_clocks.retrieve_async(self.clock)).status == "ready":
                return
            await asyncio.sleep(0.05)
        raise TimeoutError("the clock is not ready")

    async def correct(self, before: int, after: int, *, at: datetime) -> UUID:
        event = corrected(before, after, at=at, segment_start=self.start, segment_end=self.end, catalogue_version=self.version)
        await self.publish(event)
        for _ in range(2):
            while await self.worker.drain():
                pass
        return event.correction_id

    async def totals(self) -> list[int]:
        """Invoice totals, oldest first."""
        invoices = (await self.api.v1.invoices.list_async({"customer": self.customer, "limit": 100})).data
        return [invoice.total for invoice in reversed(invoices)]

    async def placed(self) -> list[tuple[str, str | None]]:
        rows = await correction_store.listed(self.pool, "s-1", 10)
        return [(row["placed"], row["invoice_id"]) for row in reversed(rows)]


@pytest.fixture
async def at_stripe(
    applied: Version, stripe_api: stripe.StripeClient, pool: asyncpg.Pool, publish: Publish, worker: Worker, clock: BusinessClock
) -> AtStripe:
    found = AtStripe(stripe_api, pool, publish, worker)
    await found.subscribe(applied)
    return found


async def test_a_correction_stands_on_the_draft_of_its_period_and_later_on_the_next_invoice(at_stripe: AtStripe) -> None:
    await at_stripe.use(10_000)
    await at_stripe.advance(at_stripe.end + timedelta(minutes=10))
    await at_stripe.correct(10_000, 9_000, at=at_stripe.end + timedelta(minutes=10))
    await at_stripe.advance(at_stripe.end + timedelta(hours=2))
    assert (await at_stripe.totals())[-1] == 1_500 - 150
    await at_stripe.correct(9_000, 8_000, at=at_stripe.end + timedelta(hours=2))
    await at_stripe.advance(at_stripe.end + timedelta(days=33))
    assert (await at_stripe.totals())[-2:] == [1_350, -150]
    (first, invoice_id), (second, waiting) = await at_stripe.placed()
    assert (first, second, waiting) == ("draft", "next_invoice", None)
    assert invoice_id is not None


async def test_after_the_end_a_correction_has_an_invoice_of_its_own_or_becomes_credit(at_stripe: AtStripe) -> None:
    await at_stripe.use(10_000)
    await at_stripe.api.v1.subscriptions.cancel_async(at_stripe.subscription, {"invoice_now": True, "prorate": False})
    await at_stripe.correct(10_000, 14_000, at=at_stripe.end + timedelta(hours=2))
    await at_stripe.correct(14_000, 10_000, at=at_stripe.end + timedelta(hours=2))
    assert (await at_stripe.totals())[-2:] == [600, -600]
    assert (await at_stripe.api.v1.customers.retrieve_async(at_stripe.customer)).balance == -600
    placed = await at_stripe.placed()
    assert [where for where, _ in placed] == ["own_invoice", "own_invoice"]
    invoice = await at_stripe.api.v1.invoices.retrieve_async(placed[0][1] or "")
    assert (invoice.status, invoice.metadata["turnpike_subscription_id"] if invoice.metadata else None) == ("paid", "s-1")


async def test_a_call_that_was_cut_off_is_made_once_however_often_it_is_repeated(at_stripe: AtStripe, gateway: StripeGateway) -> None:
    await at_stripe.api.v1.subscriptions.cancel_async(at_stripe.subscription, {"invoice_now": True, "prorate": False})
    await at_stripe.correct(0, 10_000, at=at_stripe.end)
    row = await at_stripe.pool.fetchrow("select intent_id::text, parameters::text from intent where kind = 'correction'")
    await at_stripe.pool.execute("update intent set state = 'pending', generation = generation + 1, due_at = now()")
    while await at_stripe.worker.drain():
        pass
    assert row is not None
    assert [total for total in await at_stripe.totals() if total] == [1_500]


async def test_a_draft_that_becomes_final_in_the_same_moment_is_tried_again(at_stripe: AtStripe, monkeypatch: pytest.MonkeyPatch) -> None:
    async def final(*_: object) -> tuple[str, str]:
        return "draft", "in_gone"

    async def refused(*_: object, **__: object) -> None:
        raise StripeRefusedError("invoice_not_editable", "You can only add invoice items to draft invoices.")

    gateway = at_stripe.worker._gateway
    monkeypatch.setattr(correction_calls, "find", final)
    monkeypatch.setattr(gateway, "add_invoice_item", refused)
    parameters = {"item": {"customer": at_stripe.customer, "subscription": at_stripe.subscription}}
    with pytest.raises(StripeUnavailableError):
        await correction_calls.put(gateway, parameters, intent_id="i", key="k")


async def test_the_door_prices_a_change_and_says_where_it_would_go(at_stripe: AtStripe, door: httpx.AsyncClient) -> None:
    body = {
        "subscription_id": "s-1",
        "product_id": "payg",
        "catalogue_version": at_stripe.version,
        "segment_start": at_stripe.start.isoformat(),
        "segment_end": at_stripe.end.isoformat(),
        "after_close": True,
        "totals_before": {"calls": 10_000},
        "totals_after": {"calls": 8_000},
    }
    answer = (await door.post("/v1/corrections/preview", json=body)).json()
    assert answer == {"amount_minor": -300, "currency": "usd", "where": "next_invoice", "invoice_id": None}
    assert (await door.post("/v1/corrections/preview", json=body | {"after_close": False})).json()["where"] == "usage"
    assert (await door.post("/v1/corrections/preview", json=body | {"totals_after": {"calls": 10_001}})).json()["where"] is None
    assert (await door.post("/v1/corrections/preview", json=body | {"subscription_id": "s-2"})).status_code == 404
    assert (await door.post("/v1/corrections/preview", json=body | {"totals_after": {"calls": -1}})).status_code == 422
    await at_stripe.correct(10_000, 8_000, at=at_stripe.end)
    (listed,) = (await door.get("/v1/corrections", params={"subscription_id": "s-1"})).json()
    assert (listed["amount_minor"], listed["placed"], listed["state"]) == (-300, "next_invoice", "done")
