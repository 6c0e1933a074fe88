"""Segments from facts: tables of cases, and every order of arrival."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise, permutations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from usage_collector.domain import Cut, Fact, Planned, Recount, Revision, Stored, plan_segments, revise

JAN, FEB, MAR = (datetime(2027, month, 1, tzinfo=UTC) for month in (1, 2, 3))
MID = datetime(2027, 1, 15, 10, 30, 5, tzinfo=UTC)


def fact(
    revision: int, start: datetime = JAN, end: datetime | None = FEB, plan: str = "payg", at: datetime = JAN, **more: datetime
) -> Fact:
    return Fact(revision, at, plan, 1, start, end, **more)


def shown(segments: list[Planned]) -> list[tuple[datetime, datetime | None, str, str]]:
    return [(s.started_at, s.ended_at, s.product_id, s.reason) for s in segments]


CASES = {
    "one period": ([fact(1)], None, [(JAN, FEB, "payg", "period_end")]),
    "two periods": ([fact(1), fact(2, FEB, MAR)], None, [(JAN, FEB, "payg", "period_end"), (FEB, MAR, "payg", "period_end")]),
    "free: open-ended": ([fact(1, JAN, None, "free")], None, [(JAN, None, "free", "period_end")]),
    "a change of plan cuts the period": (
        [fact(1), fact(2, plan="pro", at=MID)],
        None,
        [(JAN, MID, "payg", "change"), (MID, FEB, "pro", "period_end")],
    ),
    "a change at renewal": ([fact(1), fact(2, FEB, MAR, "pro")], None, [(JAN, FEB, "payg", "period_end"), (FEB, MAR, "pro", "period_end")]),
    "a cut is rounded up to the second": (
        [fact(1)],
        MID - timedelta(milliseconds=1),
        [(JAN, MID, "payg", "cancellation")],
    ),
    "a cut at the very start leaves an empty segment": ([fact(1)], JAN, [(JAN, JAN, "payg", "cancellation")]),
    "a cut before the end of a subscription wins": (
        [fact(1), fact(2, ended_at=MID + timedelta(minutes=1))],
        MID,
        [(JAN, MID, "payg", "cancellation")],
    ),
    "ended at the period's end": ([fact(1), fact(2, ended_at=FEB)], None, [(JAN, FEB, "payg", "period_end")]),
    "ended early": ([fact(1), fact(2, ended_at=MID)], None, [(JAN, MID, "payg", "cancellation")]),
    "a period that never came is dropped": (
        [fact(1), fact(2, FEB, MAR), fact(3, FEB, MAR, ended_at=FEB)],
        None,
        [(JAN, FEB, "payg", "period_end")],
    ),
    "a period that ends sooner": ([fact(1), fact(2, end=MID)], None, [(JAN, MID, "payg", "period_end")]),
    "a new anchor in mid-period": (
        [fact(1), fact(2, MID, MAR, "pro", MID)],
        None,
        [(JAN, MID, "payg", "period_end"), (MID, MAR, "pro", "period_end")],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_segments_follow_from_the_facts_in_any_order(name: str) -> None:
    facts, cut_at, expected = CASES[name]
    for order in permutations(facts):
        assert shown(plan_segments(order, cut_at)) == expected


LATER = MID + timedelta(seconds=7)
SOON, BACK = FEB + timedelta(seconds=7), LATER + timedelta(hours=1)
CUT = Cut(MID, "pro", 1)
CHANGES = {
    "until the change is made nothing follows": ([fact(1)], [CUT], [(JAN, MID, "payg", "change")]),
    "a change that failed is no cut": ([fact(1)], [], [(JAN, FEB, "payg", "period_end")]),
    "made: the new plan begins at the cut": (
        [fact(1), fact(2, plan="pro", at=LATER)],
        [CUT],
        [(JAN, MID, "payg", "change"), (MID, FEB, "pro", "period_end")],
    ),
    "the period passes before: its rest is the old plan's": (
        [fact(1), fact(2, FEB, MAR, at=FEB)],
        [CUT],
        [(JAN, MID, "payg", "change"), (MID, FEB, "payg", "period_end")],
    ),
    "made in the next period": (
        [fact(1), fact(2, FEB, MAR, at=FEB), fact(3, FEB, MAR, "pro", SOON)],
        [CUT],
        [(JAN, MID, "payg", "change"), (MID, FEB, "payg", "period_end"), (FEB, MAR, "pro", "period_end")],
    ),
    "made in the next period, told in one": (
        [fact(1), fact(2, FEB, MAR, "pro", SOON)],
        [CUT],
        [(JAN, MID, "payg", "change"), (MID, FEB, "payg", "period_end"), (FEB, MAR, "pro", "period_end")],
    ),
    "paid first, and told with the next period": (
        [fact(1), fact(2, FEB, MAR, "pro", SOON, plan_since=FEB + timedelta(seconds=5))],
        [],
        [
            (JAN, FEB, "payg", "period_end"),
            (FEB, SOON, "payg", "change"),
            (SOON, MAR, "pro", "period_end"),
        ],
    ),
    "planned for the period's end": (
        [fact(1), fact(2, FEB, MAR, "pro", FEB, plan_since=FEB)],
        [],
        [(JAN, FEB, "payg", "period_end"), (FEB, MAR, "pro", "period_end")],
    ),
    "back and forth": (
        [fact(1), fact(2, plan="pro", at=LATER), fact(3, plan="payg", at=BACK)],
        [CUT],
        [
            (JAN, MID, "payg", "change"),
            (MID, BACK, "pro", "change"),
            (BACK, FEB, "payg", "period_end"),
        ],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_plan_that_is_closed_first_is_followed_by_the_new_one_when_that_is_made(name: str) -> None:
    facts, cuts, expected = CHANGES[name]
    for order in permutations(facts):
        assert shown(plan_segments(order, None, cuts)) == expected


def test_events_of_the_new_plan_carry_no_second_before_the_change_was_made() -> None:
    facts = [fact(1), fact(2, plan="pro", at=LATER)]
    assert [segment.stamped_from for segment in plan_segments(facts, None, [CUT])] == [None, LATER]
    assert [segment.stamped_from for segment in plan_segments(facts)] == [None, None]  # begun where it was made


def test_a_closed_segment_of_a_change_that_failed_is_followed_by_the_same_plan() -> None:
    closed = Stored(7, Planned(JAN, MID, "payg", 1, "change"), closed=True)
    assert revise([closed], plan_segments([fact(1)])) == Revision(add=(Planned(MID, FEB, "payg", 1),))


def test_a_cancellation_ends_the_old_plan_when_the_change_has_failed() -> None:
    assert shown(plan_segments([fact(1)], LATER, [CUT])) == [(JAN, MID, "payg", "change")]
    assert shown(plan_segments([fact(1)], LATER)) == [(JAN, LATER, "payg", "cancellation")]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.sampled_from(["payg", "pro"]), st.integers(0, 86400 * 60), st.booleans()), min_size=1, max_size=6
    ),
    st.none() | st.integers(0, 86400 * 60),
)
def test_segments_never_overlap_whatever_the_facts_say(steps: list[tuple[int, str, int, bool]], cut: int | None) -> None:
    facts = [
        Fact(n, JAN + timedelta(seconds=at), plan, 1, JAN + timedelta(days=start), JAN + timedelta(days=start + 30), MAR if ended else None)
        for n, (start, plan, at, ended) in enumerate(steps, 1)
    ]
    segments = plan_segments(facts, JAN + timedelta(seconds=cut) if cut is not None else None)
    assert segments
    for segment in segments:
        assert segment.ended_at is not None
        assert segment.ended_at >= segment.started_at
    for before, after in pairwise(segments):
        assert before.ended_at is not None
        assert before.ended_at <= after.started_at


OPEN = Planned(JAN, FEB, "payg", 1)


def test_a_segment_that_gets_shorter_has_its_later_events_judged_again() -> None:
    shorter = Planned(JAN, MID, "payg", 1, "cancellation")
    assert revise([Stored(7, OPEN, closed=False)], [shorter]) == Revision(change=((7, shorter),), recount=(Recount(7, MID),))


def test_a_segment_that_gets_longer_keeps_what_it_counted() -> None:
    longer = Planned(JAN, MAR, "payg", 1)
    assert revise([Stored(7, OPEN, closed=False)], [longer]) == Revision(change=((7, longer),))


def test_another_plan_has_all_events_judged_again() -> None:
    other = Planned(JAN, FEB, "pro", 1)
    assert revise([Stored(7, OPEN, closed=False)], [other]).recount == (Recount(7, JAN),)


def test_a_closed_segment_stays_as_it_is() -> None:
    assert revise([Stored(7, OPEN, closed=True)], [Planned(JAN, MID, "payg", 1), Planned(MID, FEB, "pro", 1)]) == Revision()


def test_a_new_segment_begins_where_a_closed_one_ended() -> None:
    revision = revise([Stored(7, OPEN, closed=True)], [Planned(MID, MAR, "pro", 1)])
    assert revision == Revision(add=(Planned(FEB, MAR, "pro", 1),))


def test_a_segment_that_is_no_longer_true_is_emptied_and_removed() -> None:
    revision = revise([Stored(7, Planned(MID, FEB, "pro", 1), closed=False)], [OPEN])
    assert revision == Revision(add=(OPEN,), remove=(7,), recount=(Recount(7, MID),))
