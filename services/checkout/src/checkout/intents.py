"""Calls to Stripe that were decided on in a transaction: stored first, made afterwards, repeated until there is an outcome."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import structlog
from prometheus_client import Counter, Gauge

from billing_common.db import Connection, listening, require_open
from billing_common.events import derive_id
from checkout import correction_calls, correction_store
from checkout.stripe_gateway import StripeGateway, StripeRefusedError, StripeUnavailableError

LEASE_SECONDS = 15  # renewed while a call goes on; after a crash the next worker takes over
PAUSE_MAX_SECONDS = 60
BATCH = 20
STUCK_ATTEMPTS = 10
CHANNEL = "checkout.intent"

OUTCOMES = Counter("turnpike_checkout_intents_total", "Calls to Stripe by kind and outcome", ["kind", "outcome"])
PENDING = Gauge("turnpike_checkout_intents_pending", "Calls to Stripe that have no outcome yet")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Intent:
    """One call, taken by this worker until its lease ends."""

    intent_id: str
    kind: str
    parameters: dict[str, Any]
    attempts: int
    generation: int

    @property
    def idempotency_key(self) -> str:
        return f"turnpike:{self.intent_id}" + (f":{self.generation}" if self.generation else "")


class NotYetError(Exception):
    """What the call needs is not there yet."""


async def intend(connection: Connection, kind: str, *, key: str, cause: str, parameters: dict[str, Any]) -> None:
    """Store a call in the transaction that decides on it. The same cause gives the same intent, so it is made once."""
    await connection.execute(
        "insert into intent(intent_id, kind, key, parameters) values ($1, $2, $3, $4) on conflict (intent_id) do nothing",
        derive_id("intent", kind, cause),
        kind,
        key,
        json.dumps(parameters),
    )


async def take(pool: asyncpg.Pool, lease: UUID) -> list[Intent]:
    """Lease what is due: of each key the oldest one only, so that calls of one customer keep their order."""
    rows = await pool.fetch(
        "update intent set lease = $3, due_at = now() + make_interval(secs => $1), attempts = attempts + 1 where id in ("
        "select i.id from intent i where i.state = 'pending' and i.due_at <= now() and not exists"
        " (select 1 from intent o where o.key = i.key and o.state = 'pending' and o.id < i.id)"
        " order by i.id limit $2 for update skip locked) and state = 'pending' and due_at <= now()"
        " returning intent_id::text, kind, parameters, attempts, generation",
        LEASE_SECONDS,
        BATCH,
        lease,
    )
    return [Intent(row["intent_id"], row["kind"], json.loads(row["parameters"]), row["attempts"], row["generation"]) for row in rows]


async def renew(pool: asyncpg.Pool, lease: UUID) -> None:
    """Keep the calls that are still being made."""
    await pool.execute(
        "update intent set due_at = now() + make_interval(secs => $2) where lease = $1 and state = 'pending'", lease, LEASE_SECONDS
    )


async def release(pool: asyncpg.Pool, lease: UUID) -> None:
    """Give back calls whose outcome could not be written: they are made again at once, with the same idempotency key."""
    await pool.execute("update intent set lease = null, due_at = now() where lease = $1 and state = 'pending'", lease)


async def end(pool: asyncpg.Pool | Connection, intent: Intent, *, state: str, error: str | None = None) -> None:
    await pool.execute(
        "update intent set state = $2, error = $3, lease = null, ended_at = now() where intent_id = $1::text::uuid",
        intent.intent_id,
        state,
        error,
    )


async def postpone(pool: asyncpg.Pool, intent: Intent, *, error: str, new_key: bool = False) -> None:
    pause = min(0.5 * 2 ** min(intent.attempts - 1, 10), PAUSE_MAX_SECONDS)
    await pool.execute(
        "update intent set lease = null, due_at = now() + make_interval(secs => $2), error = $3, generation = generation + $4::int"
        " where intent_id = $1::text::uuid",
        intent.intent_id,
        pause,
        error,
        int(new_key),
    )


async def waiting(pool: asyncpg.Pool) -> int:
    """Return how many calls have no outcome and are on their way; one that fails again and again is left to the alert."""
    row = await pool.fetchrow(
        "select count(*) as pending, count(*) filter (where attempts < $1) as young from intent where state = 'pending'", STUCK_ATTEMPTS
    )
    assert row is not None  # an aggregate always has a row
    PENDING.set(row["pending"])
    young: int = row["young"]
    return young


@dataclass(frozen=True)
class Step:
    """A call of a longer story: `after` goes on with it, in the transaction that writes the outcome."""

    call: Callable[[Intent], Awaitable[Any]]
    after: Callable[[Connection, Intent, Any, StripeRefusedError | None], Awaitable[None]]


class Worker:
    """Makes the calls. Several may run: each intent is leased to one at a time."""

    def __init__(self, pool: asyncpg.Pool, gateway: StripeGateway, *, poll_seconds: float, steps: Mapping[str, Step] | None = None) -> None:
        self._pool = pool
        self._gateway = gateway
        self._steps = steps or {}
        self._poll_seconds = poll_seconds
        self._wake = asyncio.Event()
        self._lease = uuid4()
        self.made = 0

    async def run(self) -> None:
        """Make calls until cancelled. NOTIFY is a hint; the poll is the truth."""
        await release(self._pool, self._lease)  # of a round that ended with an error
        async with listening(self._pool, CHANNEL, self._wake.set) as connection:
            while True:
                self._wake.clear()
                if not await self.drain():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), self._poll_seconds)
                require_open(connection)

    async def drain(self) -> int:
        """Make the calls that are due; returns how many were tried."""
        intents = await take(self._pool, self._lease)
        calls = [asyncio.create_task(self._make(intent)) for intent in intents]
        pending = set(calls)
        try:
            while pending:
                _, pending = await asyncio.wait(pending, timeout=LEASE_SECONDS / 3)
                if pending:
                    await renew(self._pool, self._lease)
        finally:
            for call in pending:
                call.cancel()
        await asyncio.gather(*calls)  # the error of one that could not write its outcome
        await waiting(self._pool)
        return len(intents)

    async def _make(self, intent: Intent) -> None:
        step = self._steps.get(intent.kind)
        call = step.call if step else self._calls()[intent.kind]
        try:
            result = await call(intent)
        except (StripeUnavailableError, NotYetError) as error:
            replayed = isinstance(error, StripeUnavailableError) and error.replayed
            await postpone(self._pool, intent, error=str(error)[:500], new_key=replayed)
            outcome = "postponed"
        except StripeRefusedError as error:
            await self._end(intent, step, None, error)
            outcome = "refused"
        else:
            await self._end(intent, step, result, None)
            outcome = "done"
        self.made += 1
        OUTCOMES.labels(intent.kind, outcome).inc()
        log.info("call to Stripe", intent_id=intent.intent_id, kind=intent.kind, outcome=outcome, attempts=intent.attempts)

    async def _end(self, intent: Intent, step: Step | None, result: Any, refusal: StripeRefusedError | None) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            await end(
                connection,
                intent,
                state="refused" if refusal else "done",
                error=f"{refusal.code}: {refusal}"[:500] if refusal else None,
            )
            if step is not None:
                await step.after(connection, intent, result, refusal)

    def _calls(self) -> dict[str, Callable[[Intent], Awaitable[None]]]:
        gateway = self._gateway
        return {
            "cancel_at_period_end": lambda it: gateway.cancel_at_period_end(it.parameters["subscription"], key=it.idempotency_key),
            "cancel_now": lambda it: gateway.cancel_now(it.parameters["subscription"], key=it.idempotency_key),
            "expire_session": self._expire_session,
            "set_default_payment_method": lambda it: gateway.set_default_payment_method(
                it.parameters["customer"], it.parameters["payment_method"], key=it.idempotency_key
            ),
            "pay_invoice": lambda it: gateway.pay_invoice(
                it.parameters["invoice"], it.parameters["payment_method"], key=it.idempotency_key
            ),
            "invoice_item": self._add_invoice_item,
            "correction": self._put_correction,
        }

    async def _expire_session(self, intent: Intent) -> None:
        status = await self._gateway.expire_session(intent.parameters["session"])
        await self._pool.execute(
            "update checkout_session set status = $2 where session_id = $1 and status = 'open'", intent.parameters["session"], status
        )

    async def _put_correction(self, intent: Intent) -> None:
        placed = await correction_calls.put(self._gateway, intent.parameters, intent_id=intent.intent_id, key=intent.idempotency_key)
        await correction_store.set_place(self._pool, intent.intent_id, *placed)

    async def _add_invoice_item(self, intent: Intent) -> None:
        """Add a line that no price can say. While Stripe has made no invoice of the period, and will make one, it waits for that."""
        item, ends = intent.parameters["item"], intent.parameters.get("draft_of_period_end")
        if ends is not None and await correction_calls.is_awaited(self._gateway, item["subscription"], datetime.fromisoformat(ends)):
            raise NotYetError("Stripe has no invoice of the period yet")
        where, _ = await correction_calls.put(self._gateway, intent.parameters, intent_id=intent.intent_id, key=intent.idempotency_key)
        if ends is not None and where != "draft":
            log.warning("a line stands on another invoice than its period's", intent_id=intent.intent_id, where=where)
