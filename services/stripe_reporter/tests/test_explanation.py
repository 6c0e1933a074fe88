"""Why an invoice says what it says: a tree from lines to events that adds up, what did not count, and all of it as CSV."""

import csv
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing_common.catalogue import Catalogue
from billing_common.events import CatalogueApplied, Event, InvoiceFinalized, InvoiceLine, SubscriptionCreated, UsageCollected
from billing_common.internal_auth import issue_token
from billing_common.rating import Facts, period_at, rate
from billing_common.reasons import WORDS
from stripe_reporter import explanation, routes_explanation
from stripe_reporter.collector_gateway import CollectorUnavailableError
from stripe_reporter.invoice_store import HourOfMeter, Invoice, Line

from .conftest import TABLES

CATALOGUE = Catalogue.parse((Path(__file__).parents[3] / "monetizationModels.json").read_text())
MARCH, APRIL = datetime(2027, 3, 1, tzinfo=UTC), datetime(2027, 4, 1, tzinfo=UTC)
KEYS = ("k" * 32,)
CORRECTION = UUID("6f1f9d43-8d0f-5f0c-9c0e-6b1a5e4f7a10")
Publish = Callable[[Event], Awaitable[None]]


@dataclass
class CollectorStandIn:
    """Events in memory, split and paged as the collector does it."""

    events: list[dict[str, Any]] = field(default_factory=list)
    altered: dict[datetime, int] = field(default_factory=dict)  # what somebody added to a window by hand
    complete_until: datetime | None = None
    away: bool = False

    def add(self, at: datetime, quantity: int, **fields: Any) -> None:
        values: dict[str, Any] = {
            "at": at, "hour": at.replace(minute=0, second=0), "day": at.replace(hour=0, minute=0, second=0), "segment_start": MARCH,
            "origin": "stream", "method": "GET", "template": "/orders", "status": 200, "outcome": "counted", "reason": "",
            "meter_id": "calls", "source": "apim", "id": f"e{len(self.events)}",
        }  # fmt: skip
        self.events.append(values | fields | {"counted": quantity, "quantity": quantity})

    async def ask(self, path: str, params: Mapping[str, Any]) -> dict[str, Any]:
        if self.away:
            raise CollectorUnavailableError("ConnectError")
        assert path.startswith("/v1/usage/s-1")
        if path == "/v1/usage/s-1":
            return self._windows(params)
        return self._page(params) if path.endswith("/events") else self._split(params)

    def _windows(self, params: Mapping[str, Any]) -> dict[str, Any]:
        since, until = (datetime.fromisoformat(params[name]) for name in ("from", "to"))
        found = dict(self.altered)
        for event in self.events:
            if event["outcome"] == "counted" and event["reason"] != "late_billed":
                found[event["hour"]] = found.get(event["hour"], 0) + event["counted"]
        return {
            "usage": [
                {"meter_id": "calls", "segment_start": MARCH.isoformat(), "quantity": quantity,
                 "start": (at.replace(hour=0) if params["by"] == "day" else at).isoformat()}
                for at, quantity in found.items()
                if since <= at < until
            ]
        }  # fmt: skip

    def _split(self, params: Mapping[str, Any]) -> dict[str, Any]:
        since, until = (datetime.fromisoformat(params[name]) for name in ("from", "to"))
        names = {"endpoint": ("origin", "method", "template"), "outcome": ("outcome", "reason"), "segment": ("segment_start",)}
        wanted = [name for dimension in params["by"] for name in names.get(dimension, (dimension,))]
        sums: dict[tuple[Any, ...], list[int]] = {}
        for event in self.events:
            if since <= event["at"] < until:
                figures = sums.setdefault((*(event[name] for name in wanted), event["meter_id"]), [0, 0])
                figures[0] += 1
                figures[1] += event["counted"]
        rows = [
            dict(zip([*wanted, "meter_id"], key, strict=True)) | {"distinct": n, "events": n, "quantity": q} for key, (n, q) in sums.items()
        ]
        shown = [{name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()} for row in rows]
        return {"rows": shown, "complete_until": self.complete_until and self.complete_until.isoformat()}

    def _page(self, params: Mapping[str, Any]) -> dict[str, Any]:
        assert params.get("meter_id") is not None or params["counted_for"] == "calls"
        hour = datetime.fromisoformat(params["hour"])
        match = ("meter_id", "outcome", "reason", "origin", "method", "template", "status")
        found = [
            event
            for event in sorted(self.events, key=lambda event: (event["at"], event["id"]))
            if event["hour"] == hour and all(params.get(name) is None or event[name] == params[name] for name in match)
        ]
        start, size = int(params.get("after") or 0), params.get("limit", 100)
        page = [
            {**event, "day": "2027-03-01", "at": event["at"].isoformat(), "reason": event["reason"] or None}
            for event in found[start : start + size]
        ]
        return {"events": page, "next": str(start + size) if len(found) > start + size else None}


def windows(product: str, hours: Mapping[datetime, int]) -> list[UsageCollected]:
    return [
        UsageCollected(
            cause_id=f"{product}-{at}", occurred_at=at, subscription_id="s-1", account_id="a-1", product_id=product, catalogue_version=1,
            meter_id="calls", segment_start=MARCH, hour=at, timestamp=at, quantity=quantity, revision=1,
        )
        for at, quantity in hours.items()
    ]  # fmt: skip


def rated_lines(product_id: str, calls: int) -> list[InvoiceLine]:
    """The lines that Stripe makes of the usage of March and the fee of April."""
    product = CATALOGUE.product(product_id)
    rated = rate(CATALOGUE, product, period=period_at(product, started_at=MARCH, at=MARCH), usage={"calls": calls}, facts=Facts(MARCH))
    lines = []
    for number, line in enumerate(rated.lines):
        added = line.component in {"minimum", "maximum", "rounding"}
        quantity = calls if line.component == "unit" else line.quantity
        lines.append(
            InvoiceLine(
                line_id=f"il_{number}", description=line.description, amount_minor=line.amount_minor, quantity=Decimal(quantity),
                price_id=None if added else f"price_{product_id}_{line.component}", period_start=line.period.start,
                period_end=line.period.end, component=line.component if added else None,
            )
        )  # fmt: skip
    return lines


def invoice(lines: Sequence[InvoiceLine], **fields: Any) -> InvoiceFinalized:
    values: dict[str, Any] = {
        "cause_id": "evt_1", "occurred_at": APRIL + timedelta(hours=1), "subscription_id": "s-1", "account_id": "a-1", "revision": 2,
        "invoice_id": "in_1", "number": "ABC-0001", "stripe_subscription_id": "sub_1", "stripe_customer_id": "cus_1", "status": "open",
        "billing_reason": "subscription_cycle", "currency": "usd", "total_minor": sum(line.amount_minor for line in lines),
        "amount_due_minor": 0, "amount_paid_minor": 0, "amount_remaining_minor": 0, "period_start": MARCH, "period_end": APRIL,
        "created_at": APRIL,
    }  # fmt: skip
    return InvoiceFinalized(**values | fields, lines=tuple(lines))


def catalogue_applied() -> CatalogueApplied:
    components = {
        product.id: {component: f"price_{product.id}_{component}" for component in ("base", "unit", "usage:calls")}
        for product in CATALOGUE.products
    }
    ids = {product: {"prices": prices, "prices_by_currency": {"usd": prices}, "meters": {}} for product, prices in components.items()}
    return CatalogueApplied(cause_id="c", occurred_at=MARCH, version=1, document=CATALOGUE.document(), stripe_ids=ids)


def subscribed(product: str) -> SubscriptionCreated:
    return SubscriptionCreated(
        cause_id="s", occurred_at=MARCH, subscription_id="s-1", account_id="a-1", revision=1, user_id="u-1", product_id=product,
        catalogue_version=1, display_name="Weather", status="active", currency="usd", started_at=MARCH, current_period_start=MARCH,
        current_period_end=APRIL, stripe_customer_id="cus_1",
    )  # fmt: skip


@pytest.fixture
def collector() -> CollectorStandIn:
    return CollectorStandIn()


@pytest.fixture
async def door(pool: asyncpg.Pool, collector: CollectorStandIn, publish: Publish) -> AsyncIterator[httpx.AsyncClient]:
    """A month of `standard`: 60,000 calls on the 3rd, 50,500 on the 4th in two hours; what failed; a fee; an invoice item by hand."""
    await publish(catalogue_applied())
    third, fourth = MARCH + timedelta(days=2, hours=9), MARCH + timedelta(days=3, hours=23)
    hours = {third: 60_000, fourth - timedelta(hours=1): 50_000, fourth: 500}
    for window in windows("standard", hours):
        await publish(window)
    collector.add(third, 60_000)
    collector.add(fourth - timedelta(hours=1), 49_990, method="POST", template="=SUM(A1)", status=201)
    collector.add(fourth - timedelta(minutes=50), 10, origin="correction", method="", template="", status=0)
    collector.add(fourth, 500)
    for n in range(3):
        collector.add(fourth + timedelta(seconds=n), 0, status=500, outcome="filtered", reason="failed", meter_id="")
    collector.add(third, 0, outcome="rejected", reason="deleted", meter_id="")
    await publish(invoice([*rated_lines("standard", 110_500), *others()]))
    app = FastAPI()
    app.include_router(routes_explanation.router)
    routes_explanation.install_errors(app)
    for name, value in {"pool": pool, "collector": collector, "token_keys": KEYS}.items():
        setattr(app.state, name, value)
    headers = {"authorization": f"Bearer {issue_token(KEYS, caller='test', scopes=['reports:read'])}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://reporter", headers=headers) as client:
        yield client


def others() -> list[InvoiceLine]:
    span: dict[str, Any] = {"period_start": MARCH, "period_end": APRIL}
    return [
        InvoiceLine(line_id="il_c", description="Correction", amount_minor=-70, component="correction", correction_id=CORRECTION, **span),
        InvoiceLine(line_id="il_x", description="Lunch", amount_minor=1_500, **span),
    ]


async def get(door: httpx.AsyncClient, path: str, **params: Any) -> Any:
    answer = await door.get(f"/v1/explanations/{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_tree_adds_up_from_lines_to_days(door: httpx.AsyncClient) -> None:
    tree = await get(door, "in_1")
    (usage,) = tree["usage"]
    assert sum(line["amount_minor"] for line in tree["lines"]) == tree["total_minor"]
    assert (usage["meter_name"], usage["quantity"], usage["counted"], usage["difference"]) == ("API calls", 110_500, 110_500, None)
    assert [(day["start"][:10], day["quantity"], day["amount_minor"]) for day in usage["days"]] == [
        ("2027-03-03", 60_000, 0),  # within what is included
        ("2027-03-04", 50_500, 1_050),
    ]
    assert sum(day["amount_minor"] for day in usage["days"]) == usage["amount_minor"] == usage["rated_minor"]
    assert [day["not_counted"] for day in usage["days"]] == [1, 3]
    assert {row["reason"]: (row["words"], row["events"]) for row in usage["not_counted"]} == {
        "failed": ("answered with an error", 3),
        "deleted": ("deleted by a correction", 1),
    }


async def test_each_line_says_what_it_is(door: httpx.AsyncClient) -> None:
    lines = (await get(door, "ABC-0001"))["lines"]
    assert [line["kind"] for line in lines] == ["base", "usage", "usage", "correction", "unknown"]
    assert lines[3]["correction_id"] == str(CORRECTION)
    assert "added in Stripe" in lines[4]["words"]


async def test_a_day_opens_into_hours_and_endpoints_that_add_up(door: httpx.AsyncClient) -> None:
    key = (await get(door, "in_1"))["usage"][0]["key"]
    day = await get(door, "in_1/day", usage=key, day="2027-03-04T00:00:00Z")
    assert [(hour["start"][11:13], hour["quantity"], hour["amount_minor"]) for hour in day["hours"]] == [
        ("22", 50_000, 1_000),
        ("23", 500, 50),
    ]
    assert day["quantity"] == sum(hour["quantity"] for hour in day["hours"]) == 50_500
    first, last = day["hours"]
    assert [(one["origin"], one["method"], one["status"], one["quantity"]) for one in first["endpoints"]] == [
        ("stream", "POST", 201, 49_990),
        ("correction", "", 0, 10),
    ]
    assert (first["difference"], last["difference"]) == (None, None)
    assert [(row["reason"], row["events"]) for row in last["not_counted"]] == [("failed", 3)]


async def test_a_day_on_which_nothing_counted_is_there_too(door: httpx.AsyncClient, collector: CollectorStandIn) -> None:
    fifth = MARCH + timedelta(days=4, hours=5)
    collector.add(fifth, 0, status=403, outcome="filtered", reason="blocked", meter_id="")
    usage = (await get(door, "in_1"))["usage"][0]
    assert [(day["start"][:10], day["quantity"], day["amount_minor"], day["not_counted"]) for day in usage["days"]][-1] == (
        "2027-03-05", 0, 0, 1
    )  # fmt: skip
    day = await get(door, "in_1/day", usage=usage["key"], day="2027-03-05T00:00:00Z")
    assert [(hour["quantity"], hour["not_counted"][0]["reason"]) for hour in day["hours"]] == [(0, "blocked")]
    hour = fifth.isoformat()
    answers = [await get(door, "in_1/events", usage=usage["key"], hour=hour, reason=reason) for reason in ("blocked", "failed")]
    assert [len(answer["events"]) for answer in answers] == [1, 0]


async def test_an_hour_opens_into_events_page_by_page(door: httpx.AsyncClient) -> None:
    key = (await get(door, "in_1"))["usage"][0]["key"]
    hour = (MARCH + timedelta(days=3, hours=23)).isoformat()
    first = await get(door, "in_1/events", usage=key, hour=hour, outcome="filtered", limit=2)
    second = await get(door, "in_1/events", usage=key, hour=hour, outcome="filtered", limit=2, after=first["next"])
    assert [event["id"] for event in first["events"] + second["events"]] == ["e4", "e5", "e6"]
    assert second["next"] is None
    (counted,) = (await get(door, "in_1/events", usage=key, hour=hour, meter_id="calls"))["events"]
    assert (counted["counted"], counted["status"], counted["source"]) == (500, 200, "apim")


async def test_what_is_not_known_is_not_found(door: httpx.AsyncClient) -> None:
    key = (await get(door, "in_1"))["usage"][0]["key"]
    for path in (
        "in_2",
        "in_1/day?usage=x&day=2027-03-04T00:00:00Z",
        f"in_1/day?usage={key}&day=2027-04-04T00:00:00Z",
        f"in_1/events?usage={key}&hour=2027-02-04T00:00:00Z",
    ):
        assert (await door.get(f"/v1/explanations/{path}")).status_code == 404, path


async def test_without_the_collector_the_door_says_so(door: httpx.AsyncClient, collector: CollectorStandIn) -> None:
    collector.away = True
    answer = await door.get("/v1/explanations/in_1")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_a_line_that_bills_something_else_than_was_counted_says_so(door: httpx.AsyncClient, publish: Publish) -> None:
    await publish(invoice(rated_lines("standard", 120_000), revision=3, cause_id="evt_2"))
    (usage,) = (await get(door, "in_1"))["usage"]
    assert usage["difference"].startswith("Stripe billed 120,000, Turnpike counted 110,500")


@pytest.mark.parametrize("product", ["payg", "standard", "enterprise"])
@pytest.mark.parametrize("price_known_since", ["now", "before"])
async def test_an_invoice_of_a_month_without_usage_says_what_it_adds_up_to(
    door: httpx.AsyncClient, pool: asyncpg.Pool, publish: Publish, collector: CollectorStandIn, product: str,
    price_known_since: str,
) -> None:  # fmt: skip
    await pool.execute("delete from usage_window")
    collector.events.clear()
    if price_known_since == "before":
        await pool.execute("update stripe_price set catalogue_version = null")
        await publish(subscribed(product))
    await publish(invoice(rated_lines(product, 0), revision=3, cause_id="evt_2"))
    (usage,) = (await get(door, "in_1"))["usage"]
    assert (usage["meter_name"], usage["counted"], usage["days"], usage["difference"]) == ("API calls", 0, [], None)
    assert (usage["rated_minor"], usage["amount_minor"]) == (0, 0)


async def test_an_older_state_of_an_invoice_changes_nothing(door: httpx.AsyncClient, publish: Publish) -> None:
    await publish(invoice([], revision=1, cause_id="evt_0", status="draft"))
    assert len((await get(door, "in_1"))["lines"]) == 5


async def test_events_that_are_gone_are_said_to_be(door: httpx.AsyncClient, collector: CollectorStandIn) -> None:
    key = (await get(door, "in_1"))["usage"][0]["key"]
    collector.events.clear()
    day = await get(door, "in_1/day", usage=key, day="2027-03-04T00:00:00Z")
    assert {hour["difference"] for hour in day["hours"]} == {"its events are no longer kept"}
    (usage,) = (await get(door, "in_1"))["usage"]
    assert ({one["difference"] for one in usage["days"]}, usage["difference"]) == ({"its events are no longer kept"}, None)


async def differences(door: httpx.AsyncClient) -> tuple[str | None, dict[str, str], dict[str, str]]:
    """Return what differs: of the usage, by day, and by hour of the 4th of March."""
    (usage,) = (await get(door, "in_1"))["usage"]
    opened = await get(door, "in_1/day", usage=usage["key"], day="2027-03-04T00:00:00Z")
    days = {day["start"][8:10]: day["difference"] for day in usage["days"] if day["difference"]}
    return usage["difference"], days, {hour["start"][11:13]: hour["difference"] for hour in opened["hours"] if hour["difference"]}


async def test_a_window_that_somebody_altered_is_named_at_every_level(door: httpx.AsyncClient, collector: CollectorStandIn) -> None:
    assert await differences(door) == (None, {}, {})
    collector.altered[MARCH + timedelta(days=3, hours=22)] = 7
    words = "in events, 50,{}00 in the total, 50,{}07 in the collector's window"
    assert await differences(door) == (
        "the events, windows and totals of 2027-03-04 do not agree",
        {"04": "50,500 " + words.format(5, 5)},
        {"22": "50,000 " + words.format(0, 0)},
    )


async def test_a_window_out_of_nothing_is_named(door: httpx.AsyncClient, collector: CollectorStandIn) -> None:
    collector.add(MARCH + timedelta(days=3, hours=5), 0, outcome="filtered", reason="failed", meter_id="")
    collector.altered[MARCH + timedelta(days=3, hours=5)] = 9
    _, days, hours = await differences(door)
    assert days == {"04": "50,500 in events, 50,500 in the total, 50,509 in the collector's window"}
    assert hours == {"05": "0 in events, 0 in the total, 9 in the collector's window"}


async def test_a_total_that_somebody_altered_is_named_at_every_level(
    door: httpx.AsyncClient, pool: asyncpg.Pool, collector: CollectorStandIn
) -> None:
    await pool.execute("update usage_window set total = total - 3 where hour = $1", MARCH + timedelta(days=3, hours=22))
    usage, days, hours = await differences(door)
    assert usage is not None
    assert usage.startswith("Stripe billed 110,500, Turnpike counted 110,497")
    assert days == {"04": "50,500 in events, 50,497 in the total, 50,500 in the collector's window"}
    assert hours == {"22": "50,000 in events, 49,997 in the total, 50,000 in the collector's window"}
    collector.complete_until = MARCH + timedelta(days=3, hours=22)  # what could not be read in time is not called a difference
    collector.events = [event for event in collector.events if event["at"] < collector.complete_until]
    collector.altered = {MARCH + timedelta(days=3, hours=22): 49_997, MARCH + timedelta(days=3, hours=23): 500}
    assert (await differences(door))[1:] == ({}, {})


async def rows(door: httpx.AsyncClient, level: str) -> list[dict[str, str]]:
    answer = await door.get("/v1/explanations/in_1/csv", params={"level": level})
    assert answer.headers["content-type"].startswith("text/csv")
    return list(csv.DictReader(io.StringIO(answer.text)))


async def test_the_csv_holds_all_that_counted_and_all_that_did_not(door: httpx.AsyncClient) -> None:
    by_endpoint, by_event = await rows(door, "endpoints"), await rows(door, "events")
    assert len(by_event) == 8
    for found in (by_endpoint, by_event):
        assert sum(int(row["quantity"]) for row in found) == 110_500
        assert sum(int(row["events"]) for row in found) == 8
        assert {row["reason"] for row in found if row["outcome"] != "counted"} == {"failed", "deleted"}
    assert {row["template"] for row in by_endpoint} >= {"'=SUM(A1)", "/orders"}
    assert {row["event_id"] for row in by_event} == {f"e{n}" for n in range(8)}


# --- whatever was used ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    product_id=st.sampled_from(["payg", "developer", "standard", "pro", "enterprise"]),
    hours=st.dictionaries(st.integers(0, 743), st.integers(0, 900_000), max_size=12),
)
def test_days_and_hours_add_up_to_the_lines_quantity_and_amount(product_id: str, hours: dict[int, int]) -> None:
    total = sum(hours.values())
    lines = tuple(
        Line(
            line.line_id, line.description, line.amount_minor, line.quantity, line.period_start, line.period_end, line.proration,
            line.component or (line.price_id or "").removeprefix(f"price_{product_id}_"), product_id, None,
        )
        for line in rated_lines(product_id, total)
    )  # fmt: skip
    found = Invoice("in_1", "s-1", "a-1", None, "paid", "subscription_cycle", "usd", 0, MARCH, APRIL, APRIL, None, lines)
    counted = [
        HourOfMeter("calls", product_id, 1, MARCH, MARCH + timedelta(hours=n), MARCH + timedelta(hours=n), quantity)
        for n, quantity in sorted(hours.items())
    ]
    catalogues = {product_id: CATALOGUE}
    groups = explanation.groups_of(found, catalogues)
    tree = explanation.explain(found, groups, counted, catalogues)
    for group, usage in zip(groups, tree.usage, strict=True):
        assert (usage.difference, usage.quantity, usage.counted) == (None, total, total)
        assert sum(day.amount_minor or 0 for day in usage.days) == usage.amount_minor
        parts = explanation.stretches((hour.hour, hour.quantity) for hour in counted)
        assert sum(hour.amount_minor or 0 for hour in explanation.priced_stretches(group, parts, CATALOGUE, "usd")) == usage.amount_minor


def test_every_reason_of_the_collector_has_words() -> None:
    """The collector's README names them all."""
    text = (Path(__file__).parents[2] / "usage_collector" / "README.md").read_text()
    outcomes = text[text.index("**Outcomes.**") : text.index("or *held* (")]
    named = {word.strip("`") for word in outcomes.replace(",", " ").replace("(", " ").replace(")", " ").split() if word.startswith("`")}
    assert len(named) > 10
    assert named <= set(WORDS)


def test_the_tables_are_emptied_between_tests() -> None:
    assert {"invoice", "invoice_line", "stripe_price"} <= set(TABLES.replace(" ", "").split(","))
