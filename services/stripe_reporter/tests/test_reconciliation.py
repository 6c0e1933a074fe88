"""All stations side by side: each difference is found with its cause, safe repairs are made, and nothing is ever lowered."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from fastapi import HTTPException

from billing_common.events import Event, InvoiceFinalized, InvoiceLine, UsageCollected
from stripe_reporter import hourly, metrics, reconciliation, reconciliation_store, repairing
from stripe_reporter.collector_gateway import CollectorUnavailableError
from stripe_reporter.reconciliation import Clocks, Difference, InvoicedUsage, MeterFigures, judge_events, judge_invoice, judge_meter
from stripe_reporter.reconciling import RANGE_MAX, Reconciled, Stations, reconcile
from stripe_reporter.routes_reconciliation import answer, known_only
from stripe_reporter.sender import Sender
from stripe_reporter.stripe_gateway import StripeGateway

from .conftest import AFTER_HOUR, HOUR, START, Facts, FixedClock, StripeStandIn

NOON = datetime(2027, 3, 5, 12, tzinfo=UTC)
WALL = datetime(2026, 1, 1, tzinfo=UTC)
CLOCKS = Clocks(NOON, WALL, timedelta(minutes=15))
DAY = START
LONG_AGO = WALL - timedelta(days=1)
Publish = Callable[[Event], Awaitable[None]]


def figures(**fields: Any) -> MeterFigures:
    """100 calls that every station agrees on, and what is different."""
    known: dict[str, Any] = {"counted": 100, "windows": 100, "told": 100, "acknowledged": 100, "customer_acknowledged": 100, "stripe": 100}
    return MeterFigures("payg", "calls", DAY, **{**known, "changed_at": LONG_AGO, "answered_at": LONG_AGO, **fields})


def causes(found: list[Difference]) -> list[tuple[str, str, int]]:
    return [(one.station, one.cause, one.quantity) for one in found]


def test_stations_that_agree_have_no_difference() -> None:
    assert judge_meter(figures(), CLOCKS) == []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"counted": 99}, ("events-windows", "miscounted", 1)),
        ({"counted": 93, "left_out": 7}, None),
        ({"counted": 93, "left_out": 5}, ("events-windows", "miscounted", 2)),
        ({"told": 90, "unpublished": True}, ("windows-told", "in_flight", -10)),
        ({"told": 90, "changed_at": WALL - timedelta(minutes=1)}, ("windows-told", "in_flight", -10)),
        ({"told": 90}, ("windows-told", "not_told", -10)),
        ({"unsent": 10, "due_at": NOON + timedelta(minutes=5)}, ("told-ledger", "in_flight", -10)),
        ({"unsent": 10, "due_at": NOON - timedelta(hours=1)}, ("told-ledger", "overdue", -10)),
        ({"in_flight": 10}, ("told-ledger", "in_flight", -10)),
        ({"rejected": 10}, ("told-ledger", "rejected_by_stripe", -10)),
        ({"stripe": 123}, ("ledger-stripe", "manual_change_in_stripe", 23)),
        ({"stripe": 90}, ("ledger-stripe", "manual_change_in_stripe", -10)),
        ({"stripe": 90, "answered_at": WALL - timedelta(minutes=1)}, ("ledger-stripe", "summary_lag", -10)),
        ({"stripe": None}, None),
        ({"counted": None}, None),
    ],
)
def test_each_difference_of_a_meter_has_its_cause(fields: dict[str, Any], expected: tuple[str, str, int] | None) -> None:
    assert causes(judge_meter(figures(**fields), CLOCKS)) == ([expected] if expected else [])


def test_what_stripe_has_before_its_answer_is_written_down_is_on_its_way() -> None:
    found = judge_meter(figures(acknowledged=90, customer_acknowledged=90, in_flight=10), CLOCKS)
    assert [one.cause for one in found] == ["in_flight", "in_flight"]


def day_of(**fields: Any) -> dict[str, Any]:
    return {"subscription_id": "s-1", "day": DAY.isoformat(), "gateway": None, "bins": [], "duplicates": 0, "meters": []} | fields


def gateway(calls: int, received: int, until: datetime) -> dict[str, Any]:
    return {"calls": calls, "received": received, "source": "stream", "until": until.isoformat()}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"gateway": gateway(100, 100, NOON)}, []),
        ({"gateway": gateway(100, 98, NOON)}, [("gateway-events", "lost", -2)]),
        ({"gateway": gateway(98, 100, NOON - timedelta(hours=1))}, [("gateway-events", "reports_lag", 2)]),
        ({"gateway": gateway(98, 100, NOON - timedelta(days=2))}, [("gateway-events", "miscounted", 2)]),
        ({"duplicates": 3}, [("events-meters", "duplicate", -3)]),
    ],
)
def test_the_gateways_count_is_held_against_the_events(fields: dict[str, Any], expected: list[tuple[str, str, int]]) -> None:
    assert causes(judge_events(day_of(**fields), CLOCKS)) == expected


@pytest.mark.parametrize(
    ("outcome", "reason", "cause", "attention"),
    [
        ("filtered", "failed", "filter", False),
        ("rejected", "quantity_too_large", "rejected", True),
        ("rejected", "deleted", "deleted", False),
        ("held", "late", "late", True),
        ("held", "unknown_catalogue", "held", True),
        ("counted", "", None, False),
    ],
)
def test_events_that_did_not_count_are_named_by_why(outcome: str, reason: str, cause: str | None, attention: bool) -> None:
    row = {"origin": "stream", "outcome": outcome, "reason": reason, "events": 4}
    found = judge_events(day_of(bins=[row]), CLOCKS)
    assert [(one.cause, one.quantity, one.needs_attention, one.explained) for one in found] == (
        [(cause, -4, attention, True)] if cause else []
    )


@pytest.mark.parametrize(
    ("billed", "counted", "stripe", "amount", "rated", "expected"),
    [
        (100, 100, None, 15, 15, None),
        (150, 100, 150, 23, 15, ("manual_change_in_stripe", 50, 8)),
        (90, 100, 100, 14, 15, ("after_the_invoice", -10, -1)),
        (100, 100, None, 10, 15, ("manual_change_in_stripe", 0, -5)),
        (100, 100, None, 10, None, None),
    ],
)
def test_an_invoice_is_held_against_the_usage_of_its_service_period(
    billed: int, counted: int, stripe: int | None, amount: int, rated: int | None, expected: tuple[str, int, int] | None
) -> None:
    found = judge_invoice(InvoicedUsage("payg", "calls", DAY, "ABC-1", billed, counted, stripe, amount, rated))
    assert [(one.cause, one.quantity, one.amount_minor) for one in found] == ([expected] if expected else [])
    assert not any(one.explained for one in found)  # each is money that nobody will ask for, or that was asked for wrongly


def test_closed_usage_that_no_invoice_covers_is_named_once_a_draft_can_no_longer_come() -> None:
    closed = [("payg", "calls", DAY, DAY + timedelta(hours=1), 7)]
    assert causes(reconciliation.not_invoiced(closed, [], CLOCKS)) == [("usage-invoice", "not_invoiced", -7)]
    assert reconciliation.not_invoiced(closed, [("payg", "calls", DAY, NOON)], CLOCKS) == []
    assert reconciliation.not_invoiced([("payg", "calls", DAY, NOON, 7)], [], CLOCKS) == []


# --- on Postgres, with the stand-in of Stripe ----------------------------------------------------------------------------------


class CollectorStandIn:
    """Answers the figures of days; keeps what was asked to be published again."""

    def __init__(self) -> None:
        self.days: list[dict[str, Any]] = []
        self.elsewhere: list[dict[str, Any]] = []
        self.asked: list[Mapping[str, Any]] = []
        self.kept_from = DAY - timedelta(days=396)
        self.left_out: list[datetime] = []
        self.again: list[Mapping[str, Any]] = []
        self.away = False

    def counted(self, quantity: int, **fields: Any) -> None:
        meter = {
            "product_id": "payg",
            "meter_id": "calls",
            "counted": quantity,
            "windows": quantity,
            "corrections": 0,
            "unpublished": False,
            "left_out": 0,
        }
        self.days = [day_of(meters=[meter | fields])]

    async def ask(self, path: str, params: Mapping[str, Any]) -> dict[str, Any]:
        raise AssertionError(path)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        if self.away:
            raise CollectorUnavailableError("ConnectError")
        if path == "/v1/windows/publish-again":
            self.again.append(body)
            return {"windows": 1}
        assert path == "/v1/reconciliation/days"
        self.asked.append(body)
        found = [day for day in [*self.days, *self.elsewhere] if body["from"] <= day["day"] < body["to"]]
        hours = [hour.isoformat() for hour in self.left_out] if body.get("rolled_up") else []
        return {
            "days": found, "kept_from": self.kept_from.isoformat(), "complete_until": None, "left_out": hours, "gateway_error": None,
        }  # fmt: skip


class Scene:
    """One subscription with 100 calls reported in an hour; its stations at a time that a test sets."""

    def __init__(self, pool: asyncpg.Pool, gateway: StripeGateway, clock: FixedClock, sender: Sender) -> None:
        self.pool, self.gateway, self.clock, self.sender = pool, gateway, clock, sender
        self.collector = CollectorStandIn()
        self.wall_later = timedelta(0)

    @property
    def stations(self) -> Stations:
        wall = datetime.now(UTC) + self.wall_later
        return Stations(self.pool, self.collector, self.gateway, Clocks(self.clock.now(), wall, timedelta(minutes=15)))

    async def look(self) -> Reconciled:
        (found,) = await reconcile(self.stations, ["s-1"], DAY, DAY + timedelta(days=1))
        return found

    async def causes(self) -> list[tuple[str, str, int]]:
        return causes([one.difference for one in (await self.look()).found])

    async def repair(self) -> list[str]:
        return await repairing.repair(self.stations, await self.look(), DAY, DAY + timedelta(days=1))

    async def report(self) -> None:
        while await self.sender.round():
            pass


@pytest.fixture
async def scene(pool: asyncpg.Pool, gateway: StripeGateway, clock: FixedClock, sender: Sender, publish: Publish, facts: Facts) -> Scene:
    for event in (facts.catalogue(), facts.subscription(), facts.usage(100)):
        await publish(event)
    found = Scene(pool, gateway, clock, sender)
    clock.instant = AFTER_HOUR
    await found.report()
    found.collector.counted(100)
    found.wall_later = timedelta(hours=1)
    return found


async def test_a_month_in_which_all_stations_agree(scene: Scene) -> None:
    found = await scene.look()
    shown = answer(found, scene.clock.now())
    assert (shown.agrees, shown.differences, shown.problems, shown.events_kept_from) == (True, [], [], None)
    assert [(row.counted, row.windows, row.told, row.acknowledged, row.stripe) for row in shown.meters if row.meter_id == "calls"] == [
        (100, 100, 100, 100, 100)
    ]


async def test_an_id_that_nobody_has_heard_of_agrees_with_nothing(scene: Scene) -> None:
    found = await reconcile(scene.stations, ["s-1", "nobody"], DAY, DAY + timedelta(days=1))
    assert [(one.subscription_id, one.known) for one in found] == [("s-1", True), ("nobody", False)]
    assert known_only(found[:1]) == found[:1]
    with pytest.raises(HTTPException) as refused:
        known_only(found)
    assert refused.value.status_code == 404
    assert refused.value.detail.startswith("subscription nobody: not known to the collector nor to the reporter")


async def test_a_subscription_that_only_the_collector_knows_is_compared(scene: Scene) -> None:
    for day in scene.collector.days:
        day["subscription_id"] = "s-new"
    (found,) = await reconcile(scene.stations, ["s-new"], DAY, DAY + timedelta(days=1))
    assert found.known


async def test_a_meter_event_sent_by_hand_is_found_and_never_taken_away(scene: Scene, stripe: StripeStandIn) -> None:
    stripe.events["by-hand"] = ("calls", "cus_1", 23, int(HOUR.timestamp()))
    assert await scene.causes() == [("ledger-stripe", "manual_change_in_stripe", 23)]
    (said,) = await scene.repair()
    assert "never lowered by guess" in said
    assert await scene.pool.fetchval("select count(*) from ledger") == 1


async def test_a_meter_event_on_a_day_without_usage_is_found_too(scene: Scene, stripe: StripeStandIn) -> None:
    stripe.events["by-hand"] = ("bytes", "cus_1", 5, int(HOUR.timestamp()))
    assert await scene.causes() == [("ledger-stripe", "manual_change_in_stripe", 5)]


async def test_what_is_missing_at_stripe_is_sent_again_once(scene: Scene, stripe: StripeStandIn) -> None:
    identifier = next(iter(stripe.events))
    del stripe.events[identifier]
    assert await scene.causes() == [("ledger-stripe", "manual_change_in_stripe", -100)]
    (said,) = await scene.repair()
    assert said == f"{DAY:%Y-%m-%d} calls: 100 of the hour from 09:00 are missing at Stripe and are sent again"
    assert all("answers on their way" in line for line in await scene.repair())
    await scene.report()
    assert [value for _, _, value, _ in stripe.events.values()] == [100]
    scene.wall_later += timedelta(hours=1)
    assert await scene.causes() == []
    row = await scene.pool.fetchrow("select total, recorded, acknowledged from usage_window where meter_id = 'calls'")
    assert tuple(row) == (100, 100, 100)


async def test_a_summary_that_trails_is_not_repaired(scene: Scene, stripe: StripeStandIn) -> None:
    stripe.events.clear()
    scene.wall_later = timedelta(0)
    assert await scene.causes() == [("ledger-stripe", "summary_lag", -100)]
    assert await scene.repair() == []


async def test_totals_that_were_not_told_are_published_again(scene: Scene) -> None:
    scene.collector.counted(130)
    assert await scene.causes() == [("windows-told", "not_told", -30)]
    assert await scene.repair() == ["1 totals are published again by the collector"]
    assert [(one["subscription_id"], one["closings"]) for one in scene.collector.again] == [("s-1", False)]


async def test_a_window_that_is_not_what_its_events_add_up_to_is_never_told_by_a_repair(scene: Scene) -> None:
    scene.collector.counted(100, windows=107)
    assert await scene.causes() == [("events-windows", "miscounted", 7), ("windows-told", "not_told", -7)]
    (said,) = await scene.repair()
    assert "not told: put them right first" in said
    scene.collector.counted(130, counted=None)  # nobody could add the events up in time
    (said,) = await scene.repair()
    assert "not told" in said
    assert scene.collector.again == []


async def test_a_day_whose_events_are_no_longer_kept_is_not_compared_with_them_and_not_told(scene: Scene) -> None:
    scene.collector.kept_from = DAY + timedelta(days=1)
    scene.collector.counted(100, counted=None)
    shown = answer(await scene.look(), scene.clock.now())
    assert (shown.agrees, shown.differences, shown.problems) == (True, [], [])
    assert (shown.events_kept_from, shown.meters[0].counted) == (DAY + timedelta(days=1), None)
    scene.collector.counted(107, counted=None)
    (said,) = await scene.repair()
    assert said.endswith(f"events of days before {DAY + timedelta(days=1):%Y-%m-%d} are no longer kept, so nobody can check its windows")
    assert scene.collector.again == []


async def test_a_segment_that_began_before_the_kept_events_is_not_closed_again(scene: Scene, publish: Publish, facts: Facts) -> None:
    await publish(facts.closed({"calls": 107}, segment_end=START + timedelta(days=1)))
    scene.collector.kept_from = DAY + timedelta(hours=24)
    scene.collector.counted(100, counted=None)
    (said,) = await scene.repair()
    assert said.endswith(f"events of days before {DAY + timedelta(days=1):%Y-%m-%d} are no longer kept, so nobody can check its windows")
    assert scene.collector.again == []


async def test_a_segment_closed_with_a_wrong_total_settles_once_its_windows_are_right_again(
    scene: Scene, publish: Publish, facts: Facts
) -> None:
    end = START + timedelta(days=1)
    await publish(facts.closed({"calls": 107}, segment_end=end))
    scene.collector.counted(100, windows=107)
    assert any("put them right first" in line for line in await scene.repair())
    assert scene.collector.again == []
    scene.collector.counted(100)
    (said,) = await scene.repair()
    assert said.endswith("the collector says its total again")
    assert [(one["from"], one["to"], one["closings"]) for one in scene.collector.again] == [(START.isoformat(), end.isoformat(), True)]
    await publish(facts.closed({"calls": 100}, segment_end=end, cause_id="again", occurred_at=end + timedelta(hours=1)))
    await scene.report()
    assert await scene.pool.fetchval("select state from segment") == "settled"
    assert await scene.repair() == []


@pytest.mark.parametrize("days", [31, 100, 365])
async def test_a_segment_longer_than_what_was_compared_is_checked_in_pieces_and_closed_again(
    scene: Scene, publish: Publish, facts: Facts, days: int
) -> None:
    end = START + timedelta(days=days, hours=7)
    await publish(facts.closed({"calls": 107}, segment_end=end))
    await scene.look()
    scene.collector.asked.clear()
    (said,) = await scene.repair()
    assert said.endswith("the collector says its total again")
    assert [(one["from"], one["to"], one["closings"]) for one in scene.collector.again] == [
        ((end - timedelta(days=1)).isoformat(), end.isoformat(), True)
    ]
    spans = [(datetime.fromisoformat(one["from"]), datetime.fromisoformat(one["to"])) for one in scene.collector.asked[1:]]
    assert all(first < last <= first + RANGE_MAX for first, last in spans)
    assert [START, *(last for _, last in spans)] == [*(first for first, _ in spans), end], "one after the other, all of it"


async def test_a_segment_with_a_wrong_day_beyond_what_was_compared_is_not_closed_again(
    scene: Scene, publish: Publish, facts: Facts
) -> None:
    await publish(facts.closed({"calls": 107}, segment_end=START + timedelta(days=365)))
    wrong = START + timedelta(days=200)
    scene.collector.elsewhere = [day_of(day=wrong.isoformat(), meters=[{**scene.collector.days[0]["meters"][0], "windows": 107}])]
    (said,) = await scene.repair()
    assert f"{wrong:%Y-%m-%d}" in said
    assert said.endswith("put them right first")
    assert scene.collector.again == []


async def test_usage_that_is_overdue_is_sent_now(scene: Scene, publish: Publish, facts: Facts) -> None:
    await publish(facts.usage(140, revision=2))
    await scene.pool.execute("update usage_window set due_at = $1 where due_at is not null", HOUR)
    scene.clock.instant = HOUR + timedelta(hours=5)
    scene.collector.counted(140)
    assert ("told-ledger", "overdue", -40) in await scene.causes()
    assert await scene.repair() == ["1 totals that were overdue are sent now"]


async def test_a_total_that_nothing_would_ever_send_is_named_and_sent_by_a_repair(
    scene: Scene, publish: Publish, facts: Facts, stripe: StripeStandIn
) -> None:
    await publish(facts.usage(140, revision=2))
    await scene.pool.execute("update usage_window set due_at = null")
    scene.collector.counted(140)
    await scene.report()
    assert ("told-ledger", "overdue", -40) in await scene.causes()
    assert await scene.repair() == ["1 totals that were overdue are sent now"]
    await scene.report()
    assert stripe.total() == 140
    assert await scene.pool.fetchval("select count(*) from usage_window where total <> recorded") == 0


async def test_a_total_that_somebody_raised_here_is_never_sent_by_a_repair(scene: Scene, stripe: StripeStandIn) -> None:
    await scene.pool.execute("update usage_window set total = 107")
    assert {("windows-told", "not_told", 7), ("told-ledger", "overdue", -7)} <= set(await scene.causes())
    said = await scene.repair()
    assert any("overdue, but its totals are not what the events add up to" in line for line in said)
    assert "1 totals are published again by the collector" in said
    await scene.report()
    assert stripe.total() == 100
    scene.collector.counted(107, counted=100)  # and so is the collector's window, that its events do not add up to
    assert any("overdue, but" in line for line in await scene.repair())
    await scene.report()
    assert stripe.total() == 100


async def test_overdue_totals_are_sent_although_somebody_altered_the_collectors_window(
    scene: Scene, publish: Publish, facts: Facts, stripe: StripeStandIn
) -> None:
    await publish(facts.usage(140, revision=2))
    await scene.pool.execute("update usage_window set due_at = null")
    scene.collector.counted(140, windows=147)
    said = await scene.repair()
    assert "1 totals that were overdue are sent now" in said
    assert any("not told: put them right first" in line for line in said)
    await scene.report()
    assert stripe.total() == 140


async def test_usage_that_somebody_moved_to_another_hour_is_not_sent_again(scene: Scene, stripe: StripeStandIn) -> None:
    stripe.events = {"by-hand": ("calls", "cus_1", 90, int((HOUR + timedelta(hours=1)).timestamp()))}
    assert await scene.causes() == [("ledger-stripe", "manual_change_in_stripe", -10)]
    (said,) = await scene.repair()
    assert "Stripe has more of the hour from 10:00 than it acknowledged" in said
    assert await scene.pool.fetchval("select count(*) from ledger") == 1


async def test_what_is_missing_of_an_hour_in_which_a_period_ended_is_left_to_a_person(
    scene: Scene, stripe: StripeStandIn, publish: Publish, facts: Facts
) -> None:
    middle = HOUR + timedelta(minutes=30)
    told = facts.usage(20).model_dump(exclude={"event_id"}) | {"cause_id": "next", "segment_start": middle, "timestamp": middle}
    await publish(UsageCollected(**told))
    scene.clock.instant += timedelta(hours=2)
    await scene.report()
    scene.collector.counted(120)
    scene.wall_later += timedelta(hours=1)
    stripe.events.clear()
    (said,) = await scene.repair()
    assert "09:00 is an hour in which a period ended" in said
    assert await scene.pool.fetchval("select count(*) from ledger") == 2


async def test_nothing_is_sent_again_into_a_final_period_of_another_subscription_of_the_customer(
    scene: Scene, stripe: StripeStandIn, publish: Publish, facts: Facts
) -> None:
    await publish(facts.subscription(2))
    await publish(facts.usage(50, number=2, hour=HOUR - timedelta(hours=1)))
    scene.clock.instant += timedelta(hours=2)
    await scene.report()
    await scene.pool.execute("insert into stripe_price (price_id, product_id, component) values ('price_calls', 'payg', 'usage:calls')")
    line = InvoiceLine(line_id="il", description="Calls", amount_minor=8, price_id="price_calls", period_start=DAY, period_end=HOUR)
    await publish(
        InvoiceFinalized(
            cause_id="evt", occurred_at=HOUR, subscription_id="s-2", account_id="a-2", revision=1, invoice_id="in_2", number="N",
            stripe_subscription_id="sub_2", stripe_customer_id="cus_1", status="open", billing_reason="subscription_cycle", currency="usd",
            total_minor=8, amount_due_minor=8, amount_paid_minor=0, amount_remaining_minor=8, period_start=DAY, period_end=HOUR,
            created_at=HOUR, lines=(line,),
        )
    )  # fmt: skip
    scene.wall_later += timedelta(hours=1)
    stripe.events.clear()
    (said,) = await scene.repair()
    assert "the invoice of s-2, of the same customer and meter, is final" in said
    assert await scene.pool.fetchval("select count(*) from ledger") == 2


async def test_a_station_that_does_not_answer_is_said_and_not_taken_for_zero(scene: Scene, stripe: StripeStandIn) -> None:
    stripe.failures.extend(["503"] * 20)
    found = await scene.look()
    assert found.found == []
    assert all("Stripe did not answer" in problem for problem in found.problems)
    assert found.problems


async def test_all_subscriptions_are_listed_page_by_page_those_with_usage_and_those_that_live(
    pool: asyncpg.Pool, publish: Publish, facts: Facts
) -> None:
    later = HOUR + timedelta(days=3)
    for number in (1, 2, 5, 7):  # of 2, 5 and 7 nothing else is known
        await publish(facts.usage(5, number=number, hour=later if number == 7 else HOUR))
        await publish(facts.usage(9, number=number, hour=later, revision=2))
    for number in (1, 3, 4):
        await publish(facts.subscription(number))
    await pool.execute("update subscription set status = 'canceled' where subscription_id = 's-4'")
    async with pool.acquire() as connection:

        async def pages(until: datetime, limit: int) -> list[list[str]]:
            found = [await reconciliation_store.subscriptions(connection, START, until, "", limit)]
            while found[-1]:
                found.append(await reconciliation_store.subscriptions(connection, START, until, found[-1][-1], limit))
            return found[:-1]

        assert await pages(later, 2) == [["s-1", "s-2"], ["s-3", "s-5"]]
        assert await pages(later + timedelta(hours=1), 3) == [["s-1", "s-2", "s-3"], ["s-5", "s-7"]]
        assert await pages(START, 10) == [["s-1", "s-3"]]


# --- by itself, every hour -------------------------------------------------------------------------------------------------------


async def test_an_hourly_run_keeps_what_it_finds_with_its_age_until_it_is_gone(scene: Scene, stripe: StripeStandIn) -> None:
    stripe.events["by-hand"] = ("calls", "cus_1", 23, int(HOUR.timestamp()))
    assert await hourly.run_once(scene.stations) == 1
    first = await scene.pool.fetchrow("select first_seen_at, quantity, cause, explained from difference")
    scene.clock.instant += timedelta(hours=1)
    await hourly.run_once(scene.stations)
    again = await scene.pool.fetchrow("select first_seen_at, quantity, cause, explained from difference")
    assert tuple(first) == tuple(again) == (AFTER_HOUR, 23, "manual_change_in_stripe", False)
    await hourly.show(scene.stations)
    assert metrics.UNEXPLAINED._value.get() == 1
    del stripe.events["by-hand"]
    scene.clock.instant += timedelta(hours=1)
    await hourly.run_once(scene.stations)
    await hourly.show(scene.stations)
    assert metrics.UNEXPLAINED._value.get() == 0


async def test_an_hourly_run_leaves_out_hours_that_are_not_added_up_and_keeps_what_was_known_of_their_day(scene: Scene) -> None:
    scene.collector.counted(100, counted=97)
    await hourly.run_once(scene.stations)
    known = "select station, first_seen_at from difference"
    first = await scene.pool.fetch(known)
    assert [row["station"] for row in first] == ["events-windows"]
    assert {one["rolled_up"] for one in scene.collector.asked} == {True}
    scene.clock.instant = HOUR + timedelta(hours=4)
    scene.collector.counted(100, counted=0, left_out=100)  # a straggler came for its hour
    scene.collector.left_out = [HOUR]
    await hourly.run_once(scene.stations)
    assert await scene.pool.fetch(known) == first, "nobody has looked at that hour"
    scene.collector.left_out = [scene.clock.instant]
    await hourly.run_once(scene.stations)
    scene.clock.instant += timedelta(minutes=1)
    await hourly.run_once(scene.stations)
    assert await scene.pool.fetch(known) == [], "the running hour is no reason to keep what is gone"


async def test_only_one_replica_runs_and_a_run_that_broke_begins_anew(scene: Scene) -> None:
    wall = datetime.now(UTC)
    hour = timedelta(hours=1)
    async with scene.pool.acquire() as connection:
        assert await reconciliation_store.begin_run(connection, wall, wall - hour)
        assert not await reconciliation_store.begin_run(connection, wall, wall - hour)
        await reconciliation_store.begin_again(connection, wall - hour)
        assert await reconciliation_store.begin_run(connection, wall, wall - hour)
    scene.collector.away = True
    with pytest.raises(CollectorUnavailableError):
        await hourly.run_once(scene.stations)


@pytest.mark.parametrize("sign", [1, -1])
async def test_a_difference_worth_more_than_a_column_takes_does_not_end_the_run(pool: asyncpg.Pool, sign: int) -> None:
    absurd, usual = (
        reconciliation_store.Found(name, f"a-{name}", Difference("told-ledger", "rejected_by_stripe", DAY, -1, "words"), amount, "usd")
        for name, amount in (("s-1", sign * 10**20), ("s-2", 7))
    )
    async with pool.acquire() as connection:
        await reconciliation_store.put_differences(connection, ["s-1", "s-2"], DAY, [absurd, usual], NOON, undecided=[])
        kept = {row["subscription_id"]: row["amount_minor"] for row in await reconciliation_store.listed(connection, 10)}
    assert kept == {"s-1": sign * (2**63 - 1), "s-2": 7}
