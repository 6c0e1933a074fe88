"""The billing engine: calendar starts, prorations, plan changes, ends, grace for late usage, restarts."""

import asyncio
import json
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import stripe

CALENDAR = {"billing_cycle_anchor_config": {"day_of_month": 1, "hour": 0, "minute": 0, "second": 0}}


def next_month(moment: int) -> int:
    day = datetime.fromtimestamp(moment, UTC).replace(day=1, hour=0, minute=0, second=0)
    return int(day.replace(year=day.year + day.month // 12, month=day.month % 12 + 1).timestamp())


def this_month(moment: int) -> int:
    return int(datetime.fromtimestamp(moment, UTC).replace(day=1, hour=0, minute=0, second=0).timestamp())


async def test_a_calendar_start_in_mid_month_bills_the_part_that_is_left_to_the_second(up: Any) -> None:
    made = await up.make_catalogue()
    session = await up.check_out([{"price": made["base"].id, "quantity": 1}, {"price": made["usage"].id}], subscription_data=CALENDAR)
    subscription = session.subscription
    start, end = subscription.start_date, next_month(subscription.start_date)
    assert {item.current_period_end for item in subscription["items"].data} == {end}
    exact = 8995 * (end - start) / (end - this_month(start))
    line = subscription.latest_invoice.lines.data[0]
    assert abs(line.amount - exact) <= 0.5
    assert line.parent.subscription_item_details.proration is True
    await up.move_to(end + 3700)
    cycle = (await up.client.v1.invoices.list_async({"subscription": subscription.id, "limit": 1})).data[0]
    assert (cycle.status, cycle.total, cycle.period_start, cycle.period_end) == ("paid", 8995, start, end)
    assert [(one.period.start, one.period.end) for one in cycle.lines.data] == [(end, next_month(end)), (start, end)]


async def test_without_prorations_the_part_before_the_anchor_is_free(up: Any) -> None:
    made = await up.make_catalogue()
    data = {**CALENDAR, "proration_behavior": "none"}
    session = await up.check_out([{"price": made["base"].id, "quantity": 1}], subscription_data=data)
    assert (session.amount_total, session.invoice) == (0, None)


async def test_usage_up_to_the_final_invoice_counts_and_later_usage_of_the_period_does_not(up: Any) -> None:
    made = await up.make_catalogue()
    session = await up.check_out([{"price": made["usage"].id}])
    end = session.subscription["items"].data[0].current_period_end

    async def report(value: int, moment: int) -> None:
        payload = {"stripe_customer_id": session.customer, "value": str(value)}
        await up.client.v1.billing.meter_events.create_async({"event_name": "calls", "payload": payload, "timestamp": moment})

    await report(100_000, min(up.sandbox.world.business_now(), end - 86400))
    await up.move_to(end + 60)
    draft = (await up.client.v1.invoices.list_async({"limit": 1})).data[0]
    assert (draft.status, draft.total, draft.automatically_finalizes_at) == ("draft", 0, end + 3600)
    await report(150_000, end - 1)
    await report(7, end)  # belongs to the next period
    await up.move_to(end + 3601)
    final = await up.client.v1.invoices.retrieve_async(draft.id)
    assert (final.status, final.total, [line.quantity for line in final.lines.data]) == ("paid", 15_000, [100_000, 150_000])
    await report(1_000_000, end - 1)
    assert (await up.client.v1.invoices.retrieve_async(draft.id)).total == 15_000


async def test_an_end_at_the_periods_end_bills_the_last_usage_and_no_new_base_fee(up: Any) -> None:
    made = await up.make_catalogue()
    session = await up.check_out([{"price": made["base"].id, "quantity": 1}, {"price": made["usage"].id}])
    end = session.subscription["items"].data[0].current_period_end
    await up.client.v1.billing.meter_events.create_async(
        {"event_name": "calls", "payload": {"stripe_customer_id": session.customer, "value": "110000"}}
    )
    updated = await up.client.v1.subscriptions.update_async(session.subscription.id, {"cancel_at_period_end": True})
    assert (updated.cancel_at, updated.status) == (end, "active")
    await up.move_to(end + 3700)
    gone = await up.client.v1.subscriptions.retrieve_async(session.subscription.id, {"expand": ["latest_invoice"]})
    assert (gone.status, gone.ended_at, gone.cancellation_details.reason) == ("canceled", end, "cancellation_requested")
    assert (gone.latest_invoice.status, gone.latest_invoice.total) == ("paid", 1000)
    assert (await up.client.v1.subscriptions.list_async({"customer": session.customer})).data == []
    assert up.sandbox.world.store.next_transition() is None


async def test_a_total_below_the_minimum_charge_waits_on_the_customers_balance(up: Any) -> None:
    made = await up.make_catalogue()
    session = await up.check_out([{"price": made["usage"].id}])
    await up.client.v1.billing.meter_events.create_async(
        {"event_name": "calls", "payload": {"stripe_customer_id": session.customer, "value": "100100"}}
    )
    await up.move_to(session.subscription["items"].data[0].current_period_end + 3700)
    invoice = (await up.client.v1.invoices.list_async({"limit": 1})).data[0]
    assert (invoice.total, invoice.amount_due, invoice.ending_balance, invoice.status) == (10, 0, 10, "paid")
    assert (await up.client.v1.customers.retrieve_async(session.customer)).balance == 10


async def test_an_upgrade_in_mid_period_credits_and_charges_to_the_second(up: Any) -> None:
    v1 = up.client.v1
    made = await up.make_catalogue()
    bigger = await v1.prices.create_async(
        {"currency": "usd", "product": made["product"].id, "unit_amount": 44995, "recurring": {"interval": "month"}}
    )
    clock = await v1.test_helpers.test_clocks.create_async({"frozen_time": 1_800_000_000})
    customer = await v1.customers.create_async({"test_clock": clock.id, "payment_method": "pm_card_visa"})
    method = (await v1.payment_methods.list_async({"customer": customer.id})).data[0].id
    subscription = await v1.subscriptions.create_async(
        {"customer": customer.id, "items": [{"price": made["base"].id}], "default_payment_method": method}
    )
    item = subscription["items"].data[0]
    half = (item.current_period_start + item.current_period_end) // 2
    await v1.test_helpers.test_clocks.advance_async(clock.id, {"frozen_time": half})
    change = {"items": [{"id": item.id, "price": bigger.id}], "proration_behavior": "always_invoice"}
    preview = await v1.invoices.create_preview_async({"subscription": subscription.id, "subscription_details": change})
    changed = await v1.subscriptions.update_async(subscription.id, {**change, "expand": ["latest_invoice"]})
    assert [line.amount for line in changed.latest_invoice.lines.data] == [-4498, 22498]
    assert (changed.latest_invoice.total, changed.latest_invoice.status, preview.total) == (18_000, "paid", 18_000)
    assert changed["items"].data[0].price.id == bigger.id
    upcoming = await v1.invoices.create_preview_async({"subscription": subscription.id})
    assert (upcoming.total, upcoming.status) == (44_995, "draft")
    assert len((await v1.invoices.list_async({"customer": customer.id})).data) == 2


async def test_a_test_clock_stands_still_and_makes_everything_due_on_the_way(up: Any) -> None:
    v1 = up.client.v1
    made = await up.make_catalogue()
    clock = await v1.test_helpers.test_clocks.create_async({"frozen_time": 1_800_000_000})
    customer = await v1.customers.create_async({"test_clock": clock.id, "payment_method": "pm_card_chargeCustomerFail"})
    method = (await v1.payment_methods.list_async({"customer": customer.id})).data[0].id
    order = {"customer": customer.id, "items": [{"price": made["base"].id}], "default_payment_method": method}
    with pytest.raises(stripe.CardError):
        await v1.subscriptions.create_async({**order, "payment_behavior": "error_if_incomplete"})
    subscription = await v1.subscriptions.create_async(order)
    assert subscription.status == "incomplete"
    with pytest.raises(stripe.InvalidRequestError):
        await v1.test_helpers.test_clocks.advance_async(clock.id, {"frozen_time": 1_800_000_000})
    await v1.test_helpers.test_clocks.advance_async(clock.id, {"frozen_time": 1_800_000_000 + 86_400})
    expired = await v1.subscriptions.retrieve_async(subscription.id, {"expand": ["latest_invoice"]})
    assert (expired.status, expired.latest_invoice.status) == ("incomplete_expired", "void")
    assert expired.ended_at == 1_800_000_000 + 23 * 3600


async def test_while_unpaid_new_invoices_stay_drafts(up: Any, card: dict[str, str]) -> None:
    made = await up.make_catalogue()
    session = await up.check_out([{"price": made["base"].id, "quantity": 1}])
    portal = await up.client.v1.billing_portal.sessions.create_async({"customer": session.customer})
    await up.http.post(f"{portal.url}/card", data={**card, "number": "4000000000000341"})
    end = session.subscription["items"].data[0].current_period_end
    await up.move_to(end + 40 * 86_400)
    found = await up.client.v1.invoices.list_async({"customer": session.customer})
    assert [(one.status, one.auto_advance) for one in found.data] == [("draft", False), ("open", True), ("paid", False)]
    with pytest.raises(stripe.CardError) as caught:
        await up.client.v1.invoices.pay_async(found.data[1].id)
    assert (caught.value.code, caught.value.error.decline_code) == ("card_declined", "generic_decline")
    assert (await up.client.v1.invoices.retrieve_async(found.data[1].id)).attempt_count == 5


async def test_everything_is_there_after_a_kill(tmp_path: Path) -> None:
    environment = {
        **os.environ, "SANDBOX_STRIPE_DATA_PATH": str(tmp_path / "kept.sqlite3"), "SANDBOX_STRIPE_HTTP_PORT": "0",
    }  # fmt: skip
    environment["SANDBOX_STRIPE_HTTP_PORT"] = str(free_port())
    base = f"http://127.0.0.1:{environment['SANDBOX_STRIPE_HTTP_PORT']}"
    key = {"Authorization": "Bearer sk_test_turnpike_sandbox"}
    async with httpx.AsyncClient(base_url=base, headers=key) as client:
        process = await start(client, environment)
        made = (await client.post("/v1/customers", data={"email": "a@example.com"}, headers={"Idempotency-Key": "k"})).json()
        await client.put("/_sandbox/clock", json={"offset_seconds": 86_400})
        process.kill()
        await process.wait()
        process = await start(client, environment)
        assert (await client.get(f"/v1/customers/{made['id']}")).json() == made
        again = await client.post("/v1/customers", data={"email": "a@example.com"}, headers={"Idempotency-Key": "k"})
        assert (again.json()["id"], again.headers["idempotent-replayed"]) == (made["id"], "true")
        assert (await client.get("/_sandbox/clock")).json()["offset_seconds"] == 86_400
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def start(client: httpx.AsyncClient, environment: dict[str, str]) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "sandbox_stripe", env=environment)
    for _ in range(600):
        try:
            if (await client.get("/health/ready")).status_code == 200:
                return process
        except httpx.TransportError:
            await asyncio.sleep(0.05)
    process.kill()
    raise AssertionError(json.dumps({"exit": process.returncode}))
