"""The running sandbox: world, webhook sender, faults, and the task that makes due transitions."""

import asyncio
import contextlib
import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx
import structlog

from sandbox_stripe import (  # importing the handlers is what fills the table of routes
    catalogue,
    checkout,
    customers,
    cycle,
    events,
    frozen_clocks,
    invoice_items,
    invoices,
    meters,
    portal,
    previews,
    schedules,
    subscriptions,
    usage,
)
from sandbox_stripe.errors import Json
from sandbox_stripe.faults import Faults, RateLimit
from sandbox_stripe.metrics import TRANSITIONS
from sandbox_stripe.settings import Settings
from sandbox_stripe.store import Store
from sandbox_stripe.webhooks import Sender
from sandbox_stripe.world import World

HANDLER_MODULES = (
    catalogue,
    checkout,
    customers,
    cycle,
    events,
    invoice_items,
    invoices,
    meters,
    portal,
    previews,
    schedules,
    subscriptions,
    frozen_clocks,
    usage,
)
BATCH = 20
IDLE_SECONDS_MAX = 30.0
IDEMPOTENCY_KEPT_SECONDS = 30 * 86_400
log = structlog.get_logger()


def iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")


@dataclass
class Sandbox:
    """Everything that lives as long as the process."""

    settings: Settings
    world: World
    sender: Sender
    faults: Faults = field(default_factory=Faults)
    busy_keys: set[str] = field(default_factory=set)
    due: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    rate_limit: RateLimit = field(init=False)

    def __post_init__(self) -> None:
        self.rate_limit = RateLimit(self.settings)

    def start(self) -> None:
        since = int(self.world.wall()) - IDEMPOTENCY_KEPT_SECONDS
        with self.world.store.transaction():
            self.world.store.execute("DELETE FROM idempotency WHERE created_wall < ?", since)
        self.tasks = [asyncio.create_task(self.sender.run()), asyncio.create_task(self._run_transitions())]

    async def stop(self) -> None:
        await self.sender.stop()
        for task in self.tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self.sender.client.aclose()
        self.world.store.close()

    def changed(self) -> None:
        """Somebody wrote: there may be webhooks to send and transitions to make."""
        self.sender.notify()
        self.due.set()

    async def _run_transitions(self) -> None:
        """Make what is due, a few at a time so that requests are answered in between."""
        while True:
            self.due.clear()
            if self.make_due(BATCH):
                await asyncio.sleep(0)
                continue
            try:
                await asyncio.wait_for(self.due.wait(), self._idle_seconds())
            except TimeoutError:
                continue

    def make_due(self, limit: int) -> int:
        try:
            done = cycle.run_due(self.world, self.world.business_now(), limit=limit)
        except Exception as error:
            # A transition that cannot be made must be seen, not retried in a tight loop: the process says so and stays unready.
            self.problems.append(f"a billing transition failed: {type(error).__name__}")
            log.exception("transition_failed", next=self.world.store.next_transition())
            return 0
        if done:
            TRANSITIONS.inc(done)
            self.sender.notify()
        return done

    def _idle_seconds(self) -> float:
        found = self.world.store.next_transition()
        if found is None or self.problems:
            return IDLE_SECONDS_MAX
        return min(max(found[2] - self.world.wall() - self.world.offset(), 0.05), IDLE_SECONDS_MAX)

    def set_offset(self, seconds: float) -> bool:
        """Move the business clock. It never goes back."""
        milliseconds = math.ceil(round(seconds * 1000, 3))
        if milliseconds < self.world.store.number("offset_milliseconds"):
            return False
        with self.world.store.transaction():
            self.world.store.set_number("offset_milliseconds", milliseconds)
        self.due.set()
        return True

    def clock(self) -> Json:
        offset = self.world.offset()
        return {"offset_seconds": int(offset) if offset == int(offset) else offset, "now": iso(self.world.wall() + offset)}

    def status(self) -> Json:
        """Answer what the door `/_sandbox/status` says: whether anything is still to be done at this moment."""
        store = self.world.store
        found = store.next_transition()
        overdue = found is not None and found[2] <= self.world.business_now()
        waiting = []
        if overdue:
            waiting.append("billing transitions that are due")
        deliveries = self.sender.waiting() + len(self.sender.in_flight)
        if deliveries:
            waiting.append(f"{deliveries} webhook deliveries")
        return {
            "service": "sandbox_stripe", "settled": not waiting, "activity": store.number("activity"), "waiting_for": [*waiting,
            *self.problems],
            "next_due": iso(found[2]) if found else None, "now": iso(self.world.wall() + self.world.offset()),
        }  # fmt: skip


def open_sandbox(settings: Settings, base_url: str | None = None) -> Sandbox:
    """Open the database and build everything around it; `start` lets time run."""
    store = Store(settings.data_path)
    world = World(settings, store, time.time)
    world.base_url = base_url or settings.base_url()
    limits = httpx.Limits(max_connections=settings.webhook_concurrency * 2, max_keepalive_connections=settings.webhook_concurrency)
    client = httpx.AsyncClient(timeout=settings.webhook_timeout_seconds, limits=limits, follow_redirects=False, trust_env=False)
    return Sandbox(settings, world, Sender(world, client))
