"""A stack with something to look at: accounts whose subscriptions are active, used up, past due, suspended, unpaid and ended."""

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
from dateutil.relativedelta import relativedelta

from embedded_servers import places as folders
from turnpike_cli.catalogue_commands import MODELS_FILE
from turnpike_cli.clock import BusinessTime
from turnpike_cli.doors import Doors
from turnpike_cli.stack import Stack
from turnpike_cli.story.browser import Browser
from turnpike_cli.story.people import CARD_THAT_FAILS_LATER, GOOD_CARD, Consumer, Places, send_quantities

START_DAY = 24  # near the end of a month, so that the first period is short
CALLS_BY_WEEKDAY = (4480, 4870, 4660, 5010, 4390, 2720, 2960)  # a working week of an application
NAMES = {
    "standard": "Warehouse sync",
    "developer": "Prototype",
    "free": "First try",
    "payg": "Nightly import",
    "basic": "Shop window",
    "pro": "Mobile app",
}
PLANS_TO_CHANGE = {"ada": "payg", "ben": "pro", "eve": "basic"}


@dataclass
class Person:
    """One account: a browser that stays signed in, and what it bought by product."""

    name: str
    places: Places
    browser: Browser = field(default_factory=Browser)
    bought: dict[str, Consumer] = field(default_factory=dict)

    def consumer(self, product: str) -> Consumer:
        return self.bought.setdefault(product, Consumer(self.name, product, self.places, self.browser))

    async def order(self, product: str) -> Any:
        """Go as far as the Checkout page, or the waiting page of a free product."""
        consumer = self.consumer(product)
        offer = await consumer.choose()
        consent = offer.form("", action="/apim-delegation").xpath(".//input[@name='consent']")[0].get("value")
        page = await self.browser.submit(offer, "", {"display_name": NAMES[product], "consent": consent}, action="/apim-delegation")
        if page.url.startswith(self.places.turnpike):
            consumer.subscription_id = urlsplit(page.url).path.split("/")[2]
        return page

    async def buy(self, product: str, card: str = GOOD_CARD) -> Consumer:
        page = await self.order(product)
        consumer = self.consumer(product)
        if not page.url.startswith(self.places.turnpike):
            await consumer.pay(page, card)
        await consumer.wait_for_key()
        return consumer

    def cookies(self) -> list[dict[str, Any]]:
        """The cookies of the session, as a browser takes them."""
        return [
            {"name": cookie.name, "value": cookie.value, "domain": cookie.domain, "path": cookie.path}
            for cookie in self.browser._client.cookies.jar
        ]


@dataclass
class Scene:
    """A running stack and the people in it; `days` is how long the month on the pictures has lasted."""

    stack: Stack
    places: Places
    stripe: str
    doors: Doors
    clock: BusinessTime
    http: httpx.AsyncClient
    days: int
    people: dict[str, Person] = field(default_factory=dict)
    sender_key: str = ""

    async def build(self) -> None:
        """Play two months; what needs the longest comes first."""
        await self._apply_catalogue()
        first = (await self.clock.now()).replace(day=1, hour=0, minute=0, second=0, microsecond=0) + relativedelta(months=1)
        await self.clock.advance_to(first.replace(day=START_DAY, hour=9))
        suspended = await self._join("lee")
        await suspended.buy("basic")
        await suspended.bought["basic"].change_card(CARD_THAT_FAILS_LATER)
        regular = await self._join("sam")
        await regular.buy("standard")
        await self._prepare_sender(regular.consumer("standard"))
        await self._send(regular.consumer("standard"), 3)
        await regular.buy("payg")
        for calls in (360, 245, 400):
            await self._use(regular.bought["payg"], calls)
            await self.clock.advance_by(timedelta(days=1))
        await self.clock.advance_to(first + relativedelta(months=1, days=24, hours=9))
        past_due = await self._join("kim")
        await past_due.buy("standard")
        await past_due.bought["standard"].change_card(CARD_THAT_FAILS_LATER)
        await self.clock.advance_to(first + relativedelta(months=2, hours=9))
        await self._furnish(regular)
        changing = [await self._buy_one(name, product) for name, product in PLANS_TO_CHANGE.items()]
        await self._add_keys(changing[1].bought["pro"], "Importer", "Reports of the night shift in Rotterdam")
        await self._go_through_the_month(regular)
        await self._change_plans(*changing)
        await self._join("new")
        leaving = await self._join("pat")
        await leaving.order("standard")
        await self.clock.settle()

    async def _apply_catalogue(self) -> None:
        document = json.loads((folders.checkout() / MODELS_FILE).read_text())
        for product in document["products"]:
            if product["id"] == "standard":
                product["source"] = "ingest"  # so that a day has thousands of calls, not as many as a sample can make
        await self.doors.ask("checkout", "POST", "/v1/catalogue/apply", body=document)
        await self.clock.settle()

    async def _join(self, name: str) -> Person:
        person = self.people[name] = Person(name, self.places)
        await Consumer(name, "", self.places, person.browser).sign_up()
        return person

    async def _furnish(self, person: Person) -> None:
        """Several subscriptions of one account, each in another state."""
        for product in ("developer", "free", "basic"):
            await person.buy(product)
        await self._use(person.bought["free"], 100)
        await self._use(person.bought["developer"], 80)
        await self._leave(person, "payg", "now")
        await self._leave(person, "basic", "period_end")

    async def _leave(self, person: Person, product: str, when: str) -> None:
        consumer = person.bought[product]
        question = await person.browser.open(f"{consumer.page}/cancel")
        await person.browser.submit(question, "", {"when": when}, action="/cancel")

    async def _buy_one(self, name: str, product: str) -> Person:
        person = await self._join(name)
        await person.buy(product)
        await self._use(person.bought[product], 40)
        return person

    async def _add_keys(self, consumer: Consumer, *names: str) -> None:
        for name in names:
            await consumer.browser.submit(await consumer.browser.open(consumer.page), "Add a key", {"name": name}, action="/keys")
        await consumer.browser.wait_for(consumer.page, lambda page: page.has(names[-1]) and not page.has("It is being made"))

    async def _change_plans(self, ada: Person, ben: Person, eve: Person) -> None:
        """One upgrade that was made, one change planned for the end of the period, one that the bank declined."""
        await eve.bought["basic"].change_card(CARD_THAT_FAILS_LATER)
        for person, old, new, when, words in (
            (ada, "payg", "pro", "now", "You are on Pro now"),
            (ben, "pro", "standard", "period_end", "Changes to Standard on"),
            (eve, "basic", "pro", "now", "The plan was not changed"),
        ):
            own = person.bought[old].page
            review = await person.browser.open(f"{own}/change/{new}")
            form = next(form for form in review.tree.xpath("//form") if form.xpath(f".//input[@name='when' and @value='{when}']"))
            await person.browser.submit(review, " ".join(form.xpath(".//button")[0].text_content().split()))
            await person.browser.wait_for(own, lambda page, words=words: page.has(words))  # type: ignore[misc]
        await self._use(ada.bought["payg"], 60)

    async def _go_through_the_month(self, person: Person) -> None:
        for _ in range(self.days):
            await self._send(person.bought["standard"])
            await self._use(person.bought["developer"], 55)
            await self.clock.advance_by(timedelta(days=1))
        await self._send(person.bought["standard"], share=0.3)

    async def _use(self, consumer: Consumer, calls: int) -> None:
        await consumer.call_many(self.http, calls, failing=min(2, calls // 20))

    async def _prepare_sender(self, consumer: Consumer) -> None:
        body = {"name": "warehouse", "source": "/gateways/warehouse", "subscriptions": [consumer.subscription_id]}
        self.sender_key = (await self.doors.ask("usage_collector", "POST", "/v1/senders", body=body))["key"]

    async def _send(self, consumer: Consumer, days: int = 1, *, share: float = 1.0) -> None:
        """Send the calls of today, or of some days' worth in one hour, as another gateway would."""
        now = await self.clock.now()
        calls = int(sum(CALLS_BY_WEEKDAY[(now.weekday() + day) % 7] + (now.day * 37) % 211 for day in range(days)) * share)
        answer = await send_quantities(
            self.places,
            sender_key=self.sender_key,
            source="/gateways/warehouse",
            subscription_id=consumer.subscription_id,
            at=now.isoformat(),
            quantities=[calls],
        )
        assert answer.status_code == 202, answer.text

    async def delegation_link(self, person: str, address: str) -> str:
        """Return where the developer portal sends the browser from `address`: a signed link that nobody has used."""
        client = self.people[person].browser._client
        answer = await client.get(f"{self.places.portal}{address}", follow_redirects=False)
        assert answer.status_code in {302, 303, 307}, (address, answer.status_code)
        return str(answer.headers["location"])

    async def invoice_page(self) -> str:
        """Return the newest paid invoice's page at the sandbox."""
        browser = Browser()
        try:
            overview = await browser.open(self.stripe)
        finally:
            await browser.close()
        rows = [row for row in overview.tree.xpath("//section[@aria-labelledby='invoices']//tr") if "Paid" in row.text_content()]
        richest = max(rows, key=lambda row: float(re.sub(r"[^0-9.]", "", row.xpath(".//td")[-1].text_content()) or 0))
        return f"{self.stripe}{richest.xpath('.//a/@href')[0]}"

    async def bill_pages(self, person: str, product: str) -> tuple[str, str, str]:
        """Return the page of an invoice with usage, the same with a day open, and with the single events of an hour listed."""
        browser = self.people[person].browser
        listed = await browser.open(self.people[person].bought[product].page)
        for address in listed.tree.xpath("//a[contains(@href, '/invoices/')]/@href"):
            bill = await browser.open(f"{self.places.turnpike}{address}")
            days = bill.tree.xpath("//a[contains(@class, 'tree-row')]/@href")
            if days:
                day = await browser.open(urljoin(bill.url, days[0]))
                events = day.tree.xpath("//div[@class='leaf']//td/a/@href")[0]
                return bill.url, day.url, urljoin(day.url, events)
        raise LookupError("no invoice with usage")

    async def usage_of_a_day(self, person: str, product: str) -> str:
        """Return the page of usage of the first day that has any, by hour."""
        usage = await self.people[person].browser.open(f"{self.people[person].bought[product].page}/usage")
        return urljoin(usage.url, usage.tree.xpath("//th/a[starts-with(@href, '?from=')]/@href")[0])

    async def checkout_page(self) -> str:
        """Return an open Checkout page."""
        person = self.people["pat"]
        again = await person.browser.open(f"{self.places.turnpike}/subscriptions")
        page = await person.browser.open(again.link(NAMES["standard"]))
        return (await person.browser.submit(page, "Go on to payment")).url

    async def billing_page(self, person: str, product: str) -> str:
        browser = self.people[person].browser
        own = await browser.open(self.people[person].bought[product].page)
        return (await browser.submit(own, "", action="/billing")).url


@asynccontextmanager
async def play(stack: Stack, days: int) -> AsyncIterator[Scene]:
    """Build the scene on a stack that runs."""
    addresses: Mapping[str, Mapping[str, str]] = stack.addresses()
    spots = Places(
        portal=addresses["sandbox_apim"]["portal"],
        gateway=addresses["sandbox_apim"]["gateway"],
        turnpike=addresses["delegation_gateway"]["http"],
        ingest=addresses["usage_collector"]["http"],
    )
    async with Doors(stack) as doors, httpx.AsyncClient(timeout=20) as client:
        scene = Scene(stack, spots, addresses["sandbox_stripe"]["http"], doors, BusinessTime(doors), client, days)
        try:
            await scene.build()
            yield scene
        finally:
            for person in scene.people.values():
                await person.browser.close()
