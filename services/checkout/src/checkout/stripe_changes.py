"""Stripe, for changes of plan: updates of a running subscription, and schedules for the end of its period."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import stripe

from checkout.change_domain import Change, Item, phases, removal, since_of, update_now
from checkout.stripe_gateway import StripeRefusedError, StripeUnavailableError, metadata_of, once, stripe_errors

ENDED = frozenset({"canceled", "incomplete_expired"})


@asynccontextmanager
async def _errors() -> AsyncIterator[None]:
    """Like `stripe_errors`; a key that was used for other parameters (the subscription moved between two tries) is given up."""
    async with stripe_errors():
        try:
            yield
        except stripe.IdempotencyError as error:
            raise StripeUnavailableError("the subscription changed between two tries", replayed=True) from error


class StripeChanges:
    """Each method looks first whether it has been done: a repeated call does nothing twice."""

    def __init__(self, client: stripe.StripeClient) -> None:
        self._v1 = client.v1

    async def make(self, subscription_id: str, change: Change, prices: Mapping[str, str], *, now: datetime, key: str) -> datetime:
        """Put the subscription on the new plan now; returns from when its fees count.

        Raises StripeRefusedError when the card is declined: then nothing has changed.
        """
        async with _errors():
            found = await self._running(subscription_id)
            if _says(found, change):
                return datetime.fromisoformat(metadata_of(found)["turnpike_plan_since"])
            since = since_of(change, period_start=_period_start(found), now=now)
            params = update_now(_items(found), prices, change, since=since)
            await self._v1.subscriptions.update_async(subscription_id, _any(params), once(key))
        return since

    async def drop_old(self, subscription_id: str, change: Change, prices: Mapping[str, str], *, key: str) -> None:
        """Bill the usage of the old plan and remove its prices. One that has ended has been billed to its end."""
        async with _errors():
            found = await self._v1.subscriptions.retrieve_async(subscription_id)
            if found.status in ENDED:
                return
            params = removal(_items(found), prices, change, period_start=_period_start(found))
            if params is not None:
                await self._v1.subscriptions.update_async(subscription_id, _any(params), once(key))

    async def plan(self, subscription_id: str, change: Change, prices: Mapping[str, str], *, key: str) -> datetime:
        """Have Stripe make the change at the end of the period; returns when that is."""
        async with _errors():
            found = await self._running(subscription_id)
            schedule = await self._own_schedule(found, change, key)
            present = schedule.phases[0]
            wanted = phases(_items(found), prices, change, start=present.start_date, end=present.end_date)
            await self._v1.subscription_schedules.update_async(
                schedule.id, _any({"phases": wanted, "end_behavior": "release"}), once(f"{key}:phases")
            )
        return datetime.fromtimestamp(present.end_date, UTC)

    async def _own_schedule(self, found: Any, change: Change, key: str) -> Any:
        if found.schedule is None:
            return await self._v1.subscription_schedules.create_async({"from_subscription": found.id}, once(key))
        schedule = await self._v1.subscription_schedules.retrieve_async(str(found.schedule))
        if len(schedule.phases) > 1 and not _plans(schedule, change):
            raise StripeRefusedError("other_schedule", "another schedule manages this subscription at Stripe")
        return schedule

    async def let_go(self, subscription_id: str) -> None:
        """Release a subscription from the schedule that manages it: it stays as it is."""
        async with _errors():
            found = await self._v1.subscriptions.retrieve_async(subscription_id)
            if found.schedule is not None:
                await self._v1.subscription_schedules.release_async(str(found.schedule))

    async def withdraw(self, subscription_id: str, change: Change) -> bool:
        """Take a planned change back; False when Stripe has made it already. Either way no schedule is left in the way of the next."""
        async with _errors():
            found = await self._v1.subscriptions.retrieve_async(subscription_id)
        await self.let_go(subscription_id)
        return not _says(found, change)

    async def _running(self, subscription_id: str) -> Any:
        found = await self._v1.subscriptions.retrieve_async(subscription_id)
        if found.status in ENDED:
            raise StripeRefusedError("ended", "this subscription has ended")
        return found


def _says(found: Any, change: Change) -> bool:
    return metadata_of(found).get("turnpike_change_id") == change.change_id


def _plans(schedule: Any, change: Change) -> bool:
    return any(metadata_of(phase).get("turnpike_change_id") == change.change_id for phase in schedule.phases)


def _items(found: Any) -> list[Item]:
    return [
        Item(item.id, item.price.id, bool(item.price.recurring and item.price.recurring.usage_type == "metered"), item.quantity)
        for item in found["items"].data
    ]


def _period_start(found: Any) -> datetime:
    return datetime.fromtimestamp(min(item.current_period_start for item in found["items"].data), UTC)


def _any(params: Any) -> Any:
    """The SDK's parameter types are as many as its methods; ours are checked in `change_domain` and by the sandbox's contract."""
    return params
