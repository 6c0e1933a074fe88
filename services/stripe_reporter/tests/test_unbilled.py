"""Usage that was counted in time and that its final invoice does not bill is said once, and only when nothing can change any more."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from billing_common.events import Event, InvoiceCreated, InvoiceFinalized, InvoiceLine, InvoiceState, UsageCollected, UsageUnbilled
from billing_common.testing import events_in_outbox
from stripe_reporter import ledger, unbilled

from .conftest import HOUR, IN_HOUR, START, Facts, StripeStandIn
from .test_reconciliation import Scene, scene

__all__ = ["scene"]  # a fixture
Publish = Callable[[Event], Awaitable[None]]
FINAL = IN_HOUR + timedelta(hours=1)
LATER = timedelta(hours=1)
OTHERS_INTENT = (  # as another subscription of the customer would have
    "insert into ledger (identifier, window_id, stripe_customer_id, event_name, stripe_meter_id, event_time, revision, quantity, "
    "created_at) select gen_random_uuid(), window_id, stripe_customer_id, event_name, stripe_meter_id, event_time, 9, 5, now() from ledger"
)


def line_of(quantity: int, *, price: str = "price_calls", start: datetime = START, end: datetime = IN_HOUR) -> InvoiceLine:
    named = {"line_id": f"il_{price}", "description": "Calls", "price_id": price}
    return InvoiceLine(**named, amount_minor=quantity, quantity=quantity, period_start=start, period_end=end)


def invoice(*lines: InvoiceLine, kind: type[InvoiceState] = InvoiceFinalized, number: int = 1, **fields: Any) -> InvoiceState:
    values: dict[str, Any] = {
        "cause_id": f"{kind.topic}-{number}-{fields.get('revision', 1)}",
        "occurred_at": FINAL,
        "subscription_id": f"s-{number}",
        "account_id": f"a-{number}",
        "revision": 1,
        "invoice_id": f"in_{number}",
        "number": "ABC-0001",
        "stripe_subscription_id": "sub_1",
        "stripe_customer_id": "cus_1",
        "status": "open",
        "billing_reason": "subscription_cycle",
        "currency": "usd",
        "total_minor": 70,
        "amount_due_minor": 70,
        "amount_paid_minor": 0,
        "amount_remaining_minor": 70,
        "period_start": START,
        "period_end": IN_HOUR,
        "created_at": IN_HOUR,
        "lines": lines,
    }
    return kind(**values | fields)


class Missing:
    """100 calls that are counted, at Stripe and settled; and an invoice. Looks go on in steps of an hour of wall time."""

    def __init__(self, scene: Scene, publish: Publish, facts: Facts) -> None:
        self.scene, self.publish, self.facts, self.pool = scene, publish, facts, scene.pool

    async def settle(self, total: int = 100, **changes: Any) -> None:
        await self.publish(self.facts.closed({"calls": total}, **changes))
        await self.scene.report()

    async def look(self) -> int:
        self.scene.wall_later += LATER
        return await unbilled.look(self.scene.stations)

    async def said(self) -> list[UsageUnbilled]:
        async with self.pool.acquire() as connection:
            return await events_in_outbox(connection, UsageUnbilled)

    async def quantities(self) -> list[tuple[str, int, int]]:
        return [(event.product_id, event.billed, event.counted) for event in await self.said()]

    async def looks_left(self) -> int:
        left: int = await self.pool.fetchval("select count(*) from invoice where look_at is not null")
        return left

    async def causes(self) -> list[tuple[str, int, bool]]:
        found = (await self.scene.look()).found
        return [(one.difference.cause, one.difference.quantity, one.difference.explained) for one in found]


@pytest.fixture
async def missing(scene: Scene, publish: Publish, facts: Facts) -> Missing:
    await scene.pool.execute(
        "insert into stripe_price (price_id, product_id, component, catalogue_version) values ('price_calls', 'payg', 'usage:calls', 1)"
    )
    scene.clock.instant = FINAL
    return Missing(scene, publish, facts)


async def test_what_a_final_invoice_lacks_is_said_once_with_all_that_billing_needs(missing: Missing) -> None:
    await missing.settle()
    await missing.publish(invoice(line_of(70)))
    assert [await missing.look(), await missing.look()] == [1, 0]
    (event,) = await missing.said()
    assert event.model_dump(exclude={"event_id", "cause_id", "unbilled_id"}) == {
        "occurred_at": FINAL, "subscription_id": "s-1", "account_id": "a-1", "invoice_id": "in_1", "invoice_number": "ABC-0001",
        "product_id": "payg", "catalogue_version": 1, "meter_id": "calls", "component": "usage:calls", "period_start": START,
        "period_end": IN_HOUR, "billed": 70, "counted": 100,
    }  # fmt: skip
    assert await missing.looks_left() == 0


@pytest.mark.parametrize("quantity", [100, 101])
async def test_an_invoice_that_bills_all_of_it_is_looked_at_once(missing: Missing, quantity: int) -> None:
    await missing.settle()
    await missing.publish(invoice(line_of(quantity)))
    assert await missing.look() == 0
    assert await missing.looks_left() == 0


async def test_two_replicas_that_look_at_once_and_one_that_looks_again_say_it_once(missing: Missing) -> None:
    await missing.settle()
    await missing.publish(invoice(line_of(70)))
    assert sum(await asyncio.gather(*(missing.look() for _ in range(4)))) == 1
    await missing.pool.execute("update invoice set look_at = now()")  # as one that died after it had said it, and had not noted the end
    assert await missing.look() == 0
    assert await missing.quantities() == [("payg", 70, 100)]


async def test_the_rest_of_what_another_replica_said_with_less_is_said_at_the_next_look(
    missing: Missing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading what was said and saying more, another replica said 80 of the 100."""
    is_sure = unbilled._is_sure

    async def other_was_first(*known: Any) -> bool:
        await missing.pool.execute(
            "insert into unbilled values (gen_random_uuid(), 'in_1', 'payg', 'calls', 'usage:calls', $1, 70, 80, $1)", START
        )
        return await is_sure(*known)

    await missing.settle()
    await missing.publish(invoice(line_of(70)))
    with monkeypatch.context() as patch:
        patch.setattr(unbilled, "_is_sure", other_was_first)
        assert await missing.look() == 0
    assert await missing.looks_left() == 1
    assert await missing.look() == 1
    assert await missing.quantities() == [("payg", 80, 100)]


async def test_one_that_cannot_be_said_is_not_kept_and_said_at_the_next_look(missing: Missing, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise OSError("no outbox")

    await missing.settle()
    await missing.publish(invoice(line_of(70)))
    with monkeypatch.context() as patch:
        patch.setattr(unbilled, "announce", broken)
        with pytest.raises(OSError, match="no outbox"):
            await missing.look()
    assert await missing.pool.fetchval("select count(*) from unbilled") == 0
    assert await missing.look() == 1
    assert await missing.quantities() == [("payg", 70, 100)]


async def test_one_that_fails_keeps_no_other_from_being_looked_at(missing: Missing, monkeypatch: pytest.MonkeyPatch) -> None:
    await missing.settle()
    for name in "abc":
        await missing.publish(invoice(line_of(70), cause_id=name, invoice_id=name))
    look_at = unbilled._look_at

    async def broken(stations: Any, invoice_id: str) -> int:
        if invoice_id == "b":
            raise ValueError(invoice_id)
        return await look_at(stations, invoice_id)

    with monkeypatch.context() as patch:
        patch.setattr(unbilled, "_look_at", broken)
        with pytest.raises(ValueError, match="b"):
            await missing.look()
    assert sorted(event.invoice_id for event in await missing.said()) == ["a", "c"]
    assert await missing.look() == 1


async def test_a_draft_is_not_looked_at_until_it_is_final(missing: Missing) -> None:
    await missing.settle()
    await missing.publish(invoice(line_of(70), kind=InvoiceCreated, status="draft"))
    assert await missing.look() == 0
    assert await missing.looks_left() == 0
    await missing.publish(invoice(line_of(80), revision=2))
    assert await missing.look() == 1
    assert await missing.quantities() == [("payg", 80, 100)]


@pytest.mark.parametrize(("status", "days"), [("void", 0), ("open", 41)])
async def test_one_that_nobody_is_to_pay_or_that_is_too_old_is_let_be(missing: Missing, status: str, days: int) -> None:
    await missing.settle()
    await missing.publish(invoice(line_of(70), status=status))
    missing.scene.clock.instant += timedelta(days=days)
    assert await missing.look() == 0
    assert await missing.looks_left() == 0


async def test_nothing_is_said_before_the_segment_is_settled(missing: Missing) -> None:
    await missing.publish(invoice(line_of(70)))
    assert await missing.look() == 0
    await missing.settle()
    assert await missing.look() == 1


async def test_an_invoice_whose_usage_has_not_come_at_all_is_looked_at_again(missing: Missing) -> None:
    await missing.pool.execute("delete from ledger")
    await missing.pool.execute("delete from usage_window")
    await missing.publish(invoice(line_of(0)))
    assert await missing.look() == 0
    assert await missing.looks_left() == 1


@pytest.mark.parametrize(
    "fault",
    [
        "update ledger set state = 'unknown'",
        "update ledger set answered_at = now() + interval '10 hours'",  # Stripe's sums may still trail
        "update usage_window set total = total + 5",
        "update usage_window set billable = null",
        "update usage_window set recorded = recorded + 5",
        OTHERS_INTENT,
    ],
)
async def test_it_waits_for_what_is_on_its_way(missing: Missing, fault: str) -> None:
    await missing.settle()
    await missing.publish(invoice(line_of(70)))
    await missing.pool.execute(fault)
    assert await missing.look() == 0
    assert await missing.looks_left() == 1


async def test_stripes_sum_that_trails_or_was_changed_by_hand_is_not_billed(missing: Missing, stripe: StripeStandIn) -> None:
    await missing.settle()
    await missing.publish(invoice(line_of(70)))
    right = dict(stripe.events)
    stripe.events.clear()
    assert await missing.look() == 0
    stripe.events |= right | {"by-hand": ("calls", "cus_1", 1, int(HOUR.timestamp()))}
    assert await missing.look() == 0
    stripe.events = right
    stripe.failures = ["500"]  # no answer is no sum
    assert await missing.look() == 0
    assert await missing.look() == 1


async def test_what_stripe_refused_is_not_said_until_it_is_taken(missing: Missing, stripe: StripeStandIn) -> None:
    earlier = HOUR - timedelta(hours=1)
    told = missing.facts.usage(40, hour=earlier).model_dump(exclude={"event_id"}) | {"cause_id": "refused", "segment_start": earlier}
    await missing.publish(UsageCollected(**told))
    stripe.refused["cus_1"] = "archived_meter"
    await missing.settle()
    await missing.settle(40, cause_id="refused", segment_start=earlier, segment_end=HOUR)
    await missing.publish(invoice(line_of(70)))
    assert await missing.look() == 1
    assert await missing.looks_left() == 1
    stripe.refused.clear()
    async with missing.pool.acquire() as connection, connection.transaction():
        await ledger.reopen_rejected(connection, "s-1", missing.scene.stations.clocks.wall)
    await missing.scene.report()
    assert sum([await missing.look() for _ in range(3)]) == 1
    assert await missing.quantities() == [("payg", 70, 100), ("payg", 100, 140)]
    assert len({event.event_id for event in await missing.said()}) == 2
    assert await missing.looks_left() == 0


async def test_other_subscriptions_of_the_customer_are_in_stripes_sum_and_not_in_what_is_missing(missing: Missing) -> None:
    await missing.publish(missing.facts.subscription(2))
    await missing.publish(missing.facts.usage(50, number=2))
    await missing.settle()
    await missing.settle(50, number=2)
    await missing.publish(invoice(line_of(70)))
    await missing.publish(invoice(line_of(50), number=2))
    assert await missing.look() == 1
    (event,) = await missing.said()
    assert (event.subscription_id, event.billed, event.counted) == ("s-1", 70, 100)


async def test_usage_of_another_plan_in_the_same_month_is_another_ones(missing: Missing) -> None:
    """The plan was changed at 9:15, and Stripe's lines are both of the whole month: each plan lacks something of its own."""
    cut = HOUR + timedelta(minutes=15)
    told = missing.facts.usage(60, product="pro").model_dump(exclude={"event_id"})
    await missing.pool.execute("insert into stripe_meter values (1, 'pro', 'calls', 'mtr_pro', 'pro')")
    await missing.pool.execute(
        "insert into stripe_price (price_id, product_id, component, catalogue_version) values ('price_pro', 'pro', 'usage:calls', 1)"
    )
    await missing.publish(UsageCollected(**told | {"cause_id": "pro", "segment_start": cut, "timestamp": cut}))
    await missing.settle(100, segment_end=cut, reason="change")
    await missing.settle(60, cause_id="closed-pro", segment_start=cut)
    await missing.publish(invoice(line_of(70), line_of(20, price="price_pro")))
    assert await missing.look() == 2
    assert sorted(await missing.quantities()) == [("payg", 70, 100), ("pro", 20, 60)]
    assert await missing.looks_left() == 0


async def test_slices_of_a_tiered_price_are_one_quantity(missing: Missing) -> None:
    await missing.settle()
    await missing.publish(invoice(line_of(50), line_of(20)))
    assert await missing.look() == 1
    assert await missing.quantities() == [("payg", 70, 100)]


@pytest.mark.parametrize(("versions", "of_line", "expected"), [([1], 1, 1), ([2], 1, 2), ([1, 2], 1, 1), ([1, 2], None, 2)])
async def test_the_policy_is_that_of_the_version_it_was_counted_under(
    missing: Missing, versions: list[int], of_line: int | None, expected: int
) -> None:
    """Where the prices changed within its time it is the version that sells at the line's price."""
    await missing.publish(missing.facts.catalogue(2))
    await missing.publish(missing.facts.usage(7, hour=HOUR - timedelta(hours=1)))
    await missing.settle(107)
    await missing.pool.execute("update usage_window set catalogue_version = $1 where total = 7", versions[0])
    await missing.pool.execute("update usage_window set catalogue_version = $1 where total = 100", versions[-1])
    await missing.pool.execute("update stripe_price set catalogue_version = $1", of_line)
    await missing.publish(invoice(line_of(70)))
    assert await missing.look() == 1
    assert [event.catalogue_version for event in await missing.said()] == [expected]


async def test_looks_become_rarer(missing: Missing) -> None:
    await missing.publish(invoice(line_of(70)))  # not settled: it stays
    for _ in range(200):
        await missing.look()
    looks = await missing.pool.fetchval("select looks from invoice")
    assert 20 < looks < 80
    ahead = await missing.pool.fetchval("select look_at - $1 from invoice", missing.scene.stations.clocks.wall)
    assert ahead <= timedelta(days=1)


async def test_reconciliation_says_that_it_is_coming_then_that_it_is_billed_later(missing: Missing) -> None:
    missing.scene.wall_later = timedelta(0)
    await missing.settle()
    await missing.publish(invoice(line_of(70)))
    assert await missing.causes() == [("in_flight", -30, True)]  # Stripe's sums may trail
    missing.scene.wall_later = LATER
    assert await missing.causes() == [("after_the_invoice", -30, False)]  # nobody has found it in time
    assert await missing.look() == 1
    assert await missing.causes() == [("billed_later", -30, True)]
    await missing.pool.execute("update usage_window set total = total + 5, recorded = recorded + 5, acknowledged = acknowledged + 5")
    assert ("billed_later", -30, True) in await missing.causes()
    assert ("after_the_invoice", -5, False) in await missing.causes()
