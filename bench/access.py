"""How long access lags behind money: from payment to a working key, from unpaid to a refused key, from paid to a working key."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from bench import machine
from bench.stage import Stage, running_stack, stage
from turnpike_cli.story.people import CARD_THAT_FAILS_LATER, GOOD_CARD, KEY_HEADER, Consumer, secret_of
from turnpike_cli.story.timing import moment

PAYMENTS = 50
CYCLES = 12
KEY_PAUSE_SECONDS = 0.02  # how often the waiting page is asked
SETTINGS = {"SANDBOX_STRIPE_DUNNING_DAYS": "[1]"}  # one retry, a day later: the turn comes sooner, the way is the same

# What lies one after another between the two instants; a wait for the disk, the broker or a socket that cannot be left out.
TO_KEY = {"postgres_commit_ms": 6, "kafka_round_trip_ms": 2, "http_round_trip_ms": 7}
TO_TURN = {"postgres_commit_ms": 5, "kafka_round_trip_ms": 1, "http_round_trip_ms": 5}
WAYS = {
    "payment_to_key": (
        "Commits: webhook stored, object claimed, state in the outbox, state at the enforcer, intent, access in the outbox (the last "
        "one, at the portal, is seen before it is durable). Kafka: subscription.created, access.granted. HTTP: Pay, webhook, "
        "subscription fetched, key made, waiting page, Show key, the call."
    ),
    "turn": (
        "Commits: webhook stored, object claimed, state in the outbox, state at the enforcer, intent. Kafka: subscription.updated. "
        "HTTP: webhook, subscription fetched, key looked up and changed, the call."
    ),
}


async def payment_to_key(stage: Stage, name: str) -> float:
    """Return the seconds from the click on Pay to the first answer that the new key gets."""
    consumer = Consumer(name, "payg", stage.places)
    await consumer.sign_up()
    page = await consumer.order(await consumer.choose())
    started = time.perf_counter()
    await consumer.pay(page)
    ready = f"{consumer.page}/ready"
    shown = await consumer.browser.wait_for(ready, lambda page: "/key" in page.body and page.has("show"), pause=KEY_PAUSE_SECONDS)
    consumer.key = secret_of(await consumer.browser.submit(shown, "", action="/key"))

    async def works() -> bool:
        return (await stage.http.get(f"{stage.places.gateway}/orders", headers={KEY_HEADER: consumer.key})).status_code == 200

    await moment(works)
    took = time.perf_counter() - started
    await consumer.browser.close()
    return took


async def cycle(stage: Stage, consumer: Consumer, stripe_id: str) -> tuple[float, float]:
    """Fail to pay a month until the key is refused, then pay; returns the seconds of both turns."""
    subscription = await stage.stripe.client.v1.subscriptions.retrieve_async(stripe_id)
    end = datetime.fromtimestamp(subscription["items"].data[0].current_period_end, UTC)
    await consumer.change_card(CARD_THAT_FAILS_LATER)
    await stage.clock.settle()
    await stage.clock.advance_to(end + timedelta(hours=3))
    refused = asyncio.create_task(_turn(stage, consumer, stripe_id, paid=False))
    await stage.clock.advance_to(end + timedelta(days=2))
    to_refusal = await refused
    await stage.clock.settle()
    restored = asyncio.create_task(_turn(stage, consumer, stripe_id, paid=True))
    await consumer.change_card(GOOD_CARD)
    to_return = await restored
    await stage.clock.settle()
    return to_refusal, to_return


async def _turn(stage: Stage, consumer: Consumer, stripe_id: str, *, paid: bool) -> float:
    """Return the seconds from what Stripe says to what the gateway answers; both are asked every 10 ms."""
    latest = (await stage.stripe.client.v1.subscriptions.retrieve_async(stripe_id)).latest_invoice

    async def changed() -> bool:
        if paid:
            return (await stage.stripe.client.v1.invoices.retrieve_async(str(latest))).status == "paid"
        return await stage.stripe.status(stripe_id) == "unpaid"

    async def turned() -> bool:
        return await stage.answers(consumer) == (200 if paid else 401)

    at_stripe = await moment(changed, seconds=90)
    return await moment(turned) - at_stripe


async def _measure(stack: Any, payments: int, cycles: int) -> dict[str, Any]:
    found = machine.facts()
    before = await machine.limits(stack.wiring.superuser_dsn, stack.wiring.kafka)
    async with stage(stack) as scene:
        consumer = await scene.join("cycles", "standard")
        stripe_id = (await scene.stripe.subscription(consumer.subscription_id)).id
        turns = [await cycle(scene, consumer, stripe_id) for _ in range(cycles)]
        await payment_to_key(scene, "warm-up")
        to_key = [await payment_to_key(scene, f"payer-{number}") for number in range(payments)]
    after = await machine.limits(stack.wiring.superuser_dsn, stack.wiring.kafka)
    limits = {name: min(before[name], after[name]) for name in before}  # what others did to the machine meanwhile is no limit
    figures = {
        "payment_to_key": machine.summary(to_key) | _beside(limits, TO_KEY, "payment_to_key", target=(1000, 3000)),
        "unpaid_to_refused": machine.summary([turn[0] for turn in turns]) | _beside(limits, TO_TURN, "turn", target=(500, 2000)),
        "paid_to_working": machine.summary([turn[1] for turn in turns]) | _beside(limits, TO_TURN, "turn", target=(500, 2000)),
    }
    return {"machine": found | {"load_after": machine.load()}, "limits": limits, "figures": figures}


def _beside(limits: dict[str, float], path: dict[str, int], way: str, *, target: tuple[int, int]) -> dict[str, Any]:
    floor = machine.floor_ms(limits, path)
    return {"target_p50_ms": target[0], "target_max_ms": target[1], "limit_ms": floor, "on_the_path": path, "way": WAYS[way]}


def measure(runs: int | None) -> dict[str, Any]:
    """Measure in a stack of its own; `runs` are the payments, cycles are a quarter of them, at least one."""
    payments = PAYMENTS if runs is None else runs
    cycles = CYCLES if runs is None else max(1, runs // 4)
    with running_stack(SETTINGS) as stack:
        return asyncio.run(_measure(stack, payments, cycles))
