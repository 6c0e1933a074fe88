"""The proof: usage with a count of its own flows in while processes are killed and Stripe fails; every invoice must come out exact.

`make proof` runs it on a stack of its own and writes a report; a smaller run is a test.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from random import Random
from typing import Any

import httpx
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from traffic import Generator, Meterer, Tally, Usage
from whole_system import Customer, World

from turnpike_cli.clock import Step

VICTIMS = ("usage_collector", "stripe_reporter", "kafka", "postgres")
PRODUCTS = ("payg", "enterprise", "standard", "payg", "enterprise", "standard")
KILLS_AT_THE_END = 2  # of all kills: during the walk over the month's end
STRIPE_FAILURES = (  # 5 % of all calls, in the three ways a call can fail
    {"kind": "status", "status": 500, "probability": 0.017},
    {"kind": "drop_after_commit", "probability": 0.017},
    {"kind": "status", "status": 429, "probability": 0.017, "headers": {"Retry-After": "1"}},
)
BATCH = 250
SENDERS = 4
PORTION_TIME = timedelta(hours=9)
RETRY_SECONDS = 0.2


@dataclass(frozen=True)
class Kill:
    """One process ended with SIGKILL, and how long it took until everything was ready again."""

    victim: str
    moment: str
    seconds: float


@dataclass
class Invoiced:
    """One subscription at the end: what the generator knows, what the product and Stripe say, and what must be paid."""

    product: str
    road: str
    events: int
    repeats: int
    late: int
    received: int
    billed: int
    counted: int
    at_stripe: int
    owed_minor: int
    invoiced_minor: int

    @property
    def exact(self) -> bool:
        same = self.events == self.received and self.billed == self.counted == self.at_stripe
        return same and self.owed_minor == self.invoiced_minor


@dataclass
class Report:
    """What happened. `exact` is the verdict."""

    seed: int
    kills: list[Kill] = field(default_factory=list)
    stripe_failures: int = 0
    resent: int = 0
    seconds: float = 0.0
    subscriptions: list[Invoiced] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        return bool(self.subscriptions) and all(one.exact for one in self.subscriptions)

    def public(self) -> dict[str, Any]:
        totals = {name: sum(getattr(one, name) for one in self.subscriptions) for name in ("events", "repeats", "late", "received")}
        lost = sum(max(one.billed - one.counted, 0) for one in self.subscriptions)
        double = sum(max(one.counted - one.billed, 0) for one in self.subscriptions)
        return {"exact": self.exact, "lost": lost, "double": double, "totals": totals, **asdict(self)}


class Proof:
    """One run over one month of a living stack."""

    def __init__(self, world: World, *, events: int, kills: int, seed: int, say: Callable[[str], None] = print) -> None:
        self._world, self._events, self._say = world, events, say
        self._chance = Random(seed)
        self._victims = [VICTIMS[number % len(VICTIMS)] for number in range(kills)]
        self._chance.shuffle(self._victims)
        self._report = Report(seed)
        self._customers: list[Customer] = []
        self._keys: dict[str, str] = {}

    async def run(self) -> Report:
        began = time.monotonic()
        self._customers = [await self._world.join(product) for product in PRODUCTS]
        generator = Generator(self._report.seed, [await self._meterer(customer) for customer in self._customers])
        await self._world.clock.settle()
        async with self._failing_stripe():
            last = await self._world.clock.now()
            portions = len(self._victims) - KILLS_AT_THE_END
            for number, victim in enumerate(self._victims[:portions], 1):
                await self._world.clock.advance_by(PORTION_TIME)
                until = await self._world.clock.now()
                usage = generator.portion(self._events // portions, last, until)
                await self._send_and_kill(usage, victim)
                await self._world.clock.settle()
                last = until
                self._say(f"{number} of {portions}: {len(usage):,} events sent while {victim} was killed")
            end = await self._end_the_month(self._victims[portions:])
        self._report.subscriptions = [
            await self._invoiced(customer, generator.tallies.get(customer.subscription_id, Tally()), end) for customer in self._customers
        ]
        self._report.seconds = round(time.monotonic() - began, 1)
        return self._report

    # --- what is made to fail ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _failing_stripe(self) -> AsyncIterator[None]:
        for fault in STRIPE_FAILURES:
            await self._world.doors.ask("sandbox_stripe", "POST", "/_sandbox/faults", body={"match": {"path_prefix": "/v1"}, **fault})
        yield
        faults = (await self._world.doors.ask("sandbox_stripe", "GET", "/_sandbox/faults"))["data"]
        self._report.stripe_failures = sum(fault["hits"] for fault in faults)
        await self._world.doors.ask("sandbox_stripe", "DELETE", "/_sandbox/faults")

    async def _send_and_kill(self, usage: Sequence[Usage], victim: str) -> None:
        sending = asyncio.create_task(self._send(usage))
        try:
            await asyncio.sleep(self._chance.uniform(0.05, 0.8))
            await self._kill(victim, "while usage came in")
            await sending
        finally:
            sending.cancel()

    async def _kill(self, victim: str, moment: str) -> None:
        began = time.monotonic()
        self._world.stack.kill(victim)
        await asyncio.sleep(self._chance.uniform(0, 0.5))
        await self._world.revive()
        self._report.kills.append(Kill(victim, moment, round(time.monotonic() - began, 1)))

    async def _end_the_month(self, victims: Sequence[str]) -> datetime:
        waiting = list(victims)
        running: list[asyncio.Task[None]] = []

        def kill_next(_: Step) -> None:
            if waiting and (not running or running[-1].done()):
                running.append(asyncio.create_task(self._kill(waiting.pop(0), "while the month was invoiced")))

        end = await self._world.end_the_month(on_step=kill_next)
        await asyncio.gather(*running)
        await self._world.clock.settle()
        assert not waiting, f"the month had too few stops to kill {waiting}"
        return end

    # --- sending -----------------------------------------------------------------------------------------------------------

    async def _meterer(self, customer: Customer) -> Meterer:
        """Say by which road a customer's usage comes; who sends over HTTP gets a key for this subscription alone."""
        road, source = "stream", "apim"
        if customer.person.product == "enterprise":
            road, source = "ingest", f"/{customer.person.name}"
            body = {"name": customer.person.name, "source": source, "subscriptions": [customer.subscription_id]}
            self._keys[source] = (await self._world.doors.ask("usage_collector", "POST", "/v1/senders", body=body))["key"]
        return Meterer(customer.subscription_id, "ingest" if road == "ingest" else "stream", source, await self._world.clock.now())

    async def _send(self, usage: Sequence[Usage]) -> None:
        """Send by both roads at once, several senders each; whatever is not acknowledged goes again."""
        lines = [one for one in usage if one.meterer.road == "stream"]
        posts = [
            (source, batch)
            for source in self._keys
            for batch in _batches([one for one in usage if one.meterer.source == source and one.meterer.road == "ingest"])
        ]
        self._chance.shuffle(posts)
        async with httpx.AsyncClient(timeout=20, trust_env=False) as client, asyncio.TaskGroup() as tasks:
            for number in range(SENDERS):
                tasks.create_task(self._post(client, posts[number::SENDERS]))
                tasks.create_task(self._write(lines[number::SENDERS]))

    async def _post(self, client: httpx.AsyncClient, posts: Iterable[tuple[str, Sequence[Usage]]]) -> None:
        for source, batch in posts:
            headers = {"content-type": "application/cloudevents-batch+json", "authorization": f"Bearer {self._keys[source]}"}
            body = b"[" + b",".join(one.encoded() for one in batch) + b"]"
            while True:
                with suppress(httpx.HTTPError):
                    answer = await client.post(f"{self._world.places.ingest}/v1/events", content=body, headers=headers)
                    if answer.status_code == 202:
                        break
                    assert answer.status_code in {429, 503}, f"{answer.status_code} {answer.text[:300]}"
                self._report.resent += len(batch)
                await asyncio.sleep(RETRY_SECONDS)

    async def _write(self, lines: Sequence[Usage]) -> None:
        """Write lines as the gateway does: at least once, so a batch whose acknowledgement was lost is written again."""
        for batch in _batches(lines):
            while True:
                producer = AIOKafkaProducer(bootstrap_servers=self._world.stack.wiring.kafka, acks="all", request_timeout_ms=5000)
                try:
                    await producer.start()
                    await asyncio.gather(*[
                        await producer.send("gateway.calls", one.encoded(), key=one.meterer.subscription_id.encode()) for one in batch
                    ])  # fmt: skip
                    break
                except KafkaError:
                    self._report.resent += len(batch)
                    await asyncio.sleep(RETRY_SECONDS)
                finally:
                    with suppress(KafkaError):
                        await producer.stop()

    # --- the reckoning -----------------------------------------------------------------------------------------------------

    async def _invoiced(self, customer: Customer, tally: Tally, end: datetime) -> Invoiced:
        begin = customer.start.replace(minute=0, second=0, microsecond=0)
        params = {"subscription_id": customer.subscription_id, "from": begin.isoformat(), "to": end.isoformat()}
        collected = await self._world.doors.ask("usage_collector", "GET", "/v1/reconciliation", params=params)
        (reported,) = (await self._world.doors.ask("stripe_reporter", "GET", "/v1/reconciliation", params=params))["meters"]
        lines = await self._world.stripe.lines(customer.stripe_id, customer.start, end)
        called = customer.person.calls if customer.person.product != "enterprise" else Counter[int]()  # its gateway writes no line
        return Invoiced(
            product=customer.person.product,
            road="ingest" if customer.person.product == "enterprise" else "stream",
            events=tally.events + called.total(),
            repeats=tally.repeats,
            late=tally.late,
            received=int(collected["events"]["received"]),
            billed=tally.billed + called[200],
            counted=int(collected["meters"]["calls"]["counted"]),
            at_stripe=int(reported["stripe"]),
            owed_minor=owed(customer.person.product, tally.billed + called[200], customer.start, end),
            invoiced_minor=sum(line.amount_minor for line in lines),
        )


def owed(product: str, calls: int, start: datetime, end: datetime) -> int:
    """Say what a first, partial calendar month costs, in cents, from the price list as a person reads it."""
    if product == "payg":  # $0.15 for 100 calls
        return _cents(Decimal(calls) * 15 / 100)
    if product == "enterprise":  # $749.95 for each started 1,500,000 calls, at least one
        return 74_995 * max(1, -(-calls // 1_500_000))
    month = end - (end - timedelta(days=1)).replace(day=1)  # $89.95 with 100,000 calls, then $0.10 for 100
    base = Decimal(8_995) * round((end - start).total_seconds()) / round(month.total_seconds())
    return _cents(base) + _cents(Decimal(max(0, calls - 100_000)) * 10 / 100)


def _cents(exact: Decimal) -> int:
    return int(exact.quantize(Decimal(1), ROUND_HALF_UP))


def _batches(usage: Sequence[Usage]) -> list[Sequence[Usage]]:
    return [usage[start : start + BATCH] for start in range(0, len(usage), BATCH)]
