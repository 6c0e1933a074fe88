"""The rules of access, as tables of cases and over every order of events."""

import random
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest

from billing_common.events import InvalidEventError, SubscriptionCancellationRequested, SubscriptionState, UsageThresholdReached
from subscription_enforcer import domain
from subscription_enforcer.domain import Applied, Desired, Facts

NOW = datetime(2026, 1, 15, tzinfo=UTC)
NOTHING = Facts("s-1", "a-1")


def learn(facts: Facts, event: object) -> Facts:
    if isinstance(event, SubscriptionState):
        return domain.with_state(facts, event, NOW)
    if isinstance(event, UsageThresholdReached):
        return domain.with_threshold(facts, event)
    assert isinstance(event, SubscriptionCancellationRequested)
    return domain.with_cancellation(facts)


@pytest.mark.parametrize(
    "case",
    [
        ("trialing", False, False, "granted", "subscribed"),
        ("active", False, False, "granted", "subscribed"),
        ("past_due", False, False, "granted", "subscribed"),
        ("unpaid", False, False, "suspended", "payment_failed"),
        ("incomplete", False, False, "suspended", "payment_failed"),
        ("paused", False, False, "suspended", "paused"),
        ("canceled", False, False, "revoked", "canceled"),
        ("incomplete_expired", False, False, "revoked", "canceled"),
        ("active", True, False, "suspended", "cancellation"),
        ("unpaid", True, False, "suspended", "cancellation"),
        ("canceled", True, True, "revoked", "canceled"),
        ("active", False, True, "suspended", "quota"),
        ("unpaid", False, True, "suspended", "payment_failed"),
    ],
)
def test_access_follows_status_cancellation_and_quota(case: tuple[Any, ...], samples: Any) -> None:
    status, cancelled, stopped, access, reason = case
    facts = domain.with_state(NOTHING, samples.state(status), NOW)
    facts = domain.with_cancellation(facts) if cancelled else facts
    facts = domain.with_threshold(facts, samples.threshold()) if stopped else facts
    decided = domain.decide(facts, NOW)
    assert decided is not None
    assert (decided.access, decided.reason) == (access, reason)


def test_nothing_is_decided_before_the_state_is_known() -> None:
    assert domain.decide(domain.with_cancellation(NOTHING), NOW) is None


@pytest.mark.parametrize(("stopped", "access"), [("standard", "granted"), ("pro", "suspended"), (None, "suspended")])
def test_a_quota_stops_the_plan_it_belongs_to_and_no_other(samples: Any, stopped: str | None, access: str) -> None:
    upgraded = samples.state("active", 2, product_id="pro")
    for order in permutations([samples.state("active", 1), upgraded, samples.threshold(product_id=stopped)]):
        facts = NOTHING
        for event in order:
            facts = learn(facts, event)
        decided = domain.decide(facts, NOW)
        assert decided is not None
        assert decided.access == access


def test_of_two_quotas_in_one_period_the_later_one_counts(samples: Any) -> None:
    facts = domain.with_state(NOTHING, samples.state("active", 2, product_id="pro"), NOW)
    for product in ("standard", "pro"):
        facts = domain.with_threshold(facts, samples.threshold(product_id=product))
    decided = domain.decide(facts, NOW)
    assert decided is not None
    assert decided.access == "suspended"


def test_every_order_of_events_with_repeats_ends_the_same(samples: Any) -> None:
    story = [
        samples.state("active", 1),
        samples.state("past_due", 2),
        samples.state("unpaid", 3),
        samples.state("active", 4, current_period_start=samples.february),
        samples.threshold(),
        samples.cancellation(),
    ]
    endings = set()
    for order in permutations(story):
        facts = NOTHING
        for event in (*order, *random.Random(str(order)).choices(order, k=3)):
            facts = learn(facts, event)
        endings.add((facts, domain.decide(facts, NOW)))
    assert len(endings) == 1
    assert endings.pop()[1] == Desired("suspended", "cancellation")


@pytest.mark.parametrize(
    ("period_start", "stopped_in", "access"),
    [
        ("january", "january", "suspended"),
        ("february", "january", "granted"),  # the next period began
        ("january", "february", "suspended"),  # the event came before the state that starts the period
    ],
)
def test_a_used_up_quota_stops_access_until_the_next_period(samples: Any, period_start: str, stopped_in: str, access: str) -> None:
    facts = domain.with_state(NOTHING, samples.state(current_period_start=getattr(samples, period_start)), NOW)
    decided = domain.decide(domain.with_threshold(facts, samples.threshold(getattr(samples, stopped_in))), NOW)
    assert decided is not None
    assert decided.access == access


def test_a_start_in_mid_month_counts_as_the_start_of_its_period(samples: Any) -> None:
    middle = datetime(2026, 1, 10, tzinfo=UTC)
    facts = domain.with_state(NOTHING, samples.state(started_at=middle, current_period_start=middle), NOW)
    assert domain.decide(domain.with_threshold(facts, samples.threshold()), NOW) == Desired("suspended", "quota")


def test_a_free_product_comes_back_with_the_next_month(samples: Any) -> None:
    facts = domain.with_threshold(domain.with_state(NOTHING, samples.state(current_period_end=None), NOW), samples.threshold())
    assert domain.decide(facts, NOW) == Desired("suspended", "quota", samples.february)
    assert domain.decide(facts, samples.february) == Desired("granted", "subscribed")


def test_a_quota_with_a_window_of_its_own_stops_until_it_ends_whatever_the_period(samples: Any) -> None:
    before, until = NOW - timedelta(days=20), NOW + timedelta(days=10)
    facts = domain.with_state(NOTHING, samples.state(current_period_start=NOW - timedelta(days=1)), NOW)
    stopped = domain.with_threshold(facts, samples.threshold(before, period_end=until))
    assert domain.decide(stopped, NOW) == Desired("suspended", "quota", until)
    assert domain.decide(stopped, until) == Desired("granted", "subscribed")


def test_a_late_stop_of_a_smaller_quota_lifts_none_of_a_larger_one(samples: Any) -> None:
    facts = domain.with_state(NOTHING, samples.state(), NOW)
    for limit in (10, 9):
        facts = domain.with_threshold(facts, samples.threshold(product_id="standard", limit=limit))
    assert domain.decide(facts, NOW, quota=10) == Desired("suspended", "quota")
    assert domain.decide(facts, NOW, quota=11) == Desired("granted", "subscribed")
    another = domain.with_threshold(facts, samples.threshold(samples.february, product_id="standard", limit=9))
    assert another.hard_stop_limit == 9


def test_a_threshold_without_hard_stop_changes_nothing(samples: Any) -> None:
    assert domain.with_threshold(NOTHING, samples.threshold(hard_stop=False)) == NOTHING


@pytest.mark.parametrize("kind", ["tier", "spend_cap"])
def test_neither_a_tier_nor_a_spend_cap_ever_stops_calls(samples: Any, kind: str) -> None:
    assert domain.with_threshold(NOTHING, samples.threshold(kind=kind)) == NOTHING


WEEK = timedelta(days=7)


def test_an_unpaid_customer_goes_on_until_the_grace_has_passed(samples: Any) -> None:
    facts = domain.with_state(domain.with_state(NOTHING, samples.state(), NOW), samples.state("unpaid", 2), NOW)
    assert domain.decide(facts, NOW, grace=WEEK) == Desired("granted", "subscribed", NOW + WEEK)
    later = domain.with_state(facts, samples.state("unpaid", 3), NOW + WEEK / 2)  # further news does not begin it anew
    assert domain.decide(later, NOW + WEEK / 2, grace=WEEK) == Desired("granted", "subscribed", NOW + WEEK)
    assert domain.decide(later, NOW + WEEK, grace=WEEK) == Desired("suspended", "payment_failed")
    assert domain.decide(later, NOW, grace=timedelta(0)) == Desired("suspended", "payment_failed")


def test_who_pays_in_the_grace_goes_on_and_has_a_whole_grace_the_next_time(samples: Any) -> None:
    facts = domain.with_state(domain.with_state(NOTHING, samples.state("unpaid", 1), NOW), samples.state("active", 2), NOW + WEEK / 2)
    assert domain.decide(facts, NOW + 2 * WEEK, grace=WEEK) == Desired("granted", "subscribed")
    again = domain.with_state(facts, samples.state("unpaid", 3), NOW + 3 * WEEK)
    assert domain.decide(again, NOW + 3 * WEEK, grace=WEEK) == Desired("granted", "subscribed", NOW + 4 * WEEK)


def test_a_used_up_quota_stops_in_the_grace_as_well_and_is_looked_at_again_when_it_ends(samples: Any) -> None:
    facts = domain.with_threshold(domain.with_state(NOTHING, samples.state("unpaid"), NOW), samples.threshold())
    assert domain.decide(facts, NOW, grace=WEEK) == Desired("suspended", "quota", NOW + WEEK)
    assert domain.decide(facts, NOW + WEEK, grace=WEEK) == Desired("suspended", "payment_failed")


def test_nobody_is_suspended_by_a_plan_that_is_not_known_yet(samples: Any) -> None:
    assert domain.decide(domain.with_state(NOTHING, samples.state("unpaid"), NOW), NOW, grace=None) == Desired("granted", "subscribed")


@pytest.mark.parametrize(("status", "reason"), [("incomplete", "payment_failed"), ("paused", "paused")])
def test_the_grace_is_for_a_failed_renewal_only(samples: Any, status: str, reason: str) -> None:
    facts = domain.with_state(NOTHING, samples.state(status), NOW)
    assert domain.decide(facts, NOW, grace=WEEK) == Desired("suspended", reason)


@pytest.mark.parametrize("value", ["", "..", ".", "a/b", "-a", "a b", "a" * 81, "ä", "a\n"])
def test_an_id_that_reaches_elsewhere_is_poison(samples: Any, value: str) -> None:
    with pytest.raises(InvalidEventError):
        domain.with_state(NOTHING, samples.state(product_id=value), NOW)


GRANTED = Applied("granted", "subscribed", "standard")
UNPAID = Applied("suspended", "payment_failed", "standard")
ENDING = Applied("suspended", "cancellation", "standard")


@pytest.mark.parametrize(
    ("before", "after", "name", "reason"),
    [
        (None, GRANTED, "access.granted", "subscribed"),
        (GRANTED, UNPAID, "access.suspended", "payment_failed"),
        (UNPAID, GRANTED, "access.restored", "paid"),
        (Applied("suspended", "quota", "standard"), GRANTED, "access.restored", "subscribed"),
        (UNPAID, ENDING, "access.suspended", "cancellation"),  # already stopped, but the ending needs its instant
        (None, ENDING, "access.suspended", "cancellation"),
        (ENDING, Applied("revoked", "canceled", "standard"), "access.revoked", "canceled"),
        (GRANTED, Applied("granted", "subscribed", "pro"), "access.granted", "changed"),
    ],
)
def test_a_change_has_a_name_and_a_reason(before: Applied | None, after: Applied, name: str, reason: str) -> None:
    found = domain.change(before, after)
    assert found is not None
    assert (found[0].topic, found[1]) == (name, reason)


def test_a_repair_is_no_change() -> None:
    assert domain.change(GRANTED, GRANTED) is None


@pytest.mark.parametrize(
    ("before", "desired", "approved_by", "needed"),
    [
        (GRANTED, Desired("suspended", "payment_failed"), None, True),
        (GRANTED, Desired("suspended", "payment_failed"), "operator", False),
        (GRANTED, Desired("suspended", "cancellation"), None, False),
        (GRANTED, Desired("revoked", "canceled"), None, False),
        (ENDING, Desired("suspended", "payment_failed"), None, False),
        (None, Desired("granted", "subscribed"), None, False),
    ],
)
def test_only_working_keys_that_stop_for_missing_payment_need_permission(
    before: Applied | None, desired: Desired, approved_by: str | None, *, needed: bool
) -> None:
    assert domain.needs_permission(before, desired, approved_by) is needed


@pytest.mark.parametrize(("live", "allowed"), [(0, 5), (299, 5), (300, 6), (10_000, 200)])
def test_five_or_two_in_a_hundred_may_be_suspended_an_hour(live: int, allowed: int) -> None:
    assert domain.suspensions_allowed(live=live, minimum=5, share=0.02) == allowed


def test_december_is_followed_by_january(samples: Any) -> None:
    december = datetime(2026, 12, 5, tzinfo=UTC)
    facts = domain.with_state(NOTHING, samples.state(current_period_end=None), NOW)
    decided = domain.decide(domain.with_threshold(facts, samples.threshold(december)), december + timedelta(days=1))
    assert decided == Desired("suspended", "quota", datetime(2027, 1, 1, tzinfo=UTC))
