"""Holds a draft open whose usage is not all at Stripe shortly before it becomes final: what comes later no invoice would bill."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import structlog
from prometheus_client import Counter, Gauge

from billing_common.clock import BusinessClock
from billing_common.db import Connection
from checkout import store_drafts
from checkout.intents import Intent, Step, intend
from checkout.stripe_drafts import StripeDrafts
from checkout.stripe_gateway import StripeRefusedError

LOOK_SECONDS = 1.0

HELD = Gauge("turnpike_checkout_drafts_held", "Draft invoices that are held open because usage of their period is missing")
HELD_LONG = Gauge("turnpike_checkout_drafts_held_long", "Such drafts that have been held for longer than CHECKOUT_DRAFT_HELD_ALERT")
REFUSED = Counter("turnpike_checkout_holds_refused_total", "Drafts that Stripe refused to hold open: final without all of their usage")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Patience:
    """`margin`: so long before it becomes final a draft is held; `after`: so long after its usage is complete it becomes final."""

    margin: timedelta
    after: timedelta
    alert: timedelta


class Holder:
    """Decides which drafts are held and released, in transactions of its own; the calls are intents. Any number of replicas may look."""

    def __init__(self, pool: asyncpg.Pool, stripe: StripeDrafts, clock: BusinessClock, patience: Patience) -> None:
        self._pool, self._stripe, self._clock, self._patience = pool, stripe, clock, patience

    def steps(self) -> dict[str, Step]:
        """Return the calls by kind of intent."""
        return {
            "hold_draft": Step(self._hold, self._after(self._held)),
            "release_draft": Step(self._release, self._after(self._released)),
        }

    async def run(self) -> None:
        while True:
            await self.once()
            await asyncio.sleep(LOOK_SECONDS)

    async def once(self) -> int:
        """Intend what is due now; returns how many calls."""
        now = self._clock.now()
        async with self._pool.acquire() as connection, connection.transaction():
            late = await store_drafts.to_hold(connection, now + self._patience.margin)
            for draft in late:  # a key of its own: it cannot wait for other calls of the account
                await intend(
                    connection,
                    "hold_draft",
                    key=f"draft:{draft.invoice_id}",
                    cause=draft.invoice_id,
                    parameters={"invoice": draft.invoice_id},
                )
            await store_drafts.move(connection, [draft.invoice_id for draft in late], "holding")
            whole = await store_drafts.to_release(connection)
            for draft in whole:  # after the lines that its usage adds to it: calls of one account keep their order
                await intend(
                    connection, "release_draft", key=draft.account_id, cause=draft.invoice_id, parameters={"invoice": draft.invoice_id}
                )
            await store_drafts.move(connection, [draft.invoice_id for draft in whole], "releasing")
        held, long = await store_drafts.held(self._pool, now - self._patience.alert)
        HELD.set(held)
        HELD_LONG.set(long)
        return len(late) + len(whole)

    async def waiting_for(self) -> str | None:
        count = await store_drafts.due(self._pool, self._clock.now() + self._patience.margin)
        return f"{count} drafts to hold or to release" if count else None

    async def next_due(self) -> datetime | None:
        final = await store_drafts.next_final(self._pool, self._clock.now() + self._patience.margin)
        return final - self._patience.margin if final is not None else None

    async def _hold(self, intent: Intent) -> bool:
        return await self._stripe.hold(intent.parameters["invoice"], key=intent.idempotency_key)

    async def _held(self, connection: Connection, invoice_id: str, result: Any, refusal: StripeRefusedError | None) -> None:
        if refusal is not None:
            await store_drafts.move(connection, [invoice_id], "refused")
            REFUSED.inc()
            log.error("a draft becomes final without all of its usage", invoice_id=invoice_id, code=refusal.code)
        elif result:
            await store_drafts.move(connection, [invoice_id], "held", held_at=self._clock.now())
            log.warning("draft is held until its usage is complete", invoice_id=invoice_id)
        else:
            await store_drafts.move(connection, [invoice_id], "final")

    async def _release(self, intent: Intent) -> None:
        at = self._clock.now() + self._patience.after
        await self._stripe.release(intent.parameters["invoice"], at=at, key=intent.idempotency_key)

    async def _released(self, connection: Connection, invoice_id: str, _: Any, refusal: StripeRefusedError | None) -> None:
        if refusal is None:  # else it stays held, and the alert asks for a person
            await store_drafts.move(connection, [invoice_id], "released")

    def _after(
        self, write: Callable[[Connection, str, Any, StripeRefusedError | None], Awaitable[None]]
    ) -> Callable[[Connection, Intent, Any, StripeRefusedError | None], Awaitable[None]]:
        async def after(connection: Connection, intent: Intent, result: Any, refusal: StripeRefusedError | None) -> None:
            await write(connection, intent.parameters["invoice"], result, refusal)

        return after
