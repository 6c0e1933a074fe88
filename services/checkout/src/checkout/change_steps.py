"""The calls of changes of plan, and what each answer leads to: handed to the worker that makes intended calls."""

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from billing_common.clock import BusinessClock
from billing_common.db import Connection
from checkout import changing, store_changes
from checkout.change_domain import Change
from checkout.intents import Intent, Step
from checkout.stripe_changes import StripeChanges
from checkout.stripe_gateway import StripeRefusedError

After = Callable[..., Awaitable[None]]


class ChangeSteps:
    """Reads the change that an intent is about, and asks Stripe for it."""

    def __init__(self, pool: asyncpg.Pool, stripe: StripeChanges, clock: BusinessClock) -> None:
        self._pool, self._stripe, self._clock = pool, stripe, clock

    def all(self) -> dict[str, Step]:
        """Return the steps by kind of intent."""
        return {
            "change_make": Step(self._make, self._then(changing.after_make)),
            "change_plan": Step(self._plan, self._then(changing.after_plan)),
            "change_withdraw": Step(self._withdraw, self._then(changing.after_withdraw)),
            "change_drop_old": Step(self._drop_old, self._then(changing.after_drop_old)),
            "change_let_go": Step(self._let_go, self._then(changing.after_let_go)),
        }

    def _then(self, after: After) -> Callable[[Connection, Intent, Any, StripeRefusedError | None], Awaitable[None]]:
        async def go_on(connection: Connection, intent: Intent, result: Any, refusal: StripeRefusedError | None) -> None:
            await after(connection, intent.parameters["change"], result, refusal, at=self._clock.now())

        return go_on

    async def _change(self, intent: Intent) -> Change:
        async with self._pool.acquire() as connection:
            change = await store_changes.get(connection, intent.parameters["change"])
        assert change is not None  # calls are intended with the row in place
        return change

    async def _make(self, intent: Intent) -> Any:
        it = intent.parameters
        change = await self._change(intent)
        return await self._stripe.make(it["subscription"], change, it["prices"], now=self._clock.now(), key=intent.idempotency_key)

    async def _plan(self, intent: Intent) -> Any:
        it = intent.parameters
        return await self._stripe.plan(it["subscription"], await self._change(intent), it["prices"], key=intent.idempotency_key)

    async def _withdraw(self, intent: Intent) -> Any:
        return await self._stripe.withdraw(intent.parameters["subscription"], await self._change(intent))

    async def _drop_old(self, intent: Intent) -> Any:
        it = intent.parameters
        return await self._stripe.drop_old(it["subscription"], await self._change(intent), it["prices"], key=intent.idempotency_key)

    async def _let_go(self, intent: Intent) -> Any:
        return await self._stripe.let_go(intent.parameters["subscription"])
