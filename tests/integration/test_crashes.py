"""Processes die in the middle of the story; the totals are those of a story in which none did."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from dateutil.relativedelta import relativedelta
from whole_system import Customer, World, eventually

from turnpike_cli.clock import BusinessTime, Step
from turnpike_cli.doors import Doors

pytestmark = pytest.mark.timeout(420)
QUANTITY = 30_000
CALL_PAUSE_SECONDS = 0.1  # with two calls a round: far below the rate of every plan used here


@asynccontextmanager
async def traffic(world: World, callers: list[Customer], senders: list[Customer]) -> AsyncIterator[None]:
    """Let usage flow, from keys at the gateway and from senders at the ingest door, for as long as the block takes."""
    ending = asyncio.Event()

    async def call(customer: Customer) -> None:
        while not ending.is_set():
            for path in ("/orders", "/orders/unknown"):
                await customer.person.call(world.http, path)
            await asyncio.sleep(CALL_PAUSE_SECONDS * len(callers) * 4)

    async def send(customer: Customer) -> None:
        while not ending.is_set():
            await world.send_usage(customer, QUANTITY)
            await asyncio.sleep(CALL_PAUSE_SECONDS)

    async with asyncio.TaskGroup() as tasks:
        for customer in callers:
            tasks.create_task(call(customer))
        for customer in senders:
            tasks.create_task(send(customer))
        try:
            yield
        finally:
            ending.set()


async def check_totals(world: World, customers: list[Customer]) -> None:
    """Check every customer's month, and that its key still works."""
    end = (await world.clock.now()).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    for customer in customers:
        assert sum(customer.person.calls.values()) > 20 or customer.events_sent > 2, "too little happened to prove anything"
        counted = await world.check_period(customer, customer.start, end)
        if customer.events_sent:
            assert counted["calls"] == customer.quantities_sent
        else:
            assert counted["calls"] == customer.person.calls[200]
        await world.answers(customer, 200)
        assert [access for _, access, _ in await world.access(customer)] == ["granted"]


async def end_the_month_with_kills(world: World, victims: list[str]) -> None:
    """Kill the next one at each stop of the clock's walk past the month's end; the walk waits until it is back and all is settled."""
    waiting = list(victims)
    revivals: list[asyncio.Task[None]] = []

    def kill_next(_: Step) -> None:
        if waiting and (not revivals or revivals[-1].done()):
            name = waiting.pop(0)
            world.stack.kill(name)
            revivals.append(asyncio.create_task(world.revive()))

    await world.end_the_month(on_step=kill_next)
    await asyncio.gather(*revivals)
    await world.clock.settle()
    assert not waiting, f"the month had too few stops to kill {waiting}"


async def test_each_service_killed_while_people_join_call_and_pay_loses_nothing_and_counts_nothing_twice(world: World) -> None:
    payg, enterprise = await world.join("payg"), await world.join("enterprise")
    late, offer = await world.offer("standard")
    async with traffic(world, [payg], [enterprise]):
        checkout = await late.order(offer)
        await world.crash("webhook_ingress")  # the payment's webhooks find nobody
        await late.pay(checkout)
        await world.revive()
        for name in ("delegation_gateway", "checkout", "usage_collector"):
            await world.crash(name)
        await asyncio.sleep(0.3)  # usage comes in that nobody takes
        await world.revive()
        standard = await world.welcome(late)
    await standard.person.call_many(world.http, 30, failing=3)
    await end_the_month_with_kills(world, ["stripe_reporter", "subscription_enforcer", "webhook_ingress"])
    await check_totals(world, [payg, enterprise, standard])


async def test_kafka_and_postgres_killed_in_mid_story_lose_nothing_and_count_nothing_twice(world: World) -> None:
    payg, enterprise = await world.join("payg"), await world.join("enterprise")
    late, offer = await world.offer("standard")
    async with traffic(world, [payg], [enterprise]):
        await world.crash("kafka")
        await late.pay(await late.order(offer))
        await world.revive()
        standard = await world.welcome(late)
        await world.crash("postgres")
        await asyncio.sleep(0.5)  # usage comes in that nobody can store
        await world.revive()
    await standard.person.call_many(world.http, 30, failing=3)
    await end_the_month_with_kills(world, ["kafka", "postgres"])
    await check_totals(world, [payg, enterprise, standard])


class Without:
    """The doors of all parts but some, for a clock that goes on while those are away."""

    def __init__(self, doors: Doors, *away: str) -> None:
        self.status, self.clock, self.set_clock = doors.status, doors.clock, doors.set_clock
        self.names = [name for name in doors.names if name not in away]


async def of_month(world: World, customer: Customer, end: datetime) -> Any:
    """Return the invoice that closes a month."""
    return next(one for one in await world.stripe.invoices(customer.stripe_id) if one.period_end == int(end.timestamp()))


async def test_a_reporter_that_is_away_for_longer_than_the_drafts_hour_costs_no_usage_of_the_month(world: World) -> None:
    customer = await world.join("payg")
    await customer.person.call_many(world.http, 40, failing=2)
    await world.clock.settle()
    await world.crash("stripe_reporter")
    await customer.person.call_many(world.http, 60, failing=3)  # no meter event of these before the month is over
    end = await world.next_month()
    await BusinessTime(Without(world.doors, "stripe_reporter"), settle_seconds=60).advance_to(end + timedelta(hours=5))
    held = await of_month(world, customer, end)
    assert (held.status, held.auto_advance) == ("draft", False)
    await world.revive()
    await world.clock.settle()
    await world.clock.advance_by(timedelta(hours=1))
    assert (await of_month(world, customer, end)).status == "paid"
    counted = await world.check_period(customer, customer.start, end)
    assert counted["calls"] == customer.person.calls[200] >= 95


@asynccontextmanager
async def short_summary_lag(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Start what is away, with a reporter that knows that the sandbox's sums do not trail; afterwards it is as it was."""
    with monkeypatch.context() as patch:
        patch.setenv("STRIPE_REPORTER_SUMMARY_LAG_SECONDS", "2")
        await world.revive()
        yield
    await world.crash("stripe_reporter")
    await world.revive()


async def unbilled_of(world: World, customer: Customer) -> list[Any]:
    found: list[Any] = await world.doors.ask("checkout", "GET", "/v1/unbilled", params={"subscription_id": customer.subscription_id})
    return found


async def differences(world: World, customer: Customer, end: datetime) -> list[tuple[str, bool]]:
    """Return causes of a month's differences between stations, and whether each is explained."""
    body = {"subscriptions": [customer.subscription_id], "from": customer.start.isoformat(), "to": end.isoformat()}
    (found,) = await world.doors.ask("stripe_reporter", "POST", "/v1/reconciliations", body=body)
    return [(row["cause"], row["explained"]) for row in found["differences"] if row["station"] != "events-meters"]


async def test_what_a_final_invoice_lacks_because_nobody_could_hold_it_is_billed_once_with_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = await world.join("payg")
    await customer.person.call_many(world.http, 40, failing=2)
    await world.clock.settle()
    await world.clock.advance_by(timedelta(hours=2))  # these are at Stripe
    await world.clock.settle()
    away = ("stripe_reporter", "checkout")
    for name in away:
        await world.crash(name)
    await customer.person.call_many(world.http, 60, failing=3)
    end = await world.next_month()
    await BusinessTime(Without(world.doors, *away), settle_seconds=60).advance_to(end + timedelta(hours=5))
    final = await of_month(world, customer, end)
    assert final.status in {"open", "paid"}, "the draft was held: nothing is missing on it"
    async with short_summary_lag(world, monkeypatch):
        (found,) = await eventually("what the invoice lacks", lambda: unbilled_of(world, customer), bool)
        counted = customer.person.calls[200]
        assert (found["counted"], found["of_invoice"]) == (counted, final.number)
        assert 0 < found["billed"] < counted
        await eventually(
            "its line at Stripe",
            lambda: unbilled_of(world, customer),
            lambda one: (one[0]["placed"], one[0]["state"]) == ("next_invoice", "done"),
        )
        await world.clock.settle()
        assert await differences(world, customer, end) == [("billed_later", True)]
        await world.end_the_month()
        await world.clock.settle()
        assert len(await unbilled_of(world, customer)) == 1
        assert await differences(world, customer, end) == [("billed_later", True)]
    lines = [line for line in await world.stripe.lines(customer.stripe_id, customer.start, end) if line.amount_minor]
    assert [line.description for line in lines if "not on invoice" in line.description] == [
        f"Usage not on invoice {final.number}: +{counted - found['billed']:,} API calls"
    ]
    price = (Decimal(counted) * Decimal("0.15")).quantize(Decimal(1), ROUND_HALF_UP)  # cents
    assert sum(line.amount_minor for line in lines) == price
    assert (await of_month(world, customer, end + relativedelta(months=1))).total == found["amount_minor"]
