"""Changes of a running subscription: what is charged at once, whose usage is whose, what a refused card leaves, schedules."""

from dataclasses import dataclass
from typing import Any

import pytest
import stripe

START = 1_800_000_000  # 15 January 2027, 08:00 UTC
DAY = 86_400


@dataclass
class Life:
    """A customer on a clock of its own, with one subscription."""

    v1: Any
    clock: str
    customer: str
    subscription: str

    @property
    def now(self) -> Any:
        return self.v1.subscriptions.retrieve_async(self.subscription, {"expand": ["latest_invoice"]})

    async def to(self, moment: int) -> None:
        await self.v1.test_helpers.test_clocks.advance_async(self.clock, {"frozen_time": moment})

    async def use(self, event: str, value: int, at: int) -> None:
        payload = {"stripe_customer_id": self.customer, "value": str(value)}
        await self.v1.billing.meter_events.create_async({"event_name": event, "payload": payload, "timestamp": at})

    async def lines(self) -> list[tuple[str, int]]:
        """Return (reason, amount) of every line of every invoice, the oldest first, without the zeros."""
        invoices = (await self.v1.invoices.list_async({"customer": self.customer, "limit": 100})).data
        return [(one.billing_reason, line.amount) for one in reversed(invoices) for line in one.lines.data if line.amount]

    async def pay_with(self, token: str) -> None:
        method = await self.v1.payment_methods.attach_async(token, {"customer": self.customer})
        await self.v1.subscriptions.update_async(self.subscription, {"default_payment_method": method.id})


async def plan(v1: Any, name: str, fee: int, rate: str) -> dict[str, str]:
    """Make a product with a fee and a usage price on a meter of its own; returns component -> price."""
    meter = await v1.billing.meters.create_async(
        {
            "display_name": name,
            "event_name": name,
            "default_aggregation": {"formula": "sum"},
            "value_settings": {"event_payload_key": "value"},
        }
    )
    product = await v1.products.create_async({"name": name})
    base = await v1.prices.create_async(
        {"currency": "usd", "product": product.id, "unit_amount": fee, "recurring": {"interval": "month"}, "nickname": "base"}
    )
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter.id}
    usage = await v1.prices.create_async({"currency": "usd", "product": product.id, "unit_amount_decimal": rate, "recurring": recurring})
    return {"base": base.id, "usage": usage.id, "product": product.id, "meter": meter.id}


async def live(v1: Any, prices: dict[str, str]) -> Life:
    clock = await v1.test_helpers.test_clocks.create_async({"frozen_time": START})
    customer = await v1.customers.create_async({"test_clock": clock.id})
    method = await v1.payment_methods.attach_async("pm_card_visa", {"customer": customer.id})
    order = {"customer": customer.id, "items": [{"price": prices["base"]}, {"price": prices["usage"]}], "metadata": {"plan": "small"}}
    made = await v1.subscriptions.create_async({**order, "default_payment_method": method.id})
    return Life(v1, clock.id, customer.id, made.id)


def item_of(subscription: Any, price: str) -> str:
    return next(str(item.id) for item in subscription["items"].data if item.price.id == price)


async def test_a_declined_card_leaves_everything_as_it_was_and_a_new_card_makes_the_same_change(up: Any) -> None:
    v1 = up.client.v1
    small, large = await plan(v1, "small", 1000, "1"), await plan(v1, "large", 5000, "0.5")
    life = await live(v1, small)
    await life.pay_with("pm_card_chargeCustomerFail")
    await life.to(START + 10 * DAY)
    before, events = await life.now, (await v1.events.list_async({"limit": 1})).data[0].id
    change = {
        "items": [{"id": item_of(before, small["base"]), "price": large["base"]}, {"price": large["usage"]}],
        "proration_behavior": "always_invoice", "payment_behavior": "error_if_incomplete", "metadata": {"plan": "large"},
    }  # fmt: skip
    with pytest.raises(stripe.CardError) as refused:
        await v1.subscriptions.update_async(life.subscription, change, {"idempotency_key": "first"})
    assert refused.value.code == "card_declined"
    assert (await life.now).to_dict() == before.to_dict()
    assert (await v1.events.list_async({"limit": 1})).data[0].id == events
    await life.pay_with("pm_card_visa")
    changed = await v1.subscriptions.update_async(life.subscription, change, {"idempotency_key": "second"})
    assert changed.metadata.to_dict() == {"plan": "large"}
    assert await life.lines() == [("subscription_create", 1000), ("subscription_update", -677), ("subscription_update", 3387)]


async def test_fees_are_prorated_from_a_given_second_and_usage_is_divided_where_the_change_is_made(up: Any) -> None:
    v1 = up.client.v1
    small, large = await plan(v1, "small", 3100, "1"), await plan(v1, "large", 6200, "10")
    life = await live(v1, small)
    changed_at = START + 10 * DAY + 30
    await life.to(changed_at)
    await life.use("small", 300, START + 1)
    await life.use("small", 7, changed_at - 5)  # after the second that fees are prorated from
    before = await life.now
    await v1.subscriptions.update_async(life.subscription, {
        "items": [{"id": item_of(before, small["base"]), "price": large["base"]}, {"price": large["usage"]}],
        "proration_behavior": "always_invoice", "proration_date": START + 10 * DAY,
    })  # fmt: skip
    removal = {"items": [{"id": item_of(before, small["usage"]), "deleted": True}], "proration_behavior": "always_invoice"}
    await life.to(changed_at + 20)
    await v1.subscriptions.update_async(life.subscription, removal)
    await life.use("large", 2, changed_at - 1)  # before the item was there
    await life.use("large", 5, changed_at)
    await life.to(START + 31 * DAY + 7200)
    assert await life.lines() == [
        ("subscription_create", 3100), ("subscription_update", -2100), ("subscription_update", 4200), ("subscription_update", 307),
        ("subscription_cycle", 6200), ("subscription_cycle", 50),
    ]  # fmt: skip


async def test_a_usage_price_that_is_removed_and_added_again_starts_anew(up: Any) -> None:
    v1 = up.client.v1
    small = await plan(v1, "small", 1000, "1")
    life = await live(v1, small)
    await life.use("small", 40, START)
    await life.to(START + 600)
    items = [{"id": item_of(await life.now, small["usage"]), "deleted": True}, {"price": small["usage"]}]
    await v1.subscriptions.update_async(life.subscription, {"items": items, "proration_behavior": "create_prorations"})
    await life.use("small", 2, START + 600)
    await life.to(START + 31 * DAY + 7200)
    assert sorted(await life.lines()) == [("subscription_create", 1000), *(("subscription_cycle", amount) for amount in (2, 40, 1000))]


async def test_a_change_with_nothing_to_charge_makes_no_invoice(up: Any) -> None:
    v1 = up.client.v1
    small, large = await plan(v1, "small", 1000, "1"), await plan(v1, "large", 5000, "0.5")
    life = await live(v1, small)
    first = (await life.now).latest_invoice.id
    more = {"items": [{"price": large["usage"]}], "proration_behavior": "always_invoice", "payment_behavior": "error_if_incomplete"}
    await v1.subscriptions.update_async(life.subscription, more)
    assert (await life.now).latest_invoice.id == first


async def test_a_one_off_fee_comes_on_the_invoice_of_the_change(up: Any) -> None:
    v1 = up.client.v1
    small, large = await plan(v1, "small", 1000, "1"), await plan(v1, "large", 5000, "0.5")
    life = await live(v1, small)
    setup = await v1.prices.create_async({"currency": "usd", "product": large["product"], "unit_amount": 700})
    swap = {"id": item_of(await life.now, small["base"]), "price": large["base"]}
    await v1.subscriptions.update_async(
        life.subscription, {"items": [swap], "add_invoice_items": [{"price": setup.id}], "proration_behavior": "always_invoice"}
    )
    assert sorted(await life.lines()) == [
        ("subscription_create", 1000), ("subscription_update", -1000), ("subscription_update", 700), ("subscription_update", 5000)
    ]  # fmt: skip


async def scheduled(life: Life, small: dict[str, str], large: dict[str, str], **more: Any) -> Any:
    """Plan the change to the larger product for the end of the period."""
    schedule = await life.v1.subscription_schedules.create_async({"from_subscription": life.subscription})
    first = schedule.phases[0]
    running = [{"price": small["base"], "quantity": 1}, {"price": small["usage"]}]
    phases = [
        {"items": running, "start_date": first.start_date, "end_date": first.end_date},
        {"items": [{"price": large["base"], "quantity": 1}, {"price": large["usage"]}], "metadata": {"plan": "large"}, **more},
    ]
    return await life.v1.subscription_schedules.update_async(schedule.id, {"phases": phases, "end_behavior": "release"})


async def test_a_schedule_changes_the_plan_exactly_at_the_end_of_the_period(up: Any) -> None:
    v1 = up.client.v1
    small, large = await plan(v1, "small", 1000, "1"), await plan(v1, "large", 5000, "10")
    life = await live(v1, small)
    for price in (small["base"], small["usage"]):
        await v1.prices.update_async(price, {"active": False})  # its subscribers stay on it
    schedule = await scheduled(life, small, large)
    end = schedule.phases[0].end_date
    await life.use("small", 60, START)
    await life.to(end)
    await life.use("small", 3, end - 1)
    await life.use("large", 9, end)
    now = await life.now
    assert (now.metadata.to_dict(), now.schedule) == ({"plan": "large"}, schedule.id)
    assert {item.price.id for item in now["items"].data} == {large["base"], large["usage"]}
    await life.to(end + 7200)
    assert await life.lines() == [("subscription_create", 1000), ("subscription_cycle", 5000), ("subscription_cycle", 63)]
    await life.to(now["items"].data[0].current_period_end + 7200)
    assert (await life.lines())[3:] == [("subscription_cycle", 5000), ("subscription_cycle", 90)]
    over = await v1.subscription_schedules.retrieve_async(schedule.id)
    assert (over.status, (await life.now).schedule) == ("completed", None)


async def test_what_a_phase_adds_once_stands_on_the_invoice_that_opens_it(up: Any) -> None:
    small, large = await plan(up.client.v1, "small", 1000, "1"), await plan(up.client.v1, "large", 5000, "10")
    setup = await up.client.v1.prices.create_async({"currency": "usd", "product_data": {"name": "Setup"}, "unit_amount": 700})
    life = await live(up.client.v1, small)
    schedule = await scheduled(life, small, large, add_invoice_items=[{"price": setup.id, "metadata": {"why": "new"}}])
    assert [(one.price, one.quantity) for one in schedule.phases[1].add_invoice_items] == [(setup.id, 1)]
    await up.client.v1.prices.update_async(setup.id, {"active": False})  # what was planned with it stays planned
    await life.to(schedule.phases[0].end_date)
    [item] = (await up.client.v1.invoice_items.list_async({"customer": (await life.now).customer})).data
    assert (item.amount, item.metadata.to_dict()) == (700, {"why": "new"})
    await life.to(schedule.phases[0].end_date + 7200)
    assert [amount for _, amount in await life.lines()] == [1000, 700, 5000]


@pytest.mark.parametrize(("more", "param"), [({"discounts": [{"coupon": "ten"}]}, "discounts"), ({}, "price")])
async def test_what_a_phase_cannot_add_once_is_refused(up: Any, more: dict[str, Any], param: str) -> None:
    small, large = await plan(up.client.v1, "small", 1000, "1"), await plan(up.client.v1, "large", 5000, "10")
    once = {"price": large["base"], **more}  # a price that recurs
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await scheduled(await live(up.client.v1, small), small, large, add_invoice_items=[once])
    assert caught.value.param == f"phases[1][add_invoice_items][0][{param}]"


async def test_while_a_schedule_manages_a_subscription_it_cannot_be_cancelled_and_afterwards_it_can(up: Any) -> None:
    v1 = up.client.v1
    small, large = await plan(v1, "small", 1000, "1"), await plan(v1, "large", 5000, "10")
    life = await live(v1, small)
    schedule = await scheduled(life, small, large)
    with pytest.raises(stripe.InvalidRequestError, match="managed by the subscription schedule"):
        await v1.subscriptions.update_async(life.subscription, {"cancel_at_period_end": True})
    released = await v1.subscription_schedules.release_async(schedule.id)
    assert (released.status, released.released_subscription) == ("released", life.subscription)
    with pytest.raises(stripe.InvalidRequestError):
        await v1.subscription_schedules.release_async(schedule.id)
    await v1.subscriptions.update_async(life.subscription, {"cancel_at_period_end": True})
    await life.to(schedule.phases[0].end_date + 7200)
    assert (await life.now).status == "canceled"


async def test_a_subscription_that_ends_now_takes_its_schedule_with_it(up: Any) -> None:
    v1 = up.client.v1
    small, large = await plan(v1, "small", 1000, "1"), await plan(v1, "large", 5000, "10")
    life = await live(v1, small)
    schedule = await scheduled(life, small, large)
    await v1.subscriptions.cancel_async(life.subscription, {"invoice_now": True})
    assert (await v1.subscription_schedules.retrieve_async(schedule.id)).status == "canceled"


@pytest.mark.parametrize(("what", "words"), [
    ({"end_date": START + DAY}, "end of a billing period"),
    ({"items": [{"price": "archived"}]}, "inactive"),
    ({"start_date": START + 5}, "must start where"),
])  # fmt: skip
async def test_a_schedule_that_cannot_be_carried_out_is_refused(up: Any, what: dict[str, Any], words: str) -> None:
    v1 = up.client.v1
    small, large = await plan(v1, "small", 1000, "1"), await plan(v1, "large", 5000, "10")
    life = await live(v1, small)
    schedule = await v1.subscription_schedules.create_async({"from_subscription": life.subscription})
    await v1.prices.update_async(large["base"], {"active": False})
    running = {"items": [{"price": small["base"]}, {"price": small["usage"]}], "end_date": schedule.phases[0].end_date}
    later = {"items": [{"price": small["base"]}], **what}
    if "items" in what:
        later["items"] = [{"price": large["base"]}]
    with pytest.raises(stripe.InvalidRequestError, match=words):
        await v1.subscription_schedules.update_async(schedule.id, {"phases": [running, later]})
    assert len((await v1.subscription_schedules.retrieve_async(schedule.id)).phases) == 1
