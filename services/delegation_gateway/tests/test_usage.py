"""The page of a subscription's usage: each division adds up, says how fresh it is, and is nobody else's."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from billing_common.internal_auth import InternalAuth, read_token
from delegation_gateway.collector_gateway import CollectorGateway, Split, Standing
from delegation_gateway.internal_door import InternalDoor
from delegation_gateway.parts import Parts
from delegation_gateway.usage_page import Asked, range_of

DAY = timedelta(days=1)
NOW = datetime(2027, 3, 20, 14, tzinfo=UTC)


@pytest.fixture
async def used(story: Any, collector: Any, parts: Parts) -> Any:
    """A subscription with two days of usage in its running period."""
    await story.state()
    start, now = story.start, parts.clock.now()
    fresh = {"as_of": now, "staleness_seconds": 1.25}
    basis = {"since": start, "until": now, "period_end": story.end, "usage": {"calls": 150_000}}
    collector.told_standing = Standing.model_validate({
        "period_start": start, "period_end": story.end, "totals": {"calls": 60_020},
        "quotas": [{"meter_id": "calls", "limit": 100_000, "used": 60_020, "remaining": 39_980, "window_end": story.end, "stops": False}],
        "bill": {"currency": "usd", "total_minor": 8_995},
        "projected": {"currency": "usd", "total_minor": 13_995, "basis": basis}, "freshness": fresh,
    })  # fmt: skip
    counted = {"outcome": "counted", "reason": "", "meter_id": "calls"}
    failed = {"outcome": "filtered", "reason": "failed", "meter_id": "", "quantity": 0}
    call = {"origin": "stream", "method": "GET", "template": "/orders"}
    rows = {
        "day": [
            {"day": start, **counted, "distinct": 60_000, "quantity": 60_000},
            {"day": start + DAY, **counted, "distinct": 10, "quantity": 20},
            {"day": start + DAY, **failed, "distinct": 3},
        ],
        "hour": [{"hour": start + timedelta(hours=9), **counted, "distinct": 7, "quantity": 14}],
        "endpoint": [
            {**call, "status": 200, **counted, "distinct": 60_010, "quantity": 60_020}, {**call, "status": 500, **failed, "distinct": 3},
        ],
    }  # fmt: skip
    collector.told = {by: Split.model_validate({"rows": told, "complete_until": None, "freshness": fresh}) for by, told in rows.items()}
    return story


def words(page: Any) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.text).split())


async def test_what_is_spent_of_a_cap_is_shown(used: Any, collector: Any) -> None:
    assert "Spend cap" not in words(await used.page("/usage"))
    collector.told_standing = collector.told_standing.model_copy(update={"spend_cap_minor": 10_000})
    assert "Spend cap $100.00 89 % spent; calls go on beyond it" in words(await used.page("/usage"))


async def test_days_endpoints_and_statuses_each_add_up(used: Any) -> None:
    text = words(await used.page("/usage"))
    days = f"{used.start:%Y-%m-%d} 60,000 60,000 0 {used.start + DAY:%Y-%m-%d} 20 13 3 Sum 60,020 60,013 3"
    assert days in text
    assert "GET /orders 60,020 60,013 3 Sum 60,020 60,013 3" in text
    assert "200 60,020 60,010 0 500 0 3 3 Sum 60,020 60,013 3" in text
    assert "answered with an error 3" in text


async def test_the_figures_of_the_chart_stand_below_it_once(used: Any) -> None:
    text = words(await used.page("/usage"))
    assert "per day (UTC)" in text
    assert "figures as a table" not in text


async def test_usage_of_earlier_periods_is_in_the_bill_and_in_its_projection(used: Any, checkout: Any) -> None:
    late = {"subscription_id": used.subscription_id, "description": "Late", "currency": "usd", "placed": None, "amount_minor": 60}
    checkout.told_charges = [{**late, "made_at": (used.start + DAY).isoformat()}]
    text = words(await used.page("/usage"))
    assert "Bill so far $90.55 without tax; $0.60 of it for usage of earlier periods" in text
    assert "Bill at this pace $140.55" in text


async def test_bill_projection_quota_and_freshness_are_said_with_their_basis(used: Any) -> None:
    text = words(await used.page("/usage"))
    assert "UTC . Everything that had arrived 1.2 seconds earlier is in these figures" in text
    assert "API calls left 39,980 of 100,000 included until" in text
    assert "Bill so far $89.95" in text
    assert "Bill at this pace $139.95" in text
    assert "goes on like that to the end of the period: 150,000 API calls" in text


async def test_a_day_leads_to_its_hours(used: Any, collector: Any) -> None:
    page = await used.page("/usage")
    day = f"{used.start:%Y-%m-%d}"
    assert f'href="?from={day}&amp;to={day}"' in page.text
    shown = await used.page(f"/usage?from={day}&to={day}")
    assert "09:00 UTC 14 7 0" in words(shown)
    assert collector.asked[-2:] == [(used.start, used.start + DAY, ["hour"]), (used.start, used.start + DAY, ["endpoint", "status"])]


async def test_no_usage_yet_no_usage_on_these_days_and_an_unknown_subscription_are_three_texts(used: Any, collector: Any) -> None:
    collector.told = {by: split.model_copy(update={"rows": ()}) for by, split in collector.told.items()}
    assert "No usage in this period yet" in (await used.page("/usage")).text
    assert "Nothing was used on these days" in (await used.page("/usage?from=2027-01-01&to=2027-01-05")).text
    collector.told_standing = None
    assert "Each call made with your key appears here within seconds" in (await used.page("/usage")).text


async def test_wrong_days_are_explained_beside_the_field(used: Any) -> None:
    page = await used.page("/usage?from=yesterday")
    assert page.status_code == 422
    assert "Enter the first day as year-month-day" in page.text
    assert "60,020" in page.text


@pytest.mark.parametrize(
    ("since", "to", "field"),
    [("2027-03-01", "soon", "to"), ("2027-03-05", "2027-03-01", "to"), ("2027-01-01", "2027-12-31", "to"), ("", "2027-01-01", "from")],
)
def test_days_that_cannot_be_shown_name_their_field(since: str, to: str, field: str) -> None:
    chosen, errors = range_of(Asked.model_validate({"from": since, "to": to}), period_start=NOW - 3 * DAY, now=NOW)
    assert list(errors) == [field]
    assert (chosen.first, chosen.last) == ((NOW - 3 * DAY).date(), NOW.date())


async def test_another_account_s_usage_is_not_found_and_an_outage_is_said(used: Any, stranger: Any, collector: Any) -> None:
    assert (await stranger.browser.get(f"/subscriptions/{used.subscription_id}/usage")).status_code == 404
    assert f"/subscriptions/{used.subscription_id}/usage" in (await used.page()).text
    collector.fails = True
    assert (await used.page("/usage")).status_code == 503


async def test_the_collector_is_asked_with_a_token_for_its_door() -> None:
    seen: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(
            200, json={"rows": [], "complete_until": None, "freshness": {"as_of": NOW.isoformat(), "staleness_seconds": 0}}
        )

    client = httpx.AsyncClient(base_url="http://collector.test", transport=httpx.MockTransport(respond))
    door = InternalDoor(client, InternalAuth(["k" * 32], caller="delegation_gateway", scopes=["usage:read"]))
    await CollectorGateway(door).split("s-1", NOW, NOW + DAY, ["endpoint", "status"])
    assert seen[0].url.path == "/v1/usage/s-1/split"
    assert seen[0].url.params.get_list("by") == ["endpoint", "status", "outcome"]
    caller = read_token(["k" * 32], seen[0].headers["authorization"].removeprefix("Bearer "))
    assert caller is not None
    assert caller.scopes == {"usage:read"}
