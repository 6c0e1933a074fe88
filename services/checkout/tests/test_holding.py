"""Drafts whose usage is not all at Stripe: held open shortly before they become final, released when it is, never twice."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
import stripe

from billing_common import testing
from billing_common.clock import BusinessClock
from billing_common.events import Event, InvoiceCreated, InvoiceFinalized
from checkout import handlers_payment, store_drafts
from checkout.holding import HELD, HELD_LONG, REFUSED, Holder, Patience
from checkout.intents import Worker
from checkout.store_catalogue import Version
from checkout.stripe_drafts import StripeDrafts
from checkout.stripe_gateway import StripeGateway, StripeRefusedError

Publish = Callable[[Event], Awaitable[None]]
HOUR = timedelta(hours=1)
HALF = timedelta(minutes=30)
PATIENCE = Patience(margin=HALF, after=HALF, alert=6 * HOUR)
NAMES = {"subscription_id": "s-1", "account_id": "a-1"}


class MovedClock(BusinessClock):
    """A business clock that the test sets."""

    at = datetime(2026, 11, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at


@dataclass
class Month:
    """A subscription at Stripe on a test clock, its usage, and what Turnpike hears of it."""

    api: stripe.StripeClient
    pool: asyncpg.Pool
    publish: Publish
    clock: MovedClock
    holder: Holder
    worker: Worker
    stripe_clock: str
    customer: str
    subscription: str
    start: datetime
    end: datetime

    async def at(self, moment: datetime) -> None:
        """Let both clocks run to an instant."""
        clocks = self.api.v1.test_helpers.test_clocks
        await clocks.advance_async(self.stripe_clock, {"frozen_time": int(moment.timestamp())})
        for _ in range(100):
            if (await clocks.retrieve_async(self.stripe_clock)).status == "ready":
                break
            await asyncio.sleep(0.05)
        self.clock.at = moment

    async def uses(self, calls: int, name: str) -> None:
        sent: Any = {
            "event_name": "turnpike_payg_calls",
            "payload": {"stripe_customer_id": self.customer, "value": str(calls)},
            "timestamp": int(self.start.timestamp()) + 60,
            "identifier": f"{self.subscription}:{name}",
        }
        await self.api.v1.billing.meter_events.create_async(sent)

    async def invoice(self) -> Any:
        listed = await self.api.v1.invoices.list_async({"subscription": self.subscription, "limit": 20})
        return next(one for one in listed.data if one.period_end == int(self.end.timestamp()))

    async def tell(self, kind: type[Any], revision: int) -> None:
        """Publish the invoice as Stripe has it now."""
        found = await self.invoice()
        final = found.automatically_finalizes_at
        amounts = ("total", "amount_due", "amount_paid", "amount_remaining")
        event = kind(
            cause_id=f"{found.id}-{revision}", occurred_at=self.clock.now(), revision=revision, invoice_id=found.id, status=found.status,
            stripe_subscription_id=self.subscription, stripe_customer_id=self.customer, billing_reason=found.billing_reason,
            currency=found.currency, period_start=self.start, period_end=self.end, created_at=self.end,
            finalizes_at=None if final is None else datetime.fromtimestamp(final, UTC),
            **{f"{name}_minor": getattr(found, name) for name in amounts}, **NAMES,
        )  # fmt: skip
        await self.publish(event)

    async def settle(self) -> None:
        await self.pool.execute("insert into settled_segment values ('s-1', $1, $2, '{}')", self.start, self.end)

    async def look(self) -> int:
        """Decide and make the calls; returns how many were decided on."""
        found = await self.holder.once()
        while await self.worker.drain():
            pass
        return found

    async def state(self) -> str:
        return str(await self.pool.fetchval("select state from draft"))

    async def drafted(self) -> None:
        """The month is over and its draft is known; 100 calls of it are at Stripe."""
        await self.uses(100, "in-time")
        await self.at(self.end + timedelta(seconds=5))
        await self.tell(InvoiceCreated, 1)


@pytest.fixture
async def month(applied: Version, pool: asyncpg.Pool, stripe_api: stripe.StripeClient, gateway: StripeGateway) -> Any:
    start = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = (start + timedelta(days=32)).replace(day=1)
    clock = MovedClock()
    clock.at = start
    frozen = await stripe_api.v1.test_helpers.test_clocks.create_async({"frozen_time": int(start.timestamp())})
    customer = await stripe_api.v1.customers.create_async({"test_clock": frozen.id})
    method = await stripe_api.v1.payment_methods.attach_async("pm_card_visa", {"customer": customer.id})
    params: Any = {
        "customer": customer.id,
        "default_payment_method": method.id,
        "items": [{"price": price} for price in applied.price_ids("payg", "usd").values()],
        "billing_mode": {"type": "flexible"},
        "billing_cycle_anchor_config": {"day_of_month": 1, "hour": 0, "minute": 0, "second": 0},
    }
    subscription = await stripe_api.v1.subscriptions.create_async(params)
    holder = Holder(pool, StripeDrafts(stripe_api), clock, PATIENCE)
    worker = Worker(pool, gateway, poll_seconds=0.1, steps=holder.steps())
    async with testing.memory_kafka(handlers_payment.router, pool=pool, clock=clock) as publish:
        yield Month(stripe_api, pool, publish, clock, holder, worker, frozen.id, customer.id, subscription.id, start, end)


async def test_usage_that_comes_hours_after_the_month_is_billed_with_it_where_the_reporter_was_out(month: Month) -> None:
    await month.drafted()
    assert await month.look() == 0  # half an hour is left: usage is on its way every month
    await month.at(month.end + HALF + timedelta(seconds=6))
    assert await month.holder.waiting_for() == "1 drafts to hold or to release"
    assert (await month.look(), await month.state()) == (1, "held")
    await month.at(month.end + 5 * HOUR)  # the reporter was away for all of the draft's hour, and longer
    await month.uses(50, "late")
    await month.tell(InvoiceCreated, 2)  # told again without a time: it stays held
    assert (await month.look(), await month.state()) == (0, "held")
    assert (await month.invoice()).status == "draft"
    await month.settle()
    assert (await month.look(), await month.state()) == (1, "released")
    assert (await month.look(), await month.holder.waiting_for()) == (0, None)
    await month.at(month.end + 5 * HOUR + HALF - timedelta(seconds=5))
    assert (await month.invoice()).status == "draft"  # Stripe's sums trail
    await month.at(month.end + 5 * HOUR + HALF + timedelta(seconds=5))
    found = await month.invoice()
    assert (found.status, [(line.quantity, line.amount) for line in found.lines.data]) == ("paid", [(150, 23)])


async def test_usage_that_is_complete_in_time_holds_nothing(month: Month) -> None:
    await month.drafted()
    await month.settle()
    assert await month.holder.next_due() is None
    await month.at(month.end + timedelta(minutes=59))
    assert (await month.look(), await month.state()) == (0, "open")
    await month.at(month.end + 2 * HOUR)
    assert (await month.invoice()).status == "paid"


async def test_a_jump_of_the_clock_stops_where_a_draft_is_to_be_held(month: Month) -> None:
    await month.drafted()
    final = (await month.invoice()).automatically_finalizes_at
    assert await month.holder.next_due() == datetime.fromtimestamp(final, UTC) - HALF


async def test_what_was_final_first_is_not_held_and_is_collected(month: Month) -> None:
    await month.drafted()
    await month.at(month.end + 2 * HOUR)
    assert (await month.look(), await month.state()) == (1, "final")
    assert (await month.invoice()).status == "paid"


async def test_a_draft_that_becomes_final_in_this_moment_is_collected_all_the_same(month: Month, monkeypatch: pytest.MonkeyPatch) -> None:
    await month.drafted()
    await month.at(month.end + HALF + timedelta(seconds=6))
    seen = await month.invoice()
    invoices = month.api.v1.invoices
    await invoices.finalize_invoice_async(seen.id, {"auto_advance": False})

    async def earlier(_: str) -> Any:
        return seen

    monkeypatch.setattr(invoices, "retrieve_async", earlier)
    drafts = StripeDrafts(month.api)
    monkeypatch.setattr(drafts, "_v1", type("V1", (), {"invoices": invoices})())
    assert await drafts.hold(seen.id, key=f"moment:{seen.id}") is False
    monkeypatch.undo()
    assert (await month.invoice()).auto_advance is True


async def test_a_draft_that_stripe_refuses_to_hold_is_counted_once(month: Month, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_drafts: StripeDrafts, _invoice_id: str, *, key: str) -> bool:
        raise StripeRefusedError("invoice_not_editable", key)

    monkeypatch.setattr(StripeDrafts, "hold", refuse)
    before = REFUSED._value.get()
    await month.drafted()
    await month.at(month.end + HALF + timedelta(seconds=6))
    assert (await month.look(), await month.state()) == (1, "refused")
    assert await month.look() == 0
    assert REFUSED._value.get() - before == 1


async def test_a_person_who_makes_a_held_draft_final_ends_the_hold(month: Month) -> None:
    await month.drafted()
    await month.at(month.end + HALF + timedelta(seconds=6))
    await month.look()
    await month.api.v1.invoices.finalize_invoice_async((await month.invoice()).id)
    await month.tell(InvoiceFinalized, 2)
    await month.settle()
    assert (await month.look(), await month.state()) == (0, "final")


async def test_the_end_of_an_invoice_may_be_heard_of_first(month: Month) -> None:
    await month.drafted()
    await month.pool.execute("truncate draft, inbox")
    await month.tell(InvoiceFinalized, 2)
    await month.tell(InvoiceCreated, 1)
    assert await month.state() == "final"


async def test_a_change_of_plan_whose_usage_is_not_settled_keeps_the_draft_open(month: Month) -> None:
    await month.drafted()
    await month.settle()
    await month.pool.execute("insert into account (account_id, stripe_customer_id) values ('a-1', $1)", month.customer)
    await month.pool.execute(
        "insert into subscription (subscription_id, account_id, user_id, product_id, catalogue_version, display_name, currency, free, "
        "state, requested_at) values ('s-1', 'a-1', 'u-1', 'payg', 1, 'Weather', 'usd', false, 'live', now())"
    )
    add = (
        "insert into plan_change (change_id, subscription_id, account_id, asked_by, timing, from_product_id, from_catalogue_version, "
        "product_id, catalogue_version, state, effective_at, requested_at) "
        "values ('c-1', 's-1', 'a-1', 'customer', 'now', 'basic', 1, 'payg', 1, 'made', $1, $1)"
    )
    await month.pool.execute(add, month.end - 3 * HOUR)
    await month.at(month.end + HALF + timedelta(seconds=6))
    assert (await month.look(), await month.state()) == (1, "held")
    await month.pool.execute("update plan_change set state = 'done'")
    assert (await month.look(), await month.state()) == (1, "released")


async def test_a_draft_that_is_held_for_long_is_shown(month: Month) -> None:
    await month.drafted()
    await month.at(month.end + HALF + timedelta(seconds=6))
    await month.look()
    await month.look()
    assert (HELD._value.get(), HELD_LONG._value.get()) == (1, 0)
    month.clock.at += 6 * HOUR + timedelta(seconds=1)
    await month.look()
    assert (HELD._value.get(), HELD_LONG._value.get()) == (1, 1)
    assert await store_drafts.held(month.pool, month.clock.at - 7 * HOUR) == (1, 0)
