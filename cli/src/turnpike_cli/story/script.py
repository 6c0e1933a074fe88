"""The story, chapter by chapter: a month and a half of business on the business clock, each chapter with its checks."""

import asyncio
import json
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from dateutil.relativedelta import relativedelta

from turnpike_cli.clock import BusinessTime
from turnpike_cli.doors import Doors
from turnpike_cli.story.checks import Checks
from turnpike_cli.story.figures import Station, check_invoice, check_reported, check_usage
from turnpike_cli.story.people import CARD_THAT_FAILS_LATER, GOOD_CARD, Consumer, Places, send_quantities
from turnpike_cli.story.senders import OwnApi
from turnpike_cli.story.stripe_view import StripeView
from turnpike_cli.story.timing import median, moment

START_DAY = 11  # in mid-month, so that the first base fee is prorated
CALLS_A_DAY = {"standard": (30, 2), "payg": (45, 3), "developer": (24, 1)}  # calls, and how many of them fail
FREE_CALLS = 100
ENTERPRISE_CALLS = 2_000_000
BURST = 130  # developer allows 100 a minute
PRODUCTS = ("standard", "payg", "developer", "free", "enterprise")


@dataclass
class Story:
    """What all chapters share."""

    places: Places
    doors: Doors
    clock: BusinessTime
    stripe: StripeView
    checks: Checks
    catalogue: Path
    folder: Path
    http: httpx.AsyncClient
    people: dict[str, Consumer] = field(default_factory=dict)
    started: dict[str, datetime] = field(default_factory=dict)
    stripe_ids: dict[str, str] = field(default_factory=dict)
    to_key: list[float] = field(default_factory=list)
    sender_key: str = ""
    events_sent: int = 0
    source: str = ""
    month_end: datetime = field(init=False)

    async def play(self) -> None:
        """Play all chapters in order."""
        own_api = OwnApi(self, self.folder / "own-api")
        await own_api.prepare()
        try:
            await self.apply_catalogue()
            await self.go_to_the_start()
            await self.join()
            await self.use()
            await own_api.use(4)
            await self.end_the_month()
            await own_api.check(self.month_end)
        finally:
            await own_api.end()
        await self.fail_to_pay()
        await self.pay_again()
        await self.leave()
        self.show_speed()

    def station(self, product: str, end: datetime | None = None) -> Station:
        return Station(self.doors, self.stripe, self.people[product], self.started[product], end or self.month_end)

    # --- 1 to 5 ------------------------------------------------------------------------------------------------------------

    async def apply_catalogue(self) -> None:
        self.checks.chapter(1, "The catalogue is applied to API Management and Stripe")
        started = time.monotonic()
        document = json.loads(self.catalogue.read_text())
        plan = await self.doors.ask("checkout", "POST", "/v1/catalogue/plan", body=document)
        self.checks.step(f"the plan: {len(plan['steps'])} steps")
        agreed = {"plan": plan["plan"], "by": "the demo"}
        answer = await self.doors.ask("checkout", "POST", "/v1/catalogue/apply", body=document, params=agreed, timeout_seconds=120)
        await self.clock.settle()
        self.checks.step(f"catalogue version {answer['version']}", seconds=time.monotonic() - started)
        drift = await self.doors.ask("checkout", "GET", "/v1/catalogue/drift", timeout_seconds=120)
        self.checks.check(
            "API Management and Stripe are as the plan said",
            held=answer["done"] == [step["text"] for step in plan["steps"]] and not drift["drift"],
            detail=f"{drift['unchanged']} things compared",
        )
        seen = await self.stripe.catalogue()
        detail = f"{seen['products']} products, {seen['prices']} prices, {seen['meters']} meters"
        self.checks.check(
            "Stripe has the seven products, their prices and meters", held=seen["products"] == 7 and seen["meters"] >= 5, detail=detail
        )
        self.checks.check("Stripe knows Turnpike's webhook address", held=seen["webhook_endpoints"] == 1)
        visitor = Consumer("visitor", "", self.places)
        page = await visitor.browser.open(f"{self.places.turnpike}/pricing")
        names = ("Free", "Developer", "Pay as you go", "Basic", "Standard", "Pro", "Enterprise")
        self.checks.check("the pricing page shows all seven", held=page.status == 200 and all(page.has(name) for name in names))
        await visitor.browser.close()

    async def go_to_the_start(self) -> None:
        now = await self.clock.now()
        first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        target = first.replace(day=START_DAY, hour=9)
        if target <= now:
            target += relativedelta(months=1)
        self.month_end = target.replace(day=1, hour=0) + relativedelta(months=1)
        await self.clock.advance_to(target)
        self.checks.step(f"the business clock is set to {target:%d %B %Y, %H:%M} UTC")

    async def join(self) -> None:
        self.checks.chapter(2, "Consumers sign up, choose, pay and get a key")
        run = f"{int((await self.clock.now()).timestamp()):x}"  # another run meets other people
        for product in PRODUCTS:
            consumer = self.people[product] = Consumer(f"{product}-{run}", product, self.places)
            started = time.monotonic()
            portal = await consumer.sign_up()
            self.checks.check(f"{product}: signed up and back in the portal, signed in", held=portal.has("Sign out"))
            offer = await consumer.choose()
            self.checks.check(f"{product}: the price is shown before anything is bought", held="$" in offer.text or offer.has("free"))
            page = await consumer.order(offer)
            if product != "free":
                paid = time.monotonic()
                await consumer.pay(page)
                await consumer.wait_for_key()
                self.to_key.append(time.monotonic() - paid)
            else:
                await consumer.wait_for_key()
            self.checks.check(f"{product}: the key works", held=consumer.calls[200] == 1)
            self.checks.step(f"{product}: from Sign up to a working key", seconds=time.monotonic() - started)
            await self._remember_start(product)
        await self._check_portal_key()

    async def _remember_start(self, product: str) -> None:
        self.started[product] = (await self.clock.now()).replace(microsecond=0) - timedelta(hours=1)
        if product == "free":
            return
        found = await self.stripe.subscription(self.people[product].subscription_id)
        self.stripe_ids[product] = found.id
        self.started[product] = datetime.fromtimestamp(found.start_date, self.month_end.tzinfo)
        metadata = {
            name for name in ("account_id", "user_id", "product_id", "display_name") if getattr(found.metadata, f"turnpike_{name}", None)
        }
        self.checks.check(f"{product}: Stripe's subscription says whose it is", held=len(metadata) == 4)

    async def _check_portal_key(self) -> None:
        consumer = self.people["standard"]
        profile = await consumer.browser.open(f"{self.places.portal}/profile")
        shown = await consumer.browser.submit(profile, "Show keys")
        self.checks.check("standard: the developer portal shows the same key", held=consumer.key in shown.body)

    # --- 6 -----------------------------------------------------------------------------------------------------------------

    async def use(self) -> None:
        self.checks.chapter(3, "The month goes by: calls, failures, limits")
        await self._prepare_sender()
        days = 0
        while (tomorrow := (await self.clock.now()) + timedelta(days=1)) < self.month_end:
            for product, (calls, failing) in CALLS_A_DAY.items():
                await self.people[product].call_many(self.http, calls, failing=failing)
            if days in {0, 1}:
                await self._use_free(last=days == 1)
            if days == 2:
                await self._burst()
            if days in {3, 9}:
                await self._send_enterprise(ENTERPRISE_CALLS // 2)
            await self.clock.advance_to(tomorrow)
            days += 1
        made = {name: sum(person.calls.values()) for name, person in self.people.items()}
        self.checks.step(f"{days} days; calls made: {', '.join(f'{name} {count:,}' for name, count in made.items())}")
        succeeded = self.people["developer"].calls[200]
        self.checks.check("developer passed its 100 free calls", held=succeeded > FREE_CALLS, detail=f"{succeeded} succeeded")

    async def _use_free(self, *, last: bool) -> None:
        """Use the free plan on two days, for its rate is as low as its quota."""
        consumer = self.people["free"]
        await consumer.call_many(self.http, 60, parallel=4)
        if not last:
            return
        refused = await consumer.call(self.http, "/orders")
        self.checks.check("free: stopped at 100 calls with 403", held=refused.status_code == 403 and consumer.calls[200] == FREE_CALLS)
        seconds = int(refused.headers.get("retry-after", "0"))
        left = (self.month_end - await self.clock.now()).total_seconds()
        detail = f"Retry-After {seconds} s, {seconds / 86400:.1f} days: the next month"
        self.checks.check("free: told when it goes on", held=abs(seconds - left) < 60, detail=detail)

    async def _burst(self) -> None:
        consumer = self.people["developer"]
        before = consumer.calls[429]
        await consumer.call_many(self.http, BURST)
        refused = await consumer.call(self.http, "/orders")
        self.checks.check("developer: a burst over the rate is refused with 429", held=consumer.calls[429] > before)
        self.checks.check("developer: told when to try again", held=int(refused.headers.get("retry-after", "0")) > 0)

    async def _prepare_sender(self) -> None:
        consumer = self.people["enterprise"]
        self.source = f"/gateways/{consumer.name}"
        body = {"name": consumer.name, "source": self.source, "subscriptions": [consumer.subscription_id]}
        answer: dict[str, Any] = await self.doors.ask("usage_collector", "POST", "/v1/senders", body=body)
        self.sender_key = answer["key"]

    async def _send_enterprise(self, calls: int) -> None:
        consumer = self.people["enterprise"]
        at = (await self.clock.now()).isoformat()
        parts = [calls // 10] * 10
        self.events_sent += len(parts)
        for _ in range(2):  # the second time is a repeat, as after a lost answer: it must not count again
            answer = await send_quantities(
                self.places,
                sender_key=self.sender_key,
                source=self.source,
                subscription_id=consumer.subscription_id,
                at=at,
                quantities=parts,
            )
            self.checks.check(
                "enterprise: usage taken over HTTP", held=answer.status_code == 202, detail=f"{calls:,} calls, HTTP {answer.status_code}"
            )

    # --- 7 -----------------------------------------------------------------------------------------------------------------

    async def end_the_month(self) -> None:
        self.checks.chapter(5, "The month ends: every count agrees, and every invoice is the quote")
        started = time.monotonic()
        await self.clock.advance_to(self.month_end + timedelta(hours=3))
        self.checks.step(
            f"the clock walked to {self.month_end + timedelta(hours=3):%d %B %Y, %H:%M} UTC", seconds=time.monotonic() - started
        )
        for product in PRODUCTS:
            station, through_gateway = self.station(product), product != "enterprise"
            sent = sum(self.people[product].calls.values()) if through_gateway else self.events_sent
            counted = await check_usage(station, self.checks, sent=sent, through_gateway=through_gateway)
            if product in self.stripe_ids:
                await check_reported(station, self.checks, counted)
                await check_invoice(station, self.checks, counted, self.stripe_ids[product], self.started[product])
                await self._check_paid(product)
        await self._check_proration()

    async def _check_paid(self, product: str) -> None:
        statuses = {invoice.status for invoice in await self.stripe.invoices(self.stripe_ids[product])}
        self.checks.check(f"{product}: every invoice is paid", held=statuses == {"paid"}, detail=", ".join(sorted(statuses)))

    async def _check_proration(self) -> None:
        start, end = self.started["standard"], self.month_end
        month = (end - end.replace(day=1) + (end - (end - relativedelta(months=1)))).total_seconds()
        expected = round(8995 * (end - start).total_seconds() / month)
        lines = [
            line for line in await self.stripe.lines(self.stripe_ids["standard"], start, end) if line.start == start and line.end == end
        ]
        billed = max(line.amount_minor for line in lines)
        self.checks.check(
            "standard: the base fee of the first, partial month was prorated",
            held=abs(billed - expected) <= 1,
            detail=f"${billed / 100:.2f} of $89.95",
        )

    # --- 8 -----------------------------------------------------------------------------------------------------------------

    async def fail_to_pay(self) -> None:
        self.checks.chapter(6, "A card fails: past due, retries, unpaid, the key is refused")
        consumer, stripe_id = self.people["standard"], self.stripe_ids["standard"]
        await consumer.change_card(CARD_THAT_FAILS_LATER)
        await self.clock.settle()
        await self.clock.advance_to(self.month_end + relativedelta(months=1) + timedelta(hours=3))
        self.checks.check("standard: the renewal failed, past due", held=await self.stripe.status(stripe_id) == "past_due")
        self.checks.check(
            "standard: while it is retried the key works", held=(await consumer.call(self.http, "/orders")).status_code == 200
        )
        page = await consumer.browser.open(consumer.page)
        self.checks.check(
            "standard: the page says that the payment did not go through", held=page.has("did not go through") or page.has("Past due")
        )
        refused = asyncio.create_task(self._time_between(stripe_id, "unpaid", consumer, 401))
        await self.clock.advance_by(timedelta(days=30))
        took = await refused
        self.checks.check("standard: unpaid after the last retry, and the key is refused", held=True, detail=f"{took * 1000:.0f} ms later")
        page = await consumer.browser.open(consumer.page)
        self.checks.check("standard: the page says why and what to do", held=page.has("suspended") or page.has("unpaid"))

    async def _has_status(self, stripe_id: str, status: str) -> bool:
        return await self.stripe.status(stripe_id) == status

    async def _time_between(self, stripe_id: str, status: str, consumer: Consumer, answer: int) -> float:
        """Return the seconds from Stripe's new status to the gateway's new answer."""
        changed = await moment(lambda: self._has_status(stripe_id, status), seconds=90)
        return await moment(lambda: self._answers(consumer, answer)) - changed

    async def _answers(self, consumer: Consumer, status: int) -> bool:
        return (await consumer.call(self.http, "/orders")).status_code == status

    async def pay_again(self) -> None:
        self.checks.chapter(7, "A new card: the open invoice is paid, the same key works again")
        consumer, stripe_id, key = self.people["standard"], self.stripe_ids["standard"], self.people["standard"].key
        await consumer.change_card(GOOD_CARD)
        took = await self._time_between(stripe_id, "active", consumer, 200)
        self.checks.check("standard: Turnpike had the open invoice paid", held=True)
        self.checks.check("standard: the same key works again", held=consumer.key == key, detail=f"{took * 1000:.0f} ms later")
        await self.clock.settle()

    # --- 9 -----------------------------------------------------------------------------------------------------------------

    async def leave(self) -> None:
        self.checks.chapter(8, "Leaving: now, with the last usage billed, or at the period's end")
        payg, stripe_id = self.people["payg"], self.stripe_ids["payg"]
        period = await self.stripe.subscription(payg.subscription_id)
        start = datetime.fromtimestamp(period["items"].data[0].current_period_start, self.month_end.tzinfo)
        before = sum(payg.calls.values())
        await payg.call_many(self.http, 60, failing=4)
        await payg.unsubscribe("now")
        await moment(lambda: self._answers(payg, 401))
        sent = sum(payg.calls.values()) - before
        self.checks.check("payg: calls are refused at once", held=True)
        await moment(lambda: self._has_status(stripe_id, "canceled"), seconds=30)
        await self.clock.settle()
        await self.clock.advance_by(timedelta(hours=2))
        ended = datetime.fromtimestamp((await self.stripe.subscription(payg.subscription_id)).ended_at, self.month_end.tzinfo)
        station = Station(self.doors, self.stripe, payg, start, ended)
        counted = await check_usage(station, self.checks, sent=sent, through_gateway=True)
        await check_reported(station, self.checks, counted)
        await check_invoice(station, self.checks, counted, stripe_id, start)
        await self._leave_at_the_end()

    async def _leave_at_the_end(self) -> None:
        consumer, stripe_id = self.people["standard"], self.stripe_ids["standard"]
        await consumer.unsubscribe("period_end")
        await self.clock.settle()
        found = await self.stripe.subscription(consumer.subscription_id)
        self.checks.check("standard: ends at the period's end", held=bool(found.cancel_at_period_end or found.cancel_at))
        self.checks.check("standard: until then the key works", held=(await consumer.call(self.http, "/orders")).status_code == 200)
        end = datetime.fromtimestamp(found["items"].data[0].current_period_end, self.month_end.tzinfo)
        await self.clock.advance_to(end + timedelta(hours=3))
        self.checks.check("standard: ended at Stripe", held=await self.stripe.status(stripe_id) == "canceled")
        self.checks.check("standard: the key is refused", held=await self._answers(consumer, 401))

    def show_speed(self) -> None:
        self.checks.chapter(9, "Speed on this machine")
        self.checks.step(
            f"from payment to working key: median {median(self.to_key):.2f} s, longest {max(self.to_key):.2f} s, {len(self.to_key)} runs"
        )
        self.checks.step(
            "[dim]Without Stripe's and Azure's own delays: seconds for a webhook, seconds to minutes until Azure has spread a key.[/dim]"
        )
