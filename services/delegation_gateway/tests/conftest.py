"""The gateway's pages and handlers on a real Postgres that is rolled back; APIM and checkout are recorded at their two gateways."""

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from billing_common.catalogue import Catalogue
from billing_common.clock import BusinessClock
from billing_common.events import AccessGranted, CatalogueApplied, SubscriptionUpdated, UsageCollected
from billing_common.testing import OneConnectionPool, drop_database, make_schema, memory_kafka, rolled_back_connection
from delegation_gateway import handlers
from delegation_gateway.apim_gateway import ApimUnavailableError, UserRefusedError
from delegation_gateway.app import MIGRATIONS, NAME, install_routes, make_pages
from delegation_gateway.catalogues import Catalogues
from delegation_gateway.checkout_gateway import CheckoutRefusedError, CheckoutRequest, CheckoutUnavailableError
from delegation_gateway.collector_gateway import Split, Standing
from delegation_gateway.internal_door import DoorUnavailableError, NotKnownError
from delegation_gateway.parts import Parts
from delegation_gateway.passwords import Passwords
from delegation_gateway.reporter_gateway import Bill, Day, Events
from delegation_gateway.settings import Settings
from delegation_gateway.signature import make_link
from turnpike_ui import Pages

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw=="
OLD_KEY = "Pz49PDs6OTg3NjU0MzIxMC8uLSwrKikoJyYlJCMiISAfHh0cGxoZGBcWFRQTEhEQDw4NDAsKCQgHBgUEAwIBAA=="
TOKEN_KEY = "k" * 32
PASSWORD = "four words make one"
REPOSITORY = Path(__file__).parents[3]


@dataclass
class RecordedApim:
    """Stands for API Management at the gateway class; what the SDK sends is tested in test_apim_gateway.py."""

    users: dict[str, str] = field(default_factory=dict)
    delegation: tuple[str, str] | None = None
    fails: bool = False
    refuses: bool = False
    keys_shown: list[str] = field(default_factory=list)
    regenerated: list[tuple[str, str]] = field(default_factory=list)

    async def ensure_user(self, user_id: str, *, email: str, first_name: str, last_name: str) -> None:
        if self.fails:
            raise ApimUnavailableError("down")
        if self.refuses:
            raise UserRefusedError("the address is known")
        self.users[user_id] = f"{first_name} {last_name} <{email}>"

    async def sign_in_token(self, user_id: str, *, expires_at: datetime) -> str:
        if self.fails:
            raise ApimUnavailableError("down")
        assert timedelta(0) < expires_at - datetime.now(UTC) < timedelta(minutes=10)
        return f"{user_id}&202601020304&a+b/c=="

    async def keys(self, sid: str) -> tuple[str, str]:
        if self.fails:
            raise ApimUnavailableError("down")
        self.keys_shown.append(sid)
        return f"primary-of-{sid}", f"secondary-of-{sid}"

    async def regenerate(self, sid: str, which: str) -> None:
        if self.fails:
            raise ApimUnavailableError("down")
        self.regenerated.append((sid, which))

    async def ensure_delegation(self, url: str, key: str) -> None:
        self.delegation = (url, key)


@dataclass
class RecordedCheckout:
    """Stands for checkout at the gateway class; what is sent is tested in test_checkout_gateway.py."""

    requests: list[CheckoutRequest] = field(default_factory=list)
    billing: list[tuple[str, str]] = field(default_factory=list)
    told_charges: list[dict[str, Any]] = field(default_factory=list)
    fails: bool = False
    refuses: bool = False

    async def charges(self, subscription_id: str) -> list[dict[str, Any]]:
        if self.fails:
            raise CheckoutUnavailableError("down")
        return [one for one in self.told_charges if one["subscription_id"] == subscription_id]

    async def payment_page(self, request: CheckoutRequest) -> str:
        if self.fails:
            raise CheckoutUnavailableError("down")
        if self.refuses:
            raise CheckoutRefusedError("already subscribed")
        self.requests.append(request)
        return f"https://checkout.stripe.com/c/{request.subscription_id}"

    async def billing_page(self, account_id: str, *, return_url: str) -> str:
        if self.refuses:
            raise CheckoutRefusedError("no customer")
        self.billing.append((account_id, return_url))
        return f"https://billing.stripe.com/p/{account_id}"


@dataclass
class RecordedCollector:
    """Stands for the collector at the gateway class; what is sent is tested in test_usage.py."""

    told_standing: Standing | None = None
    told: dict[str, Split] = field(default_factory=dict)
    asked: list[tuple[datetime, datetime, list[str]]] = field(default_factory=list)
    fails: bool = False

    async def standing(self, subscription_id: str) -> Standing:
        if self.fails:
            raise DoorUnavailableError("down")
        if self.told_standing is None:
            raise NotKnownError(subscription_id)
        return self.told_standing

    async def split(self, subscription_id: str, since: datetime, until: datetime, by: Sequence[str]) -> Split:
        assert subscription_id
        self.asked.append((since, until, list(by)))
        return self.told[by[0]]


@dataclass
class RecordedReporter:
    """Stands for the reporter at the gateway class; what is sent is tested in test_reporter_gateway.py."""

    bills: dict[str, Bill] = field(default_factory=dict)
    days: dict[date, Day] = field(default_factory=dict)
    pages: dict[str | None, Events] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    fails: bool = False

    async def bill(self, invoice_id: str) -> Bill:
        if self.fails:
            raise DoorUnavailableError("down")
        if invoice_id not in self.bills:
            raise NotKnownError(invoice_id)
        return self.bills[invoice_id]

    async def day(self, invoice_id: str, usage: str, day: date) -> Day:
        if usage not in {one.key for one in self.bills[invoice_id].usage} or day not in self.days:
            raise NotKnownError(usage)
        return self.days[day]

    async def events(self, invoice_id: str, wanted: Mapping[str, Any]) -> Events:
        self.asked.append({"invoice": invoice_id, **wanted})
        return self.pages[wanted["after"]]

    async def csv(self, invoice_id: str, level: str) -> AsyncIterator[bytes]:
        await self.bill(invoice_id)
        return self._pieces(invoice_id, level)

    async def _pieces(self, invoice_id: str, level: str) -> AsyncIterator[bytes]:
        yield b"invoice,level\r\n"
        yield f"{invoice_id},{level}\r\n".encode()


@pytest.fixture(scope="session")
async def database(postgres_dsn: str) -> AsyncIterator[str]:
    dsn = await make_schema(postgres_dsn, NAME, MIGRATIONS)
    yield dsn
    await drop_database(postgres_dsn, dsn)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    async with rolled_back_connection(database, NAME) as connection:
        yield connection


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return Catalogue.parse((REPOSITORY / "monetizationModels.json").read_text())


def make_settings() -> Settings:
    return Settings(
        database_url="postgresql://unused",
        kafka_bootstrap_servers="unused",
        internal_token_keys=TOKEN_KEY,
        delegation_keys=f"{KEY},{OLD_KEY}",
        public_url="http://billing.test",
        portal_url="http://portal.test",
        checkout_url="http://checkout.test",
        gateway_url="http://gateway.test",
        apim_subscription_id="s",
        apim_resource_group="g",
        apim_service_name="n",
        sign_in_attempts_per_account_max=3,
    )


@pytest.fixture
def settings() -> Settings:
    return make_settings()


@pytest.fixture
def apim() -> RecordedApim:
    return RecordedApim()


@pytest.fixture
def checkout() -> RecordedCheckout:
    return RecordedCheckout()


@pytest.fixture
def collector() -> RecordedCollector:
    return RecordedCollector()


@pytest.fixture
def reporter() -> RecordedReporter:
    return RecordedReporter()


@pytest.fixture(scope="session")
def pages() -> Pages:
    """Made once, as in the service: to compile their templates takes longer than most tests."""
    return make_pages(make_settings())


@pytest.fixture(scope="session")
def passwords() -> Passwords:
    return Passwords()


@pytest.fixture(scope="session")
def installed(pages: Pages) -> tuple[FastAPI, FastAPI]:
    public, internal = FastAPI(), FastAPI()
    install_routes(public, internal, pages)
    return public, internal


@pytest.fixture
def parts(
    connection: asyncpg.Connection,
    settings: Settings,
    pages: Pages,
    passwords: Passwords,
    apim: RecordedApim,
    checkout: RecordedCheckout,
    collector: RecordedCollector,
    reporter: RecordedReporter,
) -> Parts:
    pool: Any = OneConnectionPool(connection)
    clock = BusinessClock(offset_allowed=True)
    return Parts(pool, clock, settings, pages, apim, checkout, passwords, Catalogues(), collector=collector, reporter=reporter)


@pytest.fixture
async def publish(parts: Parts) -> AsyncIterator[Callable[..., Any]]:
    async with memory_kafka(handlers.router, pool=parts.pool) as publish:
        yield publish


@pytest.fixture
async def applied(publish: Callable[..., Any], catalogue: Catalogue, parts: Parts) -> int:
    await publish(CatalogueApplied(cause_id="apply", occurred_at=parts.clock.now(), version=1, document=catalogue.document()))
    return 1


@pytest.fixture
def apps(installed: tuple[FastAPI, FastAPI], parts: Parts) -> tuple[FastAPI, FastAPI]:
    """Return the public and the internal application with the parts of this test."""
    for app in installed:
        app.state.parts = parts
        app.state.token_keys = (TOKEN_KEY,)
    return installed


class Browser:
    """A client with cookies that asks for HTML, follows nothing by itself and fills in the hidden fields of forms."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def get(self, address: str, **options: Any) -> httpx.Response:
        return await self.client.get(address, **options)

    async def post(self, address: str, **fields: str) -> httpx.Response:
        return await self.client.post(address, data=fields)

    async def submit(self, page: httpx.Response, action: str, **fields: str) -> httpx.Response:
        """Send the form of a page that posts to `action`, with its hidden fields."""
        forms = re.findall(r'<form[^>]*action="([^"]*)"[^>]*>(.*?)</form>', page.text, re.DOTALL)
        inside = next(text for target, text in forms if target == action)
        hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', inside))
        return await self.client.post(action, data=hidden | fields)

    async def register(self, email: str = "ada@example.com", **fields: str) -> httpx.Response:
        page = await self.get("/register")
        given = {"first_name": "Ada", "last_name": "Byron", "email": email, "password": PASSWORD}
        return await self.submit(page, "/register", **(given | fields))


@pytest.fixture
async def browser(apps: tuple[FastAPI, FastAPI]) -> AsyncIterator[Browser]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(apps[0]), base_url="http://billing.test", headers={"Accept": "text/html"}
    ) as client:
        yield Browser(client)


@pytest.fixture
async def other_browser(apps: tuple[FastAPI, FastAPI]) -> AsyncIterator[Browser]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(apps[0]), base_url="http://billing.test", headers={"Accept": "text/html"}
    ) as client:
        yield Browser(client)


@dataclass(frozen=True)
class SignedIn:
    browser: Browser
    user_id: str
    account_id: str

    def link(self, operation: str, salt: str = "c2FsdA==", **values: str) -> str:
        return f"/apim-delegation?{make_link(KEY, operation, salt, **values)}"

    def subscribe_link(self, product_id: str = "standard", salt: str = "c2FsdA==") -> str:
        return self.link("Subscribe", salt, productId=product_id, userId=self.user_id)

    async def subscribe(self, product_id: str = "standard", name: str = "Orders API") -> str:
        """Ask for a subscription through the pages; returns its id."""
        page = await self.browser.get(self.subscribe_link(product_id))
        answer = await self.browser.submit(page, "/apim-delegation", display_name=name, consent="yes")
        assert answer.status_code == 303, answer.text
        return re.search(r"[0-9a-f-]{36}", answer.headers["location"])[0]


@pytest.fixture
async def member(browser: Browser, connection: asyncpg.Connection) -> SignedIn:
    await browser.register()
    row = await connection.fetchrow("select user_id, account_id from members where email_key = 'ada@example.com'")
    return SignedIn(browser, row["user_id"], row["account_id"])


@pytest.fixture
async def stranger(other_browser: Browser, connection: asyncpg.Connection) -> SignedIn:
    await other_browser.register("eve@example.com")
    row = await connection.fetchrow("select user_id, account_id from members where email_key = 'eve@example.com'")
    return SignedIn(other_browser, row["user_id"], row["account_id"])


class Story:
    """One member's live subscription to a product, and the events that tell about it."""

    def __init__(self, member: Any, parts: Parts, publish: Callable[..., Any], subscription_id: str, product_id: str) -> None:
        self.member, self.parts, self.publish = member, parts, publish
        self.subscription_id, self.product_id = subscription_id, product_id
        now = parts.clock.now()
        self.start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        self.end = (self.start + timedelta(days=32)).replace(day=1)
        self.counter = 0

    def _common(self) -> dict[str, Any]:
        self.counter += 1
        return {
            "cause_id": f"cause-{self.counter}",
            "occurred_at": self.parts.clock.now(),
            "subscription_id": self.subscription_id,
            "account_id": self.member.account_id,
        }

    async def state(self, kind: type[Any] = SubscriptionUpdated, *, revision: int = 1, status: str = "active", **changes: Any) -> None:
        values = {
            "user_id": self.member.user_id,
            "product_id": self.product_id,
            "catalogue_version": 1,
            "display_name": "Orders API",
            "revision": revision,
            "status": status,
            "currency": "usd",
            "started_at": self.start,
            "current_period_start": self.start,
            "current_period_end": self.end,
            "stripe_subscription_id": "sub_1",
        }
        await self.publish(kind(**self._common(), **(values | changes)))

    async def access(
        self, kind: type[Any] = AccessGranted, *, revision: int = 1, reason: str = "subscribed", sid: str | None = None
    ) -> None:
        values = {"user_id": self.member.user_id, "product_id": self.product_id, "sid": sid or self.subscription_id, "revision": revision}
        await self.publish(kind(**self._common(), **values, reason=reason, effective_at=self.parts.clock.now()))

    async def usage(self, quantity: int, *, revision: int = 1, hour: datetime | None = None) -> None:
        at = hour or self.start
        values = {"product_id": self.product_id, "catalogue_version": 1, "meter_id": "calls", "segment_start": self.start}
        await self.publish(UsageCollected(**self._common(), **values, hour=at, timestamp=at, quantity=quantity, revision=revision))

    async def invoice(self, kind: type[Any], *, revision: int = 1, status: str = "paid", remaining: int = 0, **changes: Any) -> None:
        values = {
            "revision": revision,
            "invoice_id": "in_1",
            "number": "TP-0001",
            "stripe_subscription_id": "sub_1",
            "stripe_customer_id": "cus_1",
            "status": status,
            "billing_reason": "subscription_cycle",
            "currency": "usd",
            "total_minor": 10995,
            "amount_due_minor": 10995,
            "amount_paid_minor": 10995 - remaining,
            "amount_remaining_minor": remaining,
            "attempt_count": 1,
            "period_start": self.start,
            "period_end": self.end,
            "created_at": self.start,
        }
        await self.publish(kind(**self._common(), **(values | changes)))

    async def page(self, step: str = "") -> Any:
        return await self.member.browser.get(f"/subscriptions/{self.subscription_id}{step}")


@pytest.fixture
async def story(member: Any, applied: int, parts: Parts, publish: Callable[..., Any]) -> Story:
    return Story(member, parts, publish, await member.subscribe("standard"), "standard")
