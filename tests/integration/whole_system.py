"""The whole system as the tests drive it: its people, its clock, its faults and its figures, through public doors only."""

import asyncio
import io
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from dateutil.relativedelta import relativedelta
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from embedded_servers import ServerError, places
from embedded_servers.ports import choose_port, is_free
from turnpike_cli.catalogue_commands import MODELS_FILE
from turnpike_cli.clock import BusinessTime, Step
from turnpike_cli.doors import Doors
from turnpike_cli.errors import CommandError
from turnpike_cli.parts import PARTS
from turnpike_cli.stack import Stack
from turnpike_cli.state import State
from turnpike_cli.story.browser import Browser, Page, StoryError
from turnpike_cli.story.checks import Checks
from turnpike_cli.story.figures import Station, check_invoice, check_reported, check_usage
from turnpike_cli.story.people import Consumer, Places, send_quantities
from turnpike_cli.story.stripe_view import StripeView

T = TypeVar("T")
WAIT_SECONDS = 120.0  # a hang, not a speed, is what these look for: the machine may be busy with other things
FIRST_PORT = 10_000  # below the range from which the system takes ports for outgoing connections
AFTER_MIDNIGHT = timedelta(hours=3)  # invoices are drafts for an hour


def reserve_ports(folder: Path) -> None:
    """Give a stack ports of its own before it starts: several test runs on one machine must not race for the same ones."""
    taken: set[int] = set()
    ports: dict[str, dict[str, int]] = {}
    first = FIRST_PORT + os.getpid() % 500 * 40
    for part in PARTS:
        ports[part.name] = {}
        for name in part.ports:
            ports[part.name][name] = choose_port(first, taken)
            taken.add(ports[part.name][name])
    folder.mkdir(parents=True, exist_ok=True)
    State(ports=ports).write(folder / "state.json")


async def eventually(what: str, ask: Callable[[], Awaitable[T]], holds: Callable[[T], bool], *, seconds: float = WAIT_SECONDS) -> T:
    """Ask until it holds. Fails with what was awaited and the last answer."""
    end = time.monotonic() + seconds
    last: Any = "nothing yet"
    while time.monotonic() < end:
        try:
            last = answer = await ask()
        except (httpx.HTTPError, CommandError, LookupError, StoryError) as error:
            last = f"{type(error).__name__}: {error}"
        else:
            if holds(answer):
                return answer
        await asyncio.sleep(0.05)
    raise AssertionError(f"waited {seconds:g} s for {what}; last seen: {last}")


@dataclass
class Customer:
    """A person with a subscription, and where it began."""

    person: Consumer
    start: datetime
    stripe_id: str = ""
    sender_key: str = ""
    quantities_sent: int = 0
    events_sent: int = 0

    @property
    def subscription_id(self) -> str:
        return self.person.subscription_id


class World:
    """One running stack with everything that is needed to live in it."""

    def __init__(self, stack: Stack, doors: Doors, http: httpx.AsyncClient, *, settle_seconds: float = WAIT_SECONDS) -> None:
        addresses = stack.addresses()
        self.stack, self.doors, self.http = stack, doors, http
        self.clock = BusinessTime(doors, settle_seconds=settle_seconds)
        self.stripe = StripeView.connect(addresses["sandbox_stripe"]["http"], stack.secrets.stripe_api_key)
        self.places = Places(
            portal=addresses["sandbox_apim"]["portal"],
            gateway=addresses["sandbox_apim"]["gateway"],
            turnpike=addresses["delegation_gateway"]["http"],
            ingest=addresses["usage_collector"]["http"],
        )
        self._names = count(1)
        self._browsers: list[Browser] = []
        self._starting = Lock()

    # --- people ------------------------------------------------------------------------------------------------------------

    def stranger(self, product: str) -> Consumer:
        self._browsers.append(Browser())
        return Consumer(f"{product}-{os.getpid()}-{next(self._names)}", product, self.places, browser=self._browsers[-1])

    async def close(self) -> None:
        for browser in self._browsers:
            await browser.close()
        await self.stripe.close()

    async def offer(self, product: str) -> tuple[Consumer, Page]:
        """Let somebody sign up and go as far as the page with the price."""
        person = self.stranger(product)
        await person.sign_up()
        return person, await person.choose()

    async def join(self, product: str) -> Customer:
        """Let somebody sign up, buy and call once."""
        person, offer = await self.offer(product)
        page = await person.order(offer)
        if product != "free":
            await person.pay(page)
        return await self.welcome(person)

    async def welcome(self, person: Consumer) -> Customer:
        """Wait for the key of somebody who has paid, and look up where the subscription began."""
        await person.wait_for_key()
        customer = Customer(person, (await self.clock.now()).replace(minute=0, second=0, microsecond=0))
        if person.product != "free":
            found = await self.stripe.subscription(person.subscription_id)
            customer.stripe_id, customer.start = found.id, datetime.fromtimestamp(found.start_date, UTC)
        return customer

    async def change_plan(self, customer: Customer, product: str, when: str) -> None:
        """Go through the pages as a customer does: choose, look at the price, press the button of one of the two ways."""
        browser = customer.person.browser
        chosen = await browser.open((await browser.open(f"{customer.person.page}/change")).link(f"Choose {product.capitalize()}"))
        label = next(
            text
            for form in chosen.tree.xpath("//form[contains(@action, '/change/')]")
            for text in [" ".join(form.xpath(".//button")[0].text_content().split())]
            if form.xpath(".//input[@name='when']/@value") == [when]
        )
        await browser.submit(chosen, label)

    async def send_usage(self, customer: Customer, quantity: int, *, again: int = 1, at: datetime | None = None) -> None:
        """Send calls counted elsewhere, now or at `at`, until they are taken, as a sender with a spool does, and `again` times more."""
        if not customer.sender_key:
            body = {"name": customer.person.name, "source": f"/{customer.person.name}", "subscriptions": [customer.subscription_id]}
            answer = await self.doors.ask("usage_collector", "POST", "/v1/senders", body=body)
            customer.sender_key = answer["key"]
        moment = (at or await self.clock.now()).isoformat()

        async def send() -> httpx.Response:
            return await send_quantities(
                self.places,
                sender_key=customer.sender_key,
                source=f"/{customer.person.name}",
                subscription_id=customer.subscription_id,
                at=moment,
                quantities=[quantity],
            )

        for _ in range(1 + again):
            await eventually("the ingest door to take usage", send, lambda answer: answer.status_code == 202)
        customer.quantities_sent += quantity
        customer.events_sent += 1

    async def answers(self, customer: Customer, status: int, *, seconds: float = WAIT_SECONDS) -> None:
        """Wait until the gateway answers this customer's key so."""

        async def ask() -> int:
            return (await customer.person.call(self.http, "/orders")).status_code

        await eventually(f"the gateway to answer {status} to {customer.person.name}", ask, lambda found: found == status, seconds=seconds)

    async def status_at_stripe(self, customer: Customer, status: str) -> None:
        await eventually(f"Stripe to say {status}", lambda: self.stripe.status(customer.stripe_id), lambda found: found == status)

    async def access(self, customer: Customer) -> list[tuple[int, str, str]]:
        """Return all changes of access: revision, access, reason."""
        answer = await self.doors.ask("subscription_enforcer", "GET", f"/v1/access/{customer.subscription_id}")
        return sorted((change["revision"], change["access"], change["reason"]) for change in answer["changes"])

    async def catalogue(self) -> dict[str, Any]:
        """Return the catalogue that is applied now: tests of other files have added what they sell."""
        document: dict[str, Any] = (await self.doors.ask("checkout", "GET", "/v1/catalogue"))["document"]
        return document

    # --- time --------------------------------------------------------------------------------------------------------------

    async def next_month(self) -> datetime:
        now = await self.clock.now()
        return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + relativedelta(months=1)

    async def end_the_month(self, on_step: Callable[[Step], None] | None = None) -> datetime:
        """Walk past the next month end, until its invoices are final; returns the end."""
        end = await self.next_month()
        await self.clock.settle()
        await self.clock.advance_to(end + AFTER_MIDNIGHT, on_step=on_step)
        return end

    # --- faults ------------------------------------------------------------------------------------------------------------

    async def crash(self, name: str) -> None:
        """End a process with SIGKILL; `revive` brings it back."""
        assert self.stack.is_running(name), f"{name} did not run before it was to be killed"
        self.stack.kill(name)
        assert not self.stack.is_running(name)

    async def revive(self) -> None:
        """Start whatever was killed, all of it at once, at its old ports, and wait until it is ready."""
        await asyncio.to_thread(self._start)

    def _start(self) -> None:
        with self._starting:  # a test that failed may have left one at work
            self._wait_for_ports()
            try:
                self.stack.start()
            except (CommandError, ServerError):  # a busy machine: what was started by now is only slow to answer
                self.stack.start()

    def _wait_for_ports(self) -> None:
        """Wait until the dead have let go of their ports: a start while one is held would take others, which nobody knows."""
        ports = [port for part in PARTS if not self.stack.is_running(part.name) for port in self.stack.state.ports[part.name].values()]
        end = time.monotonic() + WAIT_SECONDS
        while held := [port for port in ports if not is_free(port)]:
            assert time.monotonic() < end, f"ports {held} are held by a process that was killed"
            time.sleep(0.02)

    async def fault(self, sandbox: str, *, method: str, path: str, times: int, **what: Any) -> None:
        body = {"match": {"method": method, "path_prefix": path}, "times": times, **what}
        await self.doors.ask(sandbox, "POST", "/_sandbox/faults", body=body)

    async def stripe_faults_left(self) -> list[str]:
        """Return the faults that were not met as often as they were set, and remove all."""
        faults = (await self.doors.ask("sandbox_stripe", "GET", "/_sandbox/faults"))["data"]
        await self.doors.ask("sandbox_stripe", "DELETE", "/_sandbox/faults")
        wanted = ((fault["hits"], fault["times"], f"{fault['kind']} {fault['status']} on {fault['path_prefix']}") for fault in faults)
        return [f"{name}: {hits} of {times}" for hits, times, name in wanted if hits < times]

    async def webhooks(self, **mode: bool) -> None:
        await self.doors.ask("sandbox_stripe", "POST", "/_sandbox/webhooks", body={"mode": mode})

    async def sum_of_metric(self, name: str, sample: str, **labels: str) -> float:
        """Add up a counter of a part over all series that have these labels."""
        text = (await self.http.get(f"{self.stack.door(name)}/metrics")).raise_for_status().text
        samples = [one for family in text_string_to_metric_families(text) for one in family.samples if one.name == sample]
        return sum(one.value for one in samples if labels.items() <= one.labels.items())

    # --- Kafka -------------------------------------------------------------------------------------------------------------

    async def records(self, topic: str, key: str | None = None) -> list[Any]:
        """Read a topic from its beginning to its end as of now; only the records with this key."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.stack.wiring.kafka, enable_auto_commit=False)
        try:
            await consumer.start()
            consumer.subscribe([topic])
            places = await self._assigned(consumer)
            ends = await consumer.end_offsets(places)
            await consumer.seek_to_beginning(*places)
            found: list[Any] = []
            while any([await consumer.position(place) < end for place, end in ends.items()]):
                for batch in (await consumer.getmany(timeout_ms=1000)).values():
                    found += [record for record in batch if key is None or record.key == key.encode()]
        finally:
            await consumer.stop()
        return found

    async def _assigned(self, consumer: AIOKafkaConsumer) -> list[Any]:
        async def ask() -> list[Any]:
            return list(consumer.assignment())

        return await eventually("the partitions of a topic", ask, bool)

    async def publish(self, topic: str, value: bytes, *, key: bytes, headers: list[tuple[str, bytes]] | None = None) -> tuple[int, int]:
        """Write one record; returns its partition and offset."""
        producer = AIOKafkaProducer(bootstrap_servers=self.stack.wiring.kafka, acks="all")
        try:
            await producer.start()
            sent = await producer.send_and_wait(topic, value, key=key, headers=headers or [])
        finally:
            await producer.stop()
        return sent.partition, sent.offset

    # --- figures -----------------------------------------------------------------------------------------------------------

    async def check_period(
        self, customer: Customer, start: datetime, end: datetime, *, sent: int | None = None, invoice: bool = True
    ) -> dict[str, int]:
        """Hold every station of the money path against the others; `sent` are the calls of this period. Returns what was counted."""
        checks = Checks(Console(file=io.StringIO()))
        station = Station(self.doors, self.stripe, customer.person, start, end)
        ingested = customer.person.product == "enterprise"
        expected = customer.events_sent if ingested else sum(customer.person.calls.values()) if sent is None else sent
        counted = await check_usage(station, checks, sent=expected, through_gateway=not ingested)
        if customer.stripe_id:
            await check_reported(station, checks, counted)
        if customer.stripe_id and invoice:
            await check_invoice(station, checks, counted, customer.stripe_id, start)
        assert not checks.failures, f"{customer.person.name}: " + "; ".join(checks.failures)
        assert checks.passed > 0
        return counted


@asynccontextmanager
async def living(stack: Stack, *, settle_seconds: float = WAIT_SECONDS) -> AsyncIterator[World]:
    """Apply the catalogue and go to the 11th of a month, so that first base fees are prorated."""
    limits = httpx.Limits(max_connections=32)
    async with Doors(stack) as doors, httpx.AsyncClient(timeout=20, limits=limits, trust_env=False) as client:
        world = World(stack, doors, client, settle_seconds=settle_seconds)
        try:
            await doors.ask("checkout", "POST", "/v1/catalogue/apply", body=json.loads((places.checkout() / MODELS_FILE).read_text()))
            await world.clock.settle()
            now = await world.clock.now()
            target = now.replace(day=11, hour=9, minute=0, second=0, microsecond=0)
            await world.clock.advance_to(target if target > now else target + relativedelta(months=1))
            yield world
        finally:
            await world.close()
