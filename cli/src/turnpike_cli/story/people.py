"""What a consumer does, page by page: sign up, buy, look at the key, call, change the card, leave."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from turnpike_cli.story.browser import Browser, Page, StoryError

GOOD_CARD = "4242 4242 4242 4242"
CARD_THAT_FAILS_LATER = "4000 0000 0000 0341"
KEY_HEADER = "Ocp-Apim-Subscription-Key"


@dataclass(frozen=True)
class Places:
    """Where the doors are: base addresses without a slash at the end."""

    portal: str
    gateway: str
    turnpike: str
    ingest: str


@dataclass
class Consumer:
    """One person with a browser. `name` stands in the made-up e-mail address; `calls` counts answers by status."""

    name: str
    product: str
    places: Places
    browser: Browser = field(default_factory=Browser)
    subscription_id: str = ""
    account_page: str = ""
    key: str = ""
    calls: Counter[int] = field(default_factory=Counter)

    @property
    def email(self) -> str:
        return f"{self.name}@example.com"

    @property
    def password(self) -> str:
        return f"long enough for {self.name}"

    @property
    def page(self) -> str:
        return f"{self.places.turnpike}/subscriptions/{self.subscription_id}"

    # --- joining -----------------------------------------------------------------------------------------------------------

    async def sign_up(self) -> Page:
        """Portal, Sign up, register, and back in the portal with a session."""
        home = await self.browser.open(self.places.portal)
        form = await self.browser.open(home.link("Sign up"))
        who = {"first_name": self.name.split("-")[0].capitalize(), "last_name": "Example", "email": self.email, "password": self.password}
        page = await self.browser.submit(form, "", who, action="/register")
        if not page.url.startswith(self.places.portal):
            raise StoryError(f"{self.name} should be back in the portal after registering, but is on {page}")
        return page

    async def choose(self) -> Page:
        """Portal, product page, Subscribe: ends on Turnpike's page with the price."""
        product = await self.browser.open(f"{self.places.portal}/products/{self.product}")
        return await self.browser.open(product.link("Subscribe"))

    async def order(self, offer: Page) -> Page:
        """Name the subscription and go on: ends on the Checkout page, or on the waiting page of a free product."""
        form = offer.form("", action="/apim-delegation")
        fields = {"display_name": f"{self.name} on {self.product}"}
        if "consent" in form.fields:
            fields["consent"] = form.xpath(".//input[@name='consent']")[0].get("value", "on")
        page = await self.browser.submit(offer, "", fields, action="/apim-delegation")
        if page.url.startswith(self.places.turnpike):
            self._remember(page)
        return page

    async def pay(self, checkout: Page, card: str = GOOD_CARD) -> Page:
        """Fill in the card on the Checkout page; ends on Turnpike's waiting page."""
        page = await self.browser.submit(
            checkout, "", {"name": self.name, "number": card, "expiry": "12/40", "cvc": "123"}, action="/c/pay/"
        )
        if page.url.startswith(self.places.turnpike):
            self._remember(page)
        return page

    def _remember(self, page: Page) -> None:
        parts = urlsplit(page.url).path.split("/")
        if len(parts) < 3 or parts[1] != "subscriptions":
            raise StoryError(f"{self.name} should be on the subscription's page, but is on {page}")
        self.subscription_id = parts[2]

    async def wait_for_key(self) -> float:
        """Wait until the key is shown and works; returns the seconds it took."""
        started = time.monotonic()
        page = await self.browser.wait_for(f"{self.page}/ready", lambda page: _has_form(page, "/key"))
        shown = await self.browser.submit(page, "", action="/key")
        self.key = secret_of(shown)
        async with httpx.AsyncClient() as client:
            while (answer := await client.get(f"{self.places.gateway}/orders", headers={KEY_HEADER: self.key})).status_code == 401:
                if time.monotonic() - started > 20:
                    raise StoryError(f"the key of {self.name} was refused for 20 s: {answer.text}")
                await asyncio.sleep(0.02)
        self.calls[answer.status_code] += 1
        return time.monotonic() - started

    # --- using -------------------------------------------------------------------------------------------------------------

    async def call(self, client: httpx.AsyncClient, path: str, *, method: str = "GET") -> httpx.Response:
        answer = await client.request(method, f"{self.places.gateway}{path}", headers={KEY_HEADER: self.key})
        if answer.status_code != 401:  # the gateway cannot tell whose call that was
            self.calls[answer.status_code] += 1
        return answer

    async def call_many(self, client: httpx.AsyncClient, count: int, *, failing: int = 0, parallel: int = 8) -> None:
        """Make `count` calls, the first `failing` of them to addresses that answer 404 or 500."""
        paths = [("/orders/unknown", "/status/500")[number % 2] for number in range(failing)] + ["/orders"] * (count - failing)
        waiting = iter(paths)

        async def work() -> None:
            for path in waiting:
                await self.call(client, path)

        await asyncio.gather(*(work() for _ in range(parallel)))

    # --- changing ----------------------------------------------------------------------------------------------------------

    async def change_card(self, card: str) -> Page:
        """Subscription page, billing page at Stripe, new card."""
        own = await self.browser.open(self.page)
        billing = await self.browser.submit(own, "", action="/billing")
        return await self.browser.submit(billing, "Save card", {"number": card, "expiry": "12/40", "cvc": "123"})

    async def unsubscribe(self, when: str) -> Page:
        """Portal profile, Cancel, Turnpike's question, and yes. `when` is now or period_end."""
        profile = await self.browser.open(f"{self.places.portal}/profile")
        question = await self.browser.open(profile.link("Cancel"))
        return await self.browser.submit(question, "", {"when": when}, action="/cancel")


def _has_form(page: Page, action: str) -> bool:
    try:
        page.form("", action=action)
    except StoryError:
        return False
    return True


def secret_of(page: Page) -> str:
    """Return the first key shown on a page. Raises StoryError."""
    for element in page.tree.xpath("//div[contains(concat(' ', @class, ' '), ' secret ')]/code"):
        value = "".join(element.text_content().split())
        if value and "•" not in value:
            return str(value)
    raise StoryError(f"no key is shown on {page}")


async def send_quantities(
    places: Places, *, sender_key: str, source: str, subscription_id: str, at: str, quantities: list[int]
) -> httpx.Response:
    """Send calls counted elsewhere, as one batch of CloudEvents with quantities, to the ingest door."""
    events = [
        {
            "specversion": "1.0",
            "id": f"{subscription_id}-{at}-{number}",
            "source": source,
            "type": "turnpike.usage",
            "subject": subscription_id,
            "time": at,
            "data": {"meter": "calls", "quantity": quantity},
        }
        for number, quantity in enumerate(quantities)
    ]
    headers = {"content-type": "application/cloudevents-batch+json", "authorization": f"Bearer {sender_key}"}
    async with httpx.AsyncClient(timeout=20) as client:
        return await client.post(f"{places.ingest}/v1/events", content=json.dumps(events), headers=headers)
