"""From waiting webhooks to numbered states: fetches each object once, gives it the next revision and announces it."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import structlog
from prometheus_client import Counter, Gauge, Histogram

from billing_common.db import Connection
from billing_common.events import Event
from billing_common.outbox import announce
from webhook_ingress import domain, objects, store
from webhook_ingress.stripe_gateway import StripeGateway, StripeUnavailableError

POLL_SECONDS = 1.0
POSTGRES_DOWN = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)

DONE = Counter("turnpike_webhooks_done_total", "Webhooks that are finished, by Stripe's type and what became of them", ["type", "outcome"])
WAITING = Gauge("turnpike_webhooks_waiting", "Stored webhooks whose object has not been published yet")
LAG = Gauge("turnpike_webhook_lag_seconds", "Age of the oldest webhook that waits")
FAILING = Gauge("turnpike_webhook_objects_failing", "Stripe objects that could not be fetched or read and are tried again")
PROCESSING = Histogram(
    "turnpike_webhook_processing_seconds",
    "From the stored webhook to the event in the outbox",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30),
)

log = structlog.get_logger(__name__)


class Worker:
    """Works on several objects at once, on one object never twice at once: a lease keeps other replicas away."""

    def __init__(self, pool: asyncpg.Pool, gateway: StripeGateway, *, concurrency: int) -> None:
        self._pool = pool
        self._gateway = gateway
        self._concurrency = concurrency
        self._wake = asyncio.Event()
        self._running: dict[asyncio.Task[None], store.Work] = {}
        self._lease: UUID = uuid4()
        self.done = 0

    def wake(self) -> None:
        """Say that something waits: a hint, the poll is the truth."""
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        await store.release_leases(self._pool, self._lease)  # of a round that ended with an error
        looked = 0.0
        try:
            while True:
                self._wake.clear()
                if time.monotonic() - looked >= POLL_SECONDS:
                    await self._look_after()
                    looked = time.monotonic()
                free = self._concurrency - len(self._running)
                claimed = await store.claim_objects(self._pool, self._lease, limit=free) if free else []
                for work in claimed:
                    task = asyncio.create_task(self._work(work))
                    self._running[task] = work
                    task.add_done_callback(self._finished)
                if not claimed:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("an object is left to its lease and tried again", error=type(error).__name__, detail=str(error)[:200])

    async def _look_after(self) -> None:
        if self._running:
            await store.renew_leases(self._pool, self._lease, list(self._running.values()))
        left = await store.backlog(self._pool)
        WAITING.set(left.events)
        LAG.set(left.oldest_seconds)
        FAILING.set(left.failing)

    async def _work(self, work: store.Work) -> None:
        try:
            await self.publish(work)
        except (StripeUnavailableError, *POSTGRES_DOWN, LookupError, TypeError, ValueError) as error:
            pause = domain.pause_seconds(work.tries)
            reason = str(error) if isinstance(error, StripeUnavailableError) else type(error).__name__
            log.warning("object is tried again", kind=work.kind, id=work.id, tries=work.tries + 1, pause_seconds=pause, error=reason)
            await store.postpone(self._pool, work, self._lease, pause_seconds=pause, error=reason)

    async def publish(self, work: store.Work) -> None:
        """Publish one object's waiting events. Raises StripeUnavailableError."""
        events = await store.waiting_events(self._pool, work)
        found = await self._gateway.fetch(work.kind, work.id) if events else None
        outcome, owner = "gone", None
        facts: Mapping[str, Any] = {}
        if found is not None:
            try:
                facts, owner = await self._facts(work, found)
                outcome = "published"
            except objects.NotOursError:
                outcome = "ignored"
        async with self._pool.acquire() as connection, connection.transaction():
            published = await store.lock_object(connection, work, self._lease)
            if published is None:
                return
            state = await self._announce(connection, work, events, facts, published) if outcome == "published" else published
            remembered = owner if work.kind == "subscription" else None
            await store.finish(connection, work, state, [event.id for event in events], outcome=outcome, owner=remembered)
        self._count(work, events, outcome)

    async def _facts(self, work: store.Work, found: Mapping[str, Any]) -> tuple[dict[str, Any], objects.Owner | None]:
        if work.kind == "subscription":
            facts = objects.subscription_facts(found)
            return facts, objects.Owner(facts["subscription_id"], facts["account_id"])
        if work.kind == "customer":
            return objects.customer_facts(found), None
        if work.kind == "invoice":
            return objects.invoice_facts(found, owner := await self._invoice_owner(found)), owner
        if (owner_found := objects.session_owner(found)) is None:
            raise objects.NotOursError("a Checkout session without account or subscription")
        return objects.session_facts(found, owner_found), owner_found

    async def _invoice_owner(self, invoice: Mapping[str, Any]) -> objects.Owner:
        details = objects.invoice_details(invoice)
        if (owner := objects.owner_of(details.get("metadata"))) is not None:
            return owner
        stripe_id = objects.reference(details["subscription"]) or ""
        if (known := await store.get_owner(self._pool, stripe_id)) is not None:
            return known
        subscription = await self._gateway.fetch("subscription", stripe_id)
        if (owner := objects.owner_of((subscription or {}).get("metadata"))) is None:
            raise objects.NotOursError("an invoice of a subscription that is not ours")
        return owner

    async def _announce(
        self, connection: Connection, work: store.Work, events: Sequence[store.Waiting], facts: Mapping[str, Any], last: store.Published
    ) -> store.Published:
        """Announce the state once for each topic that the waiting events name; each announcement has its own revision."""
        revision, fingerprint = last.revision, objects.digest(facts)
        named: dict[type[Event], store.Waiting] = {}
        for waiting in events:
            if waiting.type in domain.ONLY_WHEN_CHANGED and fingerprint == last.digest:
                continue
            named[domain.NEWS[waiting.type][1]] = waiting
        for event, waiting in named.items():
            revision += 1
            await announce(connection, objects.build(event, facts, cause_id=waiting.id, occurred_at=waiting.created, revision=revision))
        log.info("object published", kind=work.kind, id=work.id, revision=revision, topics=[event.topic for event in named])
        return store.Published(revision, fingerprint)

    def _count(self, work: store.Work, events: Sequence[store.Waiting], outcome: str) -> None:
        now = datetime.now(UTC)
        self.done += len(events)
        for event in events:
            DONE.labels(event.type, outcome).inc()
            PROCESSING.observe(max(0.0, (now - event.received_at).total_seconds()))
        if outcome != "published":
            log.info("webhooks are done without an event", kind=work.kind, id=work.id, count=len(events), outcome=outcome)

    async def unfinished(self) -> str | None:
        """Say what is left to do, for /status."""
        left = await store.backlog(self._pool)
        return f"{left.events} webhooks ({left.last_error or 'being fetched'})" if left.events else None
