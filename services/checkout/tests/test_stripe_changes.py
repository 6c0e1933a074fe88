"""Changes of plan at the sandbox's Stripe: what is charged when, to the cent, once, and what a refusal leaves."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
import stripe

from billing_common.catalogue import Catalogue
from billing_common.catalogue_stripe import desired_product
from billing_common.clock import BusinessClock
from billing_common.events import (
    Event,
    SubscriptionChangeProgressed,
    SubscriptionChangeRequested,
    SubscriptionChangeWithdrawn,
    SubscriptionCreated,
    SubscriptionUpdated,
    UsageSettled,
)
from billing_common.plan_changes import Sold, lines_of_change
from billing_common.rating import Facts, period_at, rate
from billing_common.testing import events_in_outbox
from checkout import changing, store, store_catalogue
from checkout.change_domain import Change
from checkout.intents import Worker
from checkout.settings import Settings
from checkout.store_catalogue import Version

Publish = Callable[[Event], Awaitable[None]]
DAY = 86_400


@dataclass
class Life:
    """A subscription at Stripe on a clock of its own, and known to checkout."""

    v1: Any
    pool: asyncpg.Pool
    publish: Publish
    worker: Worker
    version: Version
    product: str
    account: str
    clock: str
    customer: str
    stripe_id: str
    started: datetime

    @property
    def subscription_id(self) -> str:
        return f"s-{self.account}"

    def sold(self, product: str) -> Sold:
        return Sold(self.version.catalogue, self.version.catalogue.product(product))

    def ask(self, product: str, when: str, at: datetime) -> SubscriptionChangeRequested:
        facts: dict[str, Any] = {"when": when}
        return SubscriptionChangeRequested(
            cause_id=uuid4().hex, occurred_at=at, subscription_id=self.subscription_id, account_id=self.account, user_id="u-1",
            product_id=product, **facts,
        )  # fmt: skip

    async def state(self, kind: type[Any] = SubscriptionCreated) -> Any:
        """Tell checkout what Stripe has, as the webhooks would."""
        found = (await self.v1.subscriptions.retrieve_async(self.stripe_id)).to_dict(for_json=True)
        said, item = found["metadata"], found["items"]["data"][0]
        since = said.get("turnpike_plan_since")
        event = kind(
            cause_id=uuid4().hex, occurred_at=datetime.now(UTC), subscription_id=self.subscription_id, account_id=self.account,
            revision=await self.pool.fetchval("select coalesce(max(revision), 0) + 1 from subscription"), user_id="u-1",
            product_id=said.get("turnpike_product_id", self.product), display_name="W", status=found["status"], currency="usd",
            catalogue_version=int(said.get("turnpike_catalogue_version", self.version.version)), started_at=self.started,
            current_period_start=datetime.fromtimestamp(item["current_period_start"], UTC),
            current_period_end=datetime.fromtimestamp(item["current_period_end"], UTC), stripe_subscription_id=self.stripe_id,
            stripe_customer_id=self.customer, plan_since=datetime.fromisoformat(since) if since else None,
        )  # fmt: skip
        await self.publish(event)
        return event

    async def settle(self, product: str, calls: int, start: datetime, end: datetime, reason: str = "change") -> None:
        facts: dict[str, Any] = {"reason": reason, "product_id": product, "catalogue_version": self.version.version}
        await self.publish(
            UsageSettled(
                cause_id=uuid4().hex, occurred_at=end, subscription_id=self.subscription_id, account_id=self.account, segment_start=start,
                segment_end=end, totals={"calls": calls}, **facts,
            )
        )  # fmt: skip

    async def work(self) -> None:
        while await self.worker.drain():
            pass

    async def to(self, moment: datetime) -> None:
        await self.v1.test_helpers.test_clocks.advance_async(self.clock, {"frozen_time": int(moment.timestamp())})

    async def use(self, product: str, calls: int, at: datetime) -> None:
        payload = {"stripe_customer_id": self.customer, "value": str(calls)}
        event = {"event_name": f"turnpike_{product}_calls", "payload": payload, "timestamp": int(at.timestamp())}
        await self.v1.billing.meter_events.create_async(event)

    async def invoices(self) -> list[tuple[str, list[int]]]:
        """Return (reason, amounts of its lines) of every invoice, the oldest first, zeros left out."""
        found = (await self.v1.invoices.list_async({"subscription": self.stripe_id, "limit": 20})).data
        return [(str(one.billing_reason), [line.amount for line in one.lines.data if line.amount]) for one in reversed(found)]

    async def told(self) -> list[tuple[str, str | None]]:
        async with self.pool.acquire() as connection:
            events = await events_in_outbox(connection, SubscriptionChangeProgressed)
        return [(event.state, event.reason) for event in events]

    async def prices(self) -> set[str]:
        found = await self.v1.subscriptions.retrieve_async(self.stripe_id)
        return {item.price.id for item in found["items"].data}

    async def pay_with(self, token: str) -> None:
        method = await self.v1.payment_methods.attach_async(token, {"customer": self.customer})
        await self.v1.subscriptions.update_async(self.stripe_id, {"default_payment_method": method.id})


@pytest.fixture
async def begin(
    applied: Version, stripe_api: stripe.StripeClient, pool: asyncpg.Pool, publish: Publish, worker: Worker
) -> Callable[[str], Awaitable[Life]]:
    async def begin(product: str) -> Life:
        v1: Any = stripe_api.v1
        started = datetime.now(UTC).replace(microsecond=0) - timedelta(days=2)
        clock = await v1.test_helpers.test_clocks.create_async({"frozen_time": int(started.timestamp())})
        customer = await v1.customers.create_async({"test_clock": clock.id})
        method = await v1.payment_methods.attach_async("pm_card_visa", {"customer": customer.id})
        params: Any = {
            "customer": customer.id,
            "default_payment_method": method.id,
            "items": [{"price": price} for price in applied.price_ids(product, "usd").values()],
            "billing_mode": {"type": "flexible"},
            "billing_cycle_anchor_config": {"day_of_month": 1, "hour": 0, "minute": 0, "second": 0},
        }
        made = await v1.subscriptions.create_async(params)
        account = uuid4().hex[:8]
        life = Life(v1, pool, publish, worker, applied, product, account, clock.id, customer.id, made.id, started)
        await life.state()
        await pool.execute("update account set stripe_customer_id = $1", customer.id)
        return life

    return begin


def moment(life: Life) -> datetime:
    """An instant of the first period, a little after the start."""
    return life.started + timedelta(minutes=70, seconds=13)


async def test_an_upgrade_charges_what_was_shown_then_bills_the_old_usage_and_leaves_the_new_plan_alone(begin: Any) -> None:
    life = await begin("standard")
    at = moment(life)
    await life.use("standard", 100_150, life.started)
    await life.to(at + timedelta(seconds=5))
    await life.publish(life.ask("pro", "now", at))
    await life.work()
    event = await life.state(SubscriptionUpdated)
    assert (event.product_id, event.plan_since, await life.told()) == ("pro", at, [("made", None)])
    shown = lines_of_change(
        life.sold("standard"), life.sold("pro"), at=at, started_at=life.started, plan_since=life.started, currency="usd"
    )
    assert (await life.invoices())[1:] == [("subscription_update", [line.amount_minor for line in shown])]
    await life.settle("standard", 100_150, life.started, at + timedelta(seconds=6))
    await life.work()
    assert (await life.invoices())[2:] == [("subscription_update", [15])]
    assert await life.prices() == set(life.version.price_ids("pro", "usd").values())
    whole = sum(sum(amounts) for _, amounts in await life.invoices())
    period = period_at(life.sold("pro").product, started_at=life.started, at=at)
    old = Facts(started_at=life.started, ended_at=at, end_reason="change")
    rated = [
        rate(life.version.catalogue, life.sold(product).product, period=period, usage={"calls": calls}, facts=facts)
        for product, calls, facts in (("standard", 100_150, old), ("pro", 0, Facts(started_at=at)))
    ]
    assert whole == sum(one.total_minor for one in rated)


REFUSING = [("pm_card_chargeCustomerFail", "card_declined"), ("pm_card_authenticationRequired", "authentication_required")]


@pytest.mark.parametrize(("card", "reason"), REFUSING)
async def test_a_card_that_is_refused_changes_nothing_and_a_better_card_makes_the_next_request(begin: Any, card: str, reason: str) -> None:
    life = await begin("standard")
    await life.to(moment(life))
    await life.pay_with(card)
    before = await life.prices()
    await life.publish(life.ask("pro", "now", moment(life)))
    await life.work()
    assert (await life.told(), await life.prices(), len(await life.invoices())) == ([("failed", reason)], before, 1)
    found = await life.v1.subscriptions.retrieve_async(life.stripe_id)
    assert (found.status, "turnpike_plan_since" in found.metadata.to_dict()) == ("active", False)
    assert (await life.v1.customers.retrieve_async(life.customer)).balance == 0
    waiting = await life.v1.invoice_items.list_async({"customer": life.customer, "pending": True})
    assert waiting.data == []
    await life.pay_with("pm_card_visa")
    await life.publish(life.ask("pro", "now", moment(life)))
    await life.work()
    assert (await life.told())[1:] == [("made", None)]
    assert [sum(amounts) > 0 for _, amounts in await life.invoices()] == [True, True]


async def test_an_answer_that_was_lost_is_not_paid_for_twice(begin: Any, settings: Settings) -> None:
    life = await begin("standard")
    await life.to(moment(life))
    fault = {"match": {"method": "POST", "path_prefix": f"/v1/subscriptions/{life.stripe_id}"}, "kind": "drop_after_commit", "times": 9}
    async with httpx.AsyncClient(base_url=str(settings.stripe_api_base)) as sandbox:
        await sandbox.post("/_sandbox/faults", json=fault)
        await life.publish(life.ask("pro", "now", moment(life)))
        await life.worker.drain()
        assert await life.told() == []
        await sandbox.delete("/_sandbox/faults")
    await life.pool.execute("update intent set due_at = now()")
    await life.work()
    assert await life.told() == [("made", None)]
    assert [reason for reason, _ in await life.invoices()] == ["subscription_create", "subscription_update"]


async def test_a_downgrade_at_the_end_of_the_period_bills_each_period_as_its_plan_says(begin: Any) -> None:
    life = await begin("pro")
    await life.to(moment(life))
    await life.use("pro", 500_009, life.started)
    await life.publish(life.ask("standard", "period_end", moment(life)))
    await life.work()
    assert await life.told() == [("scheduled", None)]
    end = period_at(life.sold("pro").product, started_at=life.started, at=life.started).end
    assert await life.pool.fetchval("select effective_at from plan_change") == end
    await life.to(end)
    event = await life.state(SubscriptionUpdated)
    assert (event.product_id, event.plan_since, event.current_period_start) == ("standard", end, end)
    await life.work()
    assert (await life.told())[1:] == [("made", None)]
    await life.settle("pro", 500_009, life.started, end, "period_end")
    await life.work()
    await life.to(end + timedelta(hours=2))
    assert (await life.invoices())[1:] == [("subscription_cycle", [8995, 1])]
    assert (await life.v1.subscriptions.retrieve_async(life.stripe_id)).schedule is None


async def test_a_planned_change_that_is_taken_back_leaves_the_subscription_as_it_was(begin: Any) -> None:
    life = await begin("pro")
    await life.to(moment(life))
    request = life.ask("standard", "period_end", moment(life))
    await life.publish(request)
    await life.work()
    await life.publish(
        SubscriptionChangeWithdrawn(
            cause_id="w", occurred_at=moment(life), subscription_id=life.subscription_id, account_id=life.account, user_id="u-1",
            change_id=str(request.event_id),
        )
    )  # fmt: skip
    await life.work()
    assert await life.told() == [("scheduled", None), ("withdrawn", None)]
    found = await life.v1.subscriptions.retrieve_async(life.stripe_id)
    assert (found.schedule, await life.prices()) == (None, set(life.version.price_ids("pro", "usd").values()))


# --- a new version of the same product ------------------------------------------------------------------------------------------


async def dearer(life: Life, pool: asyncpg.Pool) -> Version:
    """Version 2 of the catalogue, in which `standard` costs more: its prices stand on the same meter."""
    document = json.loads(json.dumps(life.version.document))
    standard = next(product for product in document["products"] if product["id"] == "standard")
    standard["price"] = {"base": "99.95", "usage": [{"meter": "calls", "included": 90_000, "amount": "0.20", "per": 100}]}
    catalogue = Catalogue.from_document(document)
    meter = life.version.stripe_ids["standard"]["meters"]["calls"]["id"]
    prices = {}
    for price in desired_product(catalogue, catalogue.product("standard")).prices:
        params: Any = price.parameters(meter if price.meter_id else None)
        made = await life.v1.prices.create_async({**params, "lookup_key": f"{price.lookup_key}:{uuid4().hex[:6]}"})
        prices[price.component] = made.id
    ids = {**life.version.stripe_ids, "standard": {**life.version.stripe_ids["standard"], "prices_by_currency": {"usd": prices}}}
    async with pool.acquire() as connection:
        await store_catalogue.add(connection, Version(life.version.version + 1, document, ids, [], "test", datetime.now(UTC)))
        found = await store_catalogue.get(connection, life.version.version + 1)
    assert found is not None
    return found


async def test_subscribers_are_moved_when_their_usage_is_settled_and_pay_with_the_next_invoice(begin: Any, pool: asyncpg.Pool) -> None:
    life = await begin("standard")
    new, cut = await dearer(life, pool), moment(life)
    await life.use("standard", 100_150, life.started)
    change = Change(
        "m-1", life.subscription_id, life.account, "provider", "now", "standard", life.version.version, "standard", new.version, "asked", 0,
        cut, None, None, then_cancel=False,
    )  # fmt: skip
    async with pool.acquire() as connection, connection.transaction():
        subscription = await store.get_subscription(connection, life.subscription_id)
        assert subscription is not None
        await changing.begin(connection, change, subscription, new.price_ids("standard", "usd"), at=cut)
    await life.work()
    assert (await life.told(), len(await life.invoices())) == ([("closing", None)], 1)
    await life.to(cut + timedelta(seconds=20))
    await life.settle("standard", 100_150, life.started, cut)
    await life.work()
    assert (await life.told())[1:] == [("made", None)]
    event = await life.state(SubscriptionUpdated)
    assert (event.catalogue_version, event.plan_since, len(await life.invoices())) == (new.version, cut, 1)
    await life.use("standard", 90_100, cut + timedelta(seconds=20))
    period = period_at(life.sold("standard").product, started_at=life.started, at=cut)
    await life.to(period.end + timedelta(hours=2))
    amounts = [amount for _, lines in await life.invoices() for amount in lines]
    old = Facts(started_at=life.started, ended_at=cut, end_reason="change")
    first = rate(life.version.catalogue, life.sold("standard").product, period=period, usage={"calls": 100_150}, facts=old)
    second = rate(new.catalogue, new.catalogue.product("standard"), period=period, usage={"calls": 90_100}, facts=Facts(started_at=cut))
    assert sum(amounts) == first.total_minor + second.total_minor + 9995


async def plan_migration(life: Life, new: Version, end: datetime) -> None:
    change = Change(
        f"m-{life.account}", life.subscription_id, life.account, "provider", "period_end", "standard", life.version.version, "standard",
        new.version, "asked", 0, end, None, None, then_cancel=False,
    )  # fmt: skip
    async with life.pool.acquire() as connection, connection.transaction():
        subscription = await store.get_subscription(connection, life.subscription_id)
        assert subscription is not None
        await changing.begin(connection, change, subscription, new.price_ids("standard", "usd"), at=moment(life))
    await life.work()


@pytest.mark.parametrize("when", ["now", "period_end"])
async def test_the_customers_change_takes_the_place_of_planned_prices_at_stripe(begin: Any, pool: asyncpg.Pool, when: str) -> None:
    life = await begin("standard")
    new, end = await dearer(life, pool), period_at(life.sold("standard").product, started_at=life.started, at=life.started).end
    await life.to(moment(life))
    await plan_migration(life, new, end)
    await life.publish(life.ask("pro", when, moment(life)))
    await life.work()
    assert await life.told() == [("scheduled", None), ("withdrawn", "replaced"), ("made" if when == "now" else "scheduled", None)]
    await life.to(end)
    assert (await life.state(SubscriptionUpdated)).product_id == "pro"
    await life.settle("standard", 0, life.started, moment(life))
    await life.work()
    assert await life.prices() == set(life.version.price_ids("pro", "usd").values())


async def test_planned_prices_come_after_all_when_the_card_for_another_plan_is_declined(begin: Any, pool: asyncpg.Pool) -> None:
    life = await begin("standard")
    new, end = await dearer(life, pool), period_at(life.sold("standard").product, started_at=life.started, at=life.started).end
    await life.to(moment(life))
    await plan_migration(life, new, end)
    await life.pay_with("pm_card_chargeCustomerFail")
    await life.publish(life.ask("pro", "now", moment(life)))
    await life.work()
    assert (await life.told())[1:] == [("withdrawn", "replaced"), ("failed", "card_declined"), ("scheduled", None)]
    await life.to(end)
    assert await life.prices() == set(new.price_ids("standard", "usd").values())
    assert (await life.state(SubscriptionUpdated)).catalogue_version == new.version


async def test_a_provider_asks_once_however_often_it_is_said(begin: Any, pool: asyncpg.Pool, clock: BusinessClock) -> None:
    life = await begin("standard")
    new = await dearer(life, pool)
    change = Change(
        "m-1", life.subscription_id, life.account, "provider", "now", "standard", life.version.version, "standard", new.version, "asked", 0,
        clock.now(), None, None, then_cancel=False,
    )  # fmt: skip
    async with pool.acquire() as connection, connection.transaction():
        subscription = await store.get_subscription(connection, life.subscription_id)
        assert subscription is not None
        begun = [await changing.begin(connection, change, subscription, {}, at=clock.now()) for _ in range(2)]
    assert (begun, await life.told()) == ([True, False], [("closing", None)])
