"""The one writer to API Management: applies what access should be, confirms it, and tells it."""

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import structlog
from prometheus_client import Counter, Gauge, Histogram

from billing_common.clock import BusinessClock
from billing_common.db import listening, require_open
from billing_common.outbox import announce
from subscription_enforcer import domain, keys, plans, store
from subscription_enforcer.apim_gateway import ApimError, ApimGateway, Wanted
from subscription_enforcer.domain import Applied
from subscription_enforcer.store import Pending

POLL_SECONDS = 1.0
ROUND = 5  # few, so that a new grant does not wait behind many suspensions
HOUR = timedelta(hours=1)
WRITER_LOCK = "subscription_enforcer.writer"

CHANGES = Counter("turnpike_access_changes_total", "Changes of access that API Management confirmed", ["access", "reason"])
APPLYING = Histogram(
    "turnpike_access_apply_seconds",
    "From the decision to API Management's confirmation",
    ["access"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600),
)
PENDING = Gauge("turnpike_access_pending", "Subscriptions whose access is not yet what it should be")
HELD = Gauge("turnpike_access_suspensions_held", "Suspensions for missing payment that wait for the next hour or for a person's word")
FAILING = Gauge("turnpike_access_failing", "Subscriptions that API Management refused to change and that are tried again")

log = structlog.get_logger(__name__)


class Writer:
    """Writes one subscription after the other: parallel writes to one API Management service collide.

    An advisory lock makes one of several replicas the writer; the others wait for it to go.
    """

    def __init__(self, pool: asyncpg.Pool, gateway: ApimGateway, clock: BusinessClock, *, minimum: int, share: float) -> None:
        self._pool, self._gateway, self._clock = pool, gateway, clock
        self._minimum, self._share = minimum, share
        self._wake = asyncio.Event()
        self._looked = 0.0

    async def run(self) -> None:
        """Apply until cancelled. NOTIFY is a hint; the poll is the truth."""
        async with listening(self._pool, store.CHANNEL, self._wake.set) as connection:
            while not await connection.fetchval("select pg_try_advisory_lock(hashtext($1))", WRITER_LOCK):  # noqa: ASYNC110 - another process
                await asyncio.sleep(POLL_SECONDS)
            while True:
                self._wake.clear()
                if not await self.round():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)
                require_open(connection)  # the lock is gone with it

    async def round(self) -> int:
        """Apply a few of what is pending, or see what has become due; returns how much was found."""
        found = await store.pending(self._pool, limit=ROUND)
        for pending in found:
            if await self._is_permitted(pending):
                await self.apply(pending)
        due = 0
        if not found or time.monotonic() - self._looked >= POLL_SECONDS:
            self._looked = time.monotonic()
            due = await self._reconsider() + await self._let_go()
        return len(found) + due

    async def apply(self, pending: Pending) -> None:
        """Intent, call, outcome."""
        facts, desired = pending.facts, pending.desired
        sid, intent = facts.subscription_id, uuid4()
        await store.intend(self._pool, sid, intent)
        wanted = Wanted(
            sid=sid,
            user_id=facts.user_id,
            product_id=facts.product_id,
            display_name=facts.display_name,
            state=domain.STATE_AT_APIM[desired.access],
            comment=f"Turnpike: {desired.reason}",
        )
        try:
            await self._gateway.apply(wanted, new=pending.applied is None and not pending.attempted)
            await self._apply_keys(pending, wanted)
        except ApimError as error:
            pause = domain.pause_seconds(pending.tries)
            log.warning("access is tried again", subscription_id=sid, tries=pending.tries + 1, pause_seconds=pause, error=str(error))
            await store.postpone(self._pool, sid, intent, pause_seconds=pause, error=str(error))
            return
        await self._confirm(pending, Applied(desired.access, desired.reason, facts.product_id), intent, self._clock.now())

    async def _apply_keys(self, pending: Pending, first: Wanted) -> None:
        """Make the further keys what they should be; those that are so already are looked at only when that is not sure."""
        if not pending.keys:
            return
        async with self._pool.acquire() as connection:
            names = await keys.names(connection, first.sid)
        moved = pending.applied is None or pending.applied.product_id != first.product_id
        for sid, state in pending.keys.items():
            if pending.attempted or moved or pending.applied_keys.get(sid) != state:
                await self._gateway.apply(replace(first, sid=sid, state=state, display_name=names.get(sid, "")), new=False)

    async def _confirm(self, pending: Pending, applied: Applied, intent: UUID, effective_at: datetime) -> None:
        facts = pending.facts
        async with self._pool.acquire() as connection, connection.transaction():
            before = await store.lock_outcome(connection, facts.subscription_id, intent)
            if before is None:
                return
            keys_before = await keys.confirm(connection, facts.subscription_id, pending.keys)
            change = domain.change(before.applied, applied)
            because = None
            if change is None and keys.existing(keys_before) != keys.existing(pending.keys):
                change, because = domain.change_of_keys(applied), "keys"
            revision = before.revision + (change is not None)
            await store.confirm(connection, facts.subscription_id, applied, revision=revision, effective_at=effective_at, because=because)
            if change is not None:
                event, reason = change
                announced = event(
                    cause_id=f"access:{facts.subscription_id}:{revision}",
                    occurred_at=effective_at,
                    effective_at=effective_at,
                    subscription_id=facts.subscription_id,
                    account_id=facts.account_id,
                    user_id=facts.user_id,
                    product_id=facts.product_id,
                    sid=facts.subscription_id,
                    sids=(facts.subscription_id, *sorted(keys.existing(pending.keys))),
                    revision=revision,
                    reason=reason,
                )
                await announce(connection, announced)
        if change is not None:
            CHANGES.labels(applied.access, reason).inc()
            APPLYING.labels(applied.access).observe(max(0.0, before.waited_seconds))
            log.info(
                "access changed",
                subscription_id=facts.subscription_id,
                access=applied.access,
                reason=reason,
                event_id=str(announced.event_id),
            )

    async def _reconsider(self) -> int:
        """Decide again where time alone changes the answer; returns how often."""
        now = self._clock.now()
        found = await store.to_reconsider(self._pool, now)
        for subscription_id in found:
            async with self._pool.acquire() as connection, connection.transaction():
                await plans.lock(connection)
                facts = await store.lock_facts(connection, subscription_id, "")
                await plans.settle(connection, facts, now)
        return len(found)

    # --- the breaker ---

    async def _is_permitted(self, pending: Pending) -> bool:
        """Whether the breaker lets it through; if not, it is held."""
        if not domain.needs_permission(pending.applied, pending.desired, pending.approved_by):
            return True
        if await self._left_this_hour() > 0:
            return True
        sid = pending.facts.subscription_id
        await store.hold(self._pool, sid)
        log.error("suspension is held: too many in an hour, POST /v1/suspensions/approve lets them through", subscription_id=sid)
        return False

    async def _left_this_hour(self) -> int:
        allowed = domain.suspensions_allowed(live=await store.live_count(self._pool), minimum=self._minimum, share=self._share)
        return allowed - len(await store.payment_suspensions(self._pool, self._clock.now() - HOUR))

    async def _let_go(self) -> int:
        """Let as many held suspensions through as the hour allows again; returns how many."""
        left = await store.backlog(self._pool)
        PENDING.set(left.pending)
        HELD.set(left.held)
        FAILING.set(left.failing)
        allowed = await self._left_this_hour() if left.held else 0
        return await store.let_go(self._pool, allowed) if allowed > 0 else 0

    # --- status ---

    async def unfinished(self) -> str | None:
        """Say what is left to do, for /status; what the breaker holds waits for an hour or for a person and is no unrest."""
        left = await store.backlog(self._pool)
        return f"{left.pending} changes of access ({left.last_error or 'being applied'})" if left.pending else None

    async def notes(self) -> str | None:
        left = await store.backlog(self._pool)
        return (
            f"{left.held} suspensions for missing payment are held: POST /v1/suspensions/approve lets them through" if left.held else None
        )

    async def next_due(self) -> datetime | None:
        """Return when a quota's month or an unpaid customer's grace ends, or the breaker's hour lets the next held suspension through."""
        dues = [await store.next_reconsideration(self._pool)]
        if (await store.backlog(self._pool)).held and (past := await store.payment_suspensions(self._pool, self._clock.now() - HOUR)):
            dues.append(past[0] + HOUR)
        return min((due for due in dues if due is not None), default=None)
