"""Lives a story at a sandbox Stripe over HTTP, with the real SDK and what `checkout` itself sends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import stripe
from expected_invoices import additions
from pydantic import SecretStr
from random_stories import Action, Story, Used

from billing_common import stripe_client
from billing_common.catalogue import Catalogue, Product
from billing_common.catalogue_stripe import desired_products, meter_event_name
from billing_common.plan_changes import When
from billing_common.rating import period_at
from billing_common.settings import StripeSettings
from checkout import adjusting, domain
from checkout.change_domain import Change
from checkout.store import Subscription
from checkout.store_catalogue import Version
from checkout.store_changes import Stay
from checkout.stripe_catalogue import StripeCatalogue
from checkout.stripe_changes import StripeChanges
from checkout.stripe_gateway import StripeGateway

CARD = {"number": "4242 4242 4242 4242", "expiry": "12 / 49", "cvc": "123", "name": "A Buyer", "email": "buyer@example.com"}
MINUTE = timedelta(minutes=1)
DRAFT = timedelta(hours=1)


@dataclass(frozen=True)
class SeenLine:
    """A line of an invoice at Stripe. `component` is None where no price stands behind it."""

    amount: int
    quantity: int
    start: datetime
    end: datetime
    component: str | None


@dataclass(frozen=True)
class SeenInvoice:
    lines: tuple[SeenLine, ...]
    total: int
    due: int
    ending_balance: int
    status: str


@asynccontextmanager
async def connected(base: str) -> AsyncIterator["Stripe"]:
    """Connect as checkout does."""
    settings = StripeSettings(stripe_api_key=SecretStr("sk_test_turnpike_sandbox"), stripe_api_base=base)
    client, transport = stripe_client.create_client(settings)
    async with httpx.AsyncClient(trust_env=False, timeout=30) as browser:
        yield Stripe(client, browser)
    await transport.close_async()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Stripe:
    """The SDK's client, and a browser for the page where one pays."""

    client: stripe.StripeClient
    browser: httpx.AsyncClient
    shops: dict[int, dict[str, Any]] = field(default_factory=dict)

    async def live(self, story: Story) -> list[SeenInvoice]:
        """Live the story on a test clock of its own; returns the invoices in the order in which they were made."""
        if story.shop not in self.shops:
            self.shops[story.shop] = await _apply(StripeCatalogue(self.client), story.catalogue)
        life = _Life(self, story)
        await life.sell()
        for action in story.actions:
            await life.reach(action.at)
            await life.act(action)
        if not any(action.kind == "cancel_now" for action in story.actions):
            await life.reach(story.periods[-1].end)
        await life.move(life.now + 2 * DRAFT)
        return await life.invoices()


async def _apply(stripe_: StripeCatalogue, catalogue: Catalogue) -> dict[str, Any]:
    """Make what an apply makes, and return the ids as an applied version has them."""
    ids: dict[str, Any] = {}
    for desired in desired_products(catalogue):
        await stripe_.create_product(desired, key=str(uuid4()))
        meters = {meter.meter_id: await stripe_.create_meter(meter, key=str(uuid4())) for meter in desired.meters}
        by_currency: dict[str, dict[str, str]] = {}
        for price in desired.prices:
            made = await stripe_.create_price(price, meters.get(price.meter_id or ""), key=str(uuid4()))
            by_currency.setdefault(price.currency, {})[price.component] = made
        ids[desired.product_id] = {"prices_by_currency": by_currency}
    return ids


class _Life:
    """One subscription, on its way through time."""

    def __init__(self, stripe_: Stripe, story: Story) -> None:
        self.v1 = stripe_.client.v1
        self.browser = stripe_.browser
        self.story = story
        self.gateway, self.changes = StripeGateway(stripe_.client), StripeChanges(stripe_.client)
        self.now = story.started_at
        self.product = story.product
        self.clock = self.customer = self.subscription = ""
        self.version = Version(1, story.catalogue.document(), stripe_.shops[story.shop], [], "test", story.started_at)
        self.left = list(story.usage)
        self.since = self.plan_since = story.started_at
        self.coming: dict[datetime, Product] = {}
        self.closed: set[datetime] = set()

    async def sell(self) -> None:
        """Make the customer, start a Checkout session and pay it."""
        story = self.story
        self.clock = (await self.v1.test_helpers.test_clocks.create_async({"frozen_time": _stamp(self.now)})).id
        self.customer = (await self.v1.customers.create_async({"test_clock": self.clock, "balance": -story.credit_minor})).id
        params = domain.session_parameters(
            self._row(),
            self.product,
            self._prices(self.product),
            customer_id=self.customer,
            success_url="http://127.0.0.1:9/done",
            cancel_url="http://127.0.0.1:9/no",
        )
        for line in params["line_items"]:
            if line["price"] == self._prices(self.product).get("base"):
                line["quantity"] = story.quantity
        session = await self.gateway.create_session(params, key=str(uuid4()))
        paid = await self.browser.post(session.url, data=CARD)
        assert paid.status_code == 303, paid.text
        found = await self.v1.checkout.sessions.retrieve_async(session.session_id)
        self.subscription = str(found.subscription)

    def _row(self) -> Subscription:
        story = self.story
        return Subscription(
            subscription_id=f"00000000-0000-4000-8000-{story.seed:012d}",
            account_id="account",
            user_id="user",
            product_id=self.product.id,
            catalogue_version=1,
            display_name="Random",
            currency=story.currency,
            free=False,
            state="live",
            revision=1,
            requested_at=story.started_at,
            started_at=story.started_at,
            stripe_subscription_id=self.subscription,
        )

    def _prices(self, product: Product) -> dict[str, str]:
        return self.version.price_ids(product.id, self.story.currency)

    async def reach(self, at: datetime) -> None:
        """Go to an instant, by way of the period ends before it, and report the usage up to each."""
        for period in self.story.periods:
            if self.now < period.end <= at and period.end not in self.closed:
                await self._report(period.end)
                await self.move(period.end)
                self.closed.add(period.end)
                await self._close(period.end)
        await self._report(at)
        await self.move(at)

    async def move(self, to: datetime) -> None:
        if to > self.now:
            done = await self.v1.test_helpers.test_clocks.advance_async(self.clock, {"frozen_time": _stamp(to)})
            assert done.status == "ready"
            self.now = to

    async def _report(self, until: datetime) -> None:
        """Send what was used before an instant, a moment before it: what is late comes when the draft is there."""
        due = [used for used in self.left if used.at < until and not used.late]
        if due:
            await self.move(until - MINUTE)
            await self._send(due)

    async def _send(self, due: list[Used]) -> None:
        for used in due:
            self.left.remove(used)
            sent: Any = {
                "event_name": meter_event_name(used.product_id, used.meter),
                "payload": {"stripe_customer_id": self.customer, "value": str(used.quantity)},
                "timestamp": _stamp(used.at),
                "identifier": str(uuid4()),
            }
            await self.v1.billing.meter_events.create_async(sent)

    async def _close(self, end: datetime) -> None:
        """The draft is there: what is late, and what Turnpike adds once usage has settled."""
        await self._send([used for used in self.left if used.at < end])
        for params in self._additions(end):
            found = await self.gateway.invoice_of_period(self.subscription, end)
            assert found is not None
            assert found[1], "the invoice is final already"
            await self._add({**params, "invoice": found[0]})
        self.since = end
        if end in self.coming:
            await self.changes.let_go(self.subscription)
            self.product, self.plan_since = self.coming[end], end

    async def _add(self, params: dict[str, Any]) -> None:
        await self.gateway.add_invoice_item(params, intent_id=str(uuid4()), key=str(uuid4()))

    def _additions(self, end: datetime) -> list[dict[str, Any]]:
        """Return what checkout adds. It knows one base fee: stories of several seats ask the rating function."""
        story, row = self.story, self._row()
        if self.since == end:
            return []
        if story.quantity > 1 or any(action.kind == "quantity" for action in story.actions):
            found = additions(story, self.since, end)
        else:
            totals = dict.fromkeys(self.product.priced_meters(), 0)
            for used in story.usage:
                if used.product_id == self.product.id and self.since <= used.at < end:
                    totals[used.meter] += used.quantity
            period = period_at(self.product, started_at=story.started_at, at=self.since)
            stay = Stay(self.plan_since, next((at for at, _ in story.plans() if at > self.plan_since), None), self.product.id, 1)
            found = adjusting.additions(self.version, row, stay, period=period, totals=totals)
        return [adjusting.invoice_item(line, row, self.customer, since=self.since, until=end) for line in found]

    async def act(self, action: Action) -> None:
        if action.kind == "quantity":
            prorated = "create_prorations" if self.product.policies.proration == "by_second" else "none"
            item = (await self._items())[self._prices(self.product)["base"]]
            wish: Any = {"items": [{"id": item, "quantity": action.quantity}], "proration_behavior": prorated}
            await self.v1.subscriptions.update_async(self.subscription, wish)
        elif action.kind == "plan":
            await self._change_now(self.story.catalogue.product(action.product_id))
        elif action.kind == "plan_at_period_end":
            to = self.story.catalogue.product(action.product_id)
            ends = await self.changes.plan(self.subscription, self._change(to, "period_end"), self._prices(to), key=str(uuid4()))
            self.coming[ends] = to
        elif action.kind == "cancel_at_period_end":
            await self.gateway.cancel_at_period_end(self.subscription, key=str(uuid4()))
        else:
            for params in self._additions(action.at):
                await self._add(params)
            await self.gateway.cancel_now(self.subscription, key=str(uuid4()))

    async def _change_now(self, to: Product) -> None:
        """Pay the new fee, then bill and remove the old plan's usage: as checkout does, one after the other."""
        change = self._change(to, "now")
        since = await self.changes.make(self.subscription, change, self._prices(to), now=self.now, key=str(uuid4()))
        assert since == self.now
        for params in self._additions(self.now):
            await self._add(params)
        await self.changes.drop_old(self.subscription, change, self._prices(to), key=str(uuid4()))
        self.product, self.since, self.plan_since = to, self.now, self.now

    def _change(self, to: Product, timing: When) -> Change:
        return Change(
            change_id=str(uuid4()),
            subscription_id=self._row().subscription_id,
            account_id="account",
            asked_by="customer",
            timing=timing,
            from_product_id=self.product.id,
            from_catalogue_version=1,
            product_id=to.id,
            catalogue_version=1,
            state="asked",
            revision=1,
            effective_at=self.now,
            settled_start=None,
            settled_end=None,
            then_cancel=False,
        )

    async def _items(self) -> dict[str, str]:
        subscription = await self.v1.subscriptions.retrieve_async(self.subscription)
        return {item.price.id: item.id for item in subscription["items"].data}

    async def invoices(self) -> list[SeenInvoice]:
        listed = await self.v1.invoices.list_async({"subscription": self.subscription, "limit": 100})
        products = self.story.catalogue.products
        prices = {price: component for product in products for component, price in self._prices(product).items()}
        found = []
        for invoice in reversed(listed.data):
            lines = [line async for line in (await self.v1.invoices.line_items.list_async(invoice.id, {"limit": 100})).auto_paging_iter()]
            seen = tuple(_seen(line, prices) for line in lines)
            found.append(SeenInvoice(seen, invoice.total, invoice.amount_due, invoice.ending_balance or 0, str(invoice.status)))
        return found


def _seen(line: Any, prices: dict[str, str]) -> SeenLine:
    details = line.pricing.price_details if line.pricing else None
    start, end = (datetime.fromtimestamp(moment, UTC) for moment in (line.period.start, line.period.end))
    return SeenLine(line.amount, line.quantity, start, end, prices[details.price] if details else None)


def _stamp(at: datetime) -> int:
    return int(at.timestamp())
