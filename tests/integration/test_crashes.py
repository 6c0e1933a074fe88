"""Processes die in the middle of the story; the totals are those of a story in which none did."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from whole_system import Customer, World

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


class WithoutReporter:
    """The doors of all parts but the reporter, for a clock that goes on while it is away."""

    def __init__(self, doors: Doors) -> None:
        self.status, self.clock, self.set_clock = doors.status, doors.clock, doors.set_clock
        self.names = [name for name in doors.names if name != "stripe_reporter"]


async def test_a_reporter_that_is_away_for_longer_than_the_drafts_hour_costs_no_usage_of_the_month(world: World) -> None:
    customer = await world.join("payg")
    await customer.person.call_many(world.http, 40, failing=2)
    await world.clock.settle()
    await world.crash("stripe_reporter")
    await customer.person.call_many(world.http, 60, failing=3)  # no meter event of these before the month is over
    end = await world.next_month()
    await BusinessTime(WithoutReporter(world.doors), settle_seconds=60).advance_to(end + timedelta(hours=5))

    async def of_month() -> Any:
        return next(one for one in await world.stripe.invoices(customer.stripe_id) if one.period_end == int(end.timestamp()))

    held = await of_month()
    assert (held.status, held.auto_advance) == ("draft", False)
    await world.revive()
    await world.clock.settle()
    await world.clock.advance_by(timedelta(hours=1))
    assert (await of_month()).status == "paid"
    counted = await world.check_period(customer, customer.start, end)
    assert counted["calls"] == customer.person.calls[200] >= 95
