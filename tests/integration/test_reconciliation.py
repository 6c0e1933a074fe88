"""Reconciliation on the running stack: planted differences are named with cause, age and money, and repaired where that is safe."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest
from whole_system import Customer, World, eventually

pytestmark = pytest.mark.timeout(300)
DIFFERENT = 2


async def turnpike(world: World, *arguments: str, code: int = 0) -> Any:
    """Run the command as a person does; returns what it printed as JSON."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "turnpike_cli", *arguments, "--json", "--data", str(world.stack.folder),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, error = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == code, (process.returncode, out[-3000:], error[-1000:])
    return json.loads(out)


async def reconciled(world: World, customer: Customer, *arguments: str, code: int = 0) -> dict[str, Any]:
    answer = await turnpike(world, "reconcile", "--subscription", customer.subscription_id, *arguments, code=code)
    (found,) = answer["subscriptions"]
    return {**found, "repaired": [line for one in answer["repaired"] for line in one["done"]]}


def by_cause(found: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    causes: dict[str, list[dict[str, Any]]] = {}
    for row in found["differences"]:
        causes.setdefault(row["cause"], []).append(row)
    return causes


@asynccontextmanager
async def tables_of(world: World, service: str) -> AsyncIterator[asyncpg.Connection]:
    """Reach into a service's tables, as a fault or a careless administrator would."""
    connection = await asyncpg.connect(world.stack.wiring.database_url(service), timeout=10)
    try:
        await connection.execute(f'set search_path to "{service}"')
        yield connection
    finally:
        await connection.close(timeout=5)


@asynccontextmanager
async def held_late_usage(world: World) -> AsyncIterator[None]:
    """Sell enterprise as before, but keep late usage for a person; afterwards it is sold as before again."""
    document = await world.catalogue()
    changed = deepcopy(document)
    for product in changed["products"]:
        if product["id"] == "enterprise":
            product.setdefault("policies", {})["late_usage"] = "hold"
    await world.doors.ask("checkout", "POST", "/v1/catalogue/apply", body=changed)
    await world.clock.settle()
    yield
    await world.doors.ask("checkout", "POST", "/v1/catalogue/apply", body=document)
    await world.clock.settle()


async def send_raw(world: World, customer: Customer, at: datetime, name: str, **fields: Any) -> None:
    """Write one usage event straight to the stream, as a sender of yesterday's version or a replay would."""
    event = {
        "specversion": "1.0", "id": name, "source": f"/{customer.person.name}", "type": "turnpike.usage",
        "subject": customer.subscription_id, "time": at.isoformat(), "data": {"meter": "calls", "quantity": 1_000, **fields},
    }  # fmt: skip
    await world.publish("usage.recorded", json.dumps([event]).encode(), key=customer.subscription_id.encode())


async def bins(world: World, customer: Customer, outcome: str, events: int) -> None:
    """Wait until the collector has so many events of an outcome."""

    async def ask() -> int:
        return int((await reconciled_or_not(world, customer))["events"].get(outcome, 0))

    await eventually(f"{events} {outcome} events", ask, lambda found: found >= events)


async def reconciled_or_not(world: World, customer: Customer) -> dict[str, Any]:
    now = await world.clock.now()
    body = {"subscriptions": [customer.subscription_id], "from": (now - timedelta(days=62)).isoformat(), "to": now.isoformat()}
    (found,) = await world.doors.ask("stripe_reporter", "POST", "/v1/reconciliations", body=body)
    return dict(found)


async def after_the_hour(world: World) -> None:
    """Let the hour end and its usage be reported."""
    await world.clock.settle()
    await world.clock.advance_by(timedelta(hours=2))
    await world.clock.settle()


async def test_a_system_in_which_nothing_went_wrong_shows_no_difference(world: World) -> None:
    customer = await world.join("payg")
    await customer.person.call_many(world.http, 60, failing=5)
    await after_the_hour(world)
    found = await reconciled(world, customer)
    answered = customer.person.calls[200]
    (meter,) = found["meters"]
    assert {meter[name] for name in ("counted", "windows", "told", "acknowledged", "stripe")} == {answered}
    assert (found["agrees"], found["problems"]) == (True, [])
    assert not [row for row in found["differences"] if row["needs_attention"]]
    failed = by_cause(found)["filter"]
    assert sum(row["quantity"] for row in failed) == answered - sum(customer.person.calls.values())
    assert found["gateway_received"] == sum(found["events"].values()) == sum(customer.person.calls.values())


async def test_late_rejected_repeated_and_running_usage_are_each_named_with_age_and_money(world: World) -> None:
    async with held_late_usage(world):
        customer = await world.join("enterprise")
    await world.send_usage(customer, 3_000_000, again=1)
    last_month = await world.clock.now()
    await world.end_the_month()
    await world.clock.settle()
    now = await world.clock.now()
    await world.send_usage(customer, 1_600_000, again=0)
    await send_raw(world, customer, last_month, "late-1", quantity=1_500_000)
    await send_raw(world, customer, now, "wrong-1", meter="nonsense")
    await bins(world, customer, "held", 1)
    await bins(world, customer, "rejected", 1)
    await world.clock.settle()
    found = await reconciled(world, customer, code=DIFFERENT)
    causes = by_cause(found)
    # a sender whose answer was lost sends once more, and so may the broker
    assert sum(row["quantity"] for row in causes["duplicate"]) <= -1
    (late,) = causes["late"]
    assert (late["quantity"], late["explained"], late["needs_attention"]) == (-1, True, True)
    assert late["age_seconds"] >= (now - last_month).total_seconds() - 86_400
    assert late["amount_minor"] == -74_995  # one more block of 1,500,000
    (rejected,) = causes["rejected"]
    assert (rejected["quantity"], rejected["needs_attention"]) == (-1, True)
    (running,) = causes["in_flight"]
    assert (running["quantity"], running["amount_minor"], running["currency"]) == (-1_600_000, -74_995, "usd")
    assert all(row["explained"] for row in found["differences"])


async def test_what_nobody_can_explain_is_named_raises_the_metric_and_only_what_is_safe_is_repaired(world: World) -> None:
    customer = await world.join("payg")
    await customer.person.call_many(world.http, 40)
    await after_the_hour(world)
    assert (await reconciled(world, customer))["agrees"]
    await send_by_hand(world, customer, 500)
    await alter_a_window(world, customer, 7)
    before = customer.person.calls[200]
    await customer.person.call_many(world.http, 30)
    await world.clock.settle()
    async with tables_of(world, "stripe_reporter") as connection:  # a total that nobody will send by itself
        changed = await connection.execute(
            "update usage_window set due_at = null where subscription_id = $1 and total > recorded", customer.subscription_id
        )
        assert changed != "UPDATE 0"
    await after_the_hour(world)
    found = await reconciled(world, customer, code=DIFFERENT)
    causes = by_cause(found)
    sent_by_hand, altered, unsent = causes["manual_change_in_stripe"][0], causes["miscounted"][0], causes["overdue"][0]
    later = customer.person.calls[200] - before
    assert sent_by_hand["quantity"] == 500
    assert sent_by_hand["amount_minor"] in {74, 75, 76}  # 500 calls at $0.15 for 100, each bill rounded
    assert (altered["station"], altered["quantity"]) == ("events-windows", 7)
    assert (unsent["station"], unsent["quantity"]) == ("told-ledger", -later)
    assert unsent["amount_minor"] < 0
    assert not any(row["explained"] for row in (sent_by_hand, altered, unsent))
    assert await unexplained(world) >= 3
    repaired = await reconciled(world, customer, "--repair", code=DIFFERENT)
    assert any("overdue are sent now" in line for line in repaired["repaired"])
    assert any("never lowered by guess" in line for line in repaired["repaired"])
    await world.clock.settle()
    after = by_cause(await reconciled(world, customer, code=DIFFERENT))
    assert "overdue" not in after
    assert after["manual_change_in_stripe"][0]["quantity"] == 500
    assert after["miscounted"][0]["quantity"] == 7
    await alter_a_window(world, customer, -7)  # what does not add up keeps its month from being closed


async def alter_a_window(world: World, customer: Customer, quantity: int) -> None:
    async with tables_of(world, "usage_collector") as connection:
        await connection.execute(
            "update usage_window set quantity = quantity + $2 where (segment_id, meter_id, hour) = (select segment_id, meter_id, hour "
            "from usage_window w join segment s on s.id = w.segment_id where s.subscription_id = $1 order by hour limit 1)",
            customer.subscription_id,
            quantity,
        )


async def send_by_hand(world: World, customer: Customer, quantity: int) -> None:
    """Send a meter event as somebody with the dashboard or a script would."""
    found = await world.stripe.client.v1.subscriptions.retrieve_async(customer.stripe_id)
    when = int((await world.clock.now()).timestamp()) - 600
    payload = {"stripe_customer_id": str(found.customer), "value": str(quantity)}
    await world.stripe.client.v1.billing.meter_events.create_async(
        {"event_name": "turnpike_payg_calls", "payload": payload, "timestamp": when, "identifier": f"by-hand-{customer.subscription_id}"}
    )


async def unexplained(world: World) -> float:
    """Start the reporter again, whose first act is the comparison that the alert looks at; returns the metric."""
    await world.crash("stripe_reporter")
    async with tables_of(world, "stripe_reporter") as connection:  # as if the last run were an hour ago
        await connection.execute("delete from reconciliation_run")
    await world.revive()

    async def ask() -> float:
        return await world.sum_of_metric("stripe_reporter", "turnpike_reconciliation_unexplained")

    return await eventually("the metric of unexplained differences", ask, lambda found: found >= 1)
