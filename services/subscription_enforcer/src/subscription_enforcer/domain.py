"""Which access a subscription should have, and what an applied change is called: pure, the same in any order of events."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from billing_common.events import (
    AccessEvent,
    AccessGranted,
    AccessRestored,
    AccessRevoked,
    AccessSuspended,
    InvalidEventError,
    SubscriptionState,
    SubscriptionStatus,
    UsageThresholdReached,
)

Access = Literal["granted", "suspended", "revoked"]
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")  # "..", "." and "/" would reach other resources of API Management
ENDED: frozenset[SubscriptionStatus] = frozenset({"canceled", "incomplete_expired"})
UNPAID: frozenset[SubscriptionStatus] = frozenset({"unpaid", "incomplete"})
NO_GRACE = timedelta(0)
STATE_AT_APIM: Mapping[Access, str] = {"granted": "active", "suspended": "suspended", "revoked": "cancelled"}


@dataclass(frozen=True)
class Facts:
    """What is known of one subscription.

    `hard_stop_period` is the newest period whose quota, that of `hard_stop_product`, was used up; older events do not say that it ends
    at `hard_stop_until`, nor how much it was: `hard_stop_limit`.
    `unpaid_since` is when one heard that its last retry failed: never earlier than that, however late the news came.
    """

    subscription_id: str
    account_id: str
    user_id: str = ""
    product_id: str = ""
    display_name: str = ""
    status: SubscriptionStatus | None = None
    revision: int = 0
    started_at: datetime | None = None
    current_period_start: datetime | None = None
    current_period_end: datetime | None = None
    cancellation_requested: bool = False
    hard_stop_period: datetime | None = None
    hard_stop_product: str = ""
    hard_stop_until: datetime | None = None
    hard_stop_limit: int | None = None
    catalogue_version: int = 0
    unpaid_since: datetime | None = None


@dataclass(frozen=True)
class Desired:
    """The access that should be. At `reconsider_at` (business time) the answer changes by itself."""

    access: Access
    reason: str
    reconsider_at: datetime | None = None


@dataclass(frozen=True)
class Applied:
    """The access that was last confirmed by API Management."""

    access: Access
    reason: str
    product_id: str


def checked_id(value: str) -> str:
    """Return the id. Raises InvalidEventError when it may not stand in a path of API Management."""
    if ID.fullmatch(value) is None:
        raise InvalidEventError("an id is not of the form letters, digits, - and _ (at most 80)")
    return value


def with_state(facts: Facts, event: SubscriptionState, now: datetime) -> Facts:
    """Return the facts with the event's state, if it is newer than what is known at `now` (business time)."""
    if event.revision <= facts.revision:
        return facts
    return replace(
        facts,
        user_id=checked_id(event.user_id),
        product_id=checked_id(event.product_id),
        display_name=event.display_name,
        status=event.status,
        revision=event.revision,
        started_at=event.started_at,
        current_period_start=event.current_period_start,
        current_period_end=event.current_period_end,
        catalogue_version=event.catalogue_version,
        unpaid_since=(facts.unpaid_since or now) if event.status == "unpaid" else None,
    )


def with_cancellation(facts: Facts) -> Facts:
    """Return the facts after the customer asked to end now: there is no way back."""
    return replace(facts, cancellation_requested=True)


def with_threshold(facts: Facts, event: UsageThresholdReached) -> Facts:
    """Return the facts after a threshold: only a hard stop of a quota in the newest period counts, there the last one that was told."""
    known = facts.hard_stop_period
    if event.kind != "allowance" or not event.hard_stop or (known is not None and event.period_start < known):
        return facts
    product, limit = event.product_id or "", event.limit
    if (known, facts.hard_stop_product) == (event.period_start, product) and limit is not None:
        limit = max(limit, facts.hard_stop_limit or 0)  # a late call may use up the quota of a version before
    return replace(
        facts, hard_stop_period=event.period_start, hard_stop_product=product, hard_stop_until=event.period_end, hard_stop_limit=limit
    )


def decide(facts: Facts, now: datetime, *, grace: timedelta | None = NO_GRACE, quota: int | None = None) -> Desired | None:
    """Return the access that should be at `now` (business time); None while the subscription's state is not known.

    `grace` is how long an unpaid subscription goes on; None while its plan is not known: it goes on until it is. `quota` is the one of
    the plan that stops calls, 0 where none does; None while that is not known.
    """
    if facts.status is None:
        return None
    if facts.status in ENDED:
        return Desired("revoked", "canceled")
    if facts.cancellation_requested:
        return Desired("suspended", "cancellation")
    in_grace, grace_ends = _grace(facts, now, grace)
    if facts.status in UNPAID and not in_grace:
        return Desired("suspended", "payment_failed")
    if facts.status == "paused":
        return Desired("suspended", "paused")
    stopped, until = (False, None) if _is_raised(facts, quota) else _quota(facts, now)
    next_look = min((moment for moment in (until, grace_ends) if moment is not None), default=None)
    return Desired("suspended", "quota", next_look) if stopped else Desired("granted", "subscribed", grace_ends)


def _grace(facts: Facts, now: datetime, grace: timedelta | None) -> tuple[bool, datetime | None]:
    """Whether an unpaid subscription still goes on, and until when. One whose first payment failed never began."""
    if facts.unpaid_since is None:
        return False, None
    if grace is None:
        return True, None
    ends = facts.unpaid_since + grace
    return (True, ends) if now < ends else (False, None)


def _is_raised(facts: Facts, quota: int | None) -> bool:
    """Whether the plan of now allows more than what was used up."""
    return quota is not None and facts.hard_stop_limit is not None and (quota == 0 or quota > facts.hard_stop_limit)


def _quota(facts: Facts, now: datetime) -> tuple[bool, datetime | None]:
    """Whether the period's quota is used up, and when that ends by itself. The quota of a plan before says nothing of the present one.

    A quota has its own window, which need not be the period. Where it was not said, a paid period ends with the state that starts the
    next one; a free product's has no end: its quota is one of calendar months.
    """
    if facts.hard_stop_period is None or facts.current_period_start is None or facts.started_at is None:
        return False, None
    if facts.hard_stop_product not in {"", facts.product_id}:
        return False, None
    if facts.hard_stop_until is not None:
        return now < facts.hard_stop_until, facts.hard_stop_until
    if facts.current_period_end is not None:
        return max(facts.hard_stop_period, facts.started_at) >= facts.current_period_start, None
    until = _next_month(facts.hard_stop_period)
    return now < until, until


def _next_month(moment: datetime) -> datetime:
    at = moment.astimezone(UTC)
    years, month = divmod(at.month, 12)
    return datetime(at.year + years, month + 1, 1, tzinfo=UTC)


def change(before: Applied | None, after: Applied) -> tuple[type[AccessEvent], str] | None:
    """Return which event tells that `after` was applied, with its reason; None when nothing changed (a repair)."""
    if before == after:
        return None
    if after.access == "revoked":
        return AccessRevoked, after.reason
    if after.access == "suspended":
        return AccessSuspended, after.reason
    if before is None or before.access == "granted":
        return AccessGranted, after.reason if before is None else "changed"
    return AccessRestored, "paid" if before.reason == "payment_failed" else after.reason


def change_of_keys(applied: Applied) -> tuple[type[AccessEvent], str] | None:
    """Return which event tells that keys came or went while access stayed as it is."""
    if applied.access == "revoked":
        return None
    return (AccessGranted, "keys") if applied.access == "granted" else (AccessSuspended, applied.reason)


def needs_permission(before: Applied | None, desired: Desired, approved_by: str | None) -> bool:
    """Whether the breaker counts this change: a working key that stops for missing payment."""
    return (
        approved_by is None
        and before is not None
        and before.access == "granted"
        and desired.access == "suspended"
        and desired.reason == "payment_failed"
    )


def suspensions_allowed(*, live: int, minimum: int, share: float) -> int:
    """Return how many suspensions for missing payment may happen in an hour without a person's word."""
    return max(minimum, int(live * share))


def pause_seconds(tries: int) -> float:
    """Return how long to wait after this many failed tries."""
    return float(min(0.5 * 2 ** min(tries, 10), 60.0))
