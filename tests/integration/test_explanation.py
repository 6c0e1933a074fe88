"""An invoice with several meters is explained to the cent down to event ids, on the running stack."""

import csv
import json
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from by_hand import told, turnpike
from whole_system import Customer, World, eventually

from turnpike_cli.story.people import KEY_HEADER

pytestmark = pytest.mark.timeout(300)
METERS = {
    "work": {
        "name": "Work units",
        "unit": "unit",
        "weights": [{"method": "POST", "weight": 10}, {"template": "/orders/{id}", "weight": 3}],
    },
    "changes": {"name": "Changes", "unit": "change", "counts": {"methods": ["POST"]}},
}
PRODUCT: dict[str, Any] = {
    "id": "explained", "name": "Explained", "description": "A fee, calls beyond 20, work in tiers, and changes.", "model": "Hybrid",
    "apis": ["orders"], "operations": {"orders": ["list-orders", "create-order", "get-order"]},
    "price": {
        "base": "9",
        "usage": [
            {"meter": "calls", "included": 20, "amount": "0.07"},
            {"meter": "work", "tiers": [{"up_to": 100, "amount": "0.01"}, {"up_to": None, "amount": "0.005"}]},
            {"meter": "changes", "amount": "0.35"},
        ],
    },
}  # fmt: skip
LIST, CREATE, GET = ("GET", "/orders", 200), ("POST", "/orders", 201), ("GET", "/orders/{id}", 200)
WORTH = {LIST: {"calls": 1, "work": 1}, CREATE: {"calls": 1, "work": 10, "changes": 1}, GET: {"calls": 1, "work": 3}}
ADJUSTED = ("", "", 0)
Endpoint = tuple[str, str, int]
Place = tuple[str, str, Endpoint]  # meter, hour, endpoint


@pytest.fixture(scope="module")
async def shop(world: World) -> World:
    """The stack, with the plan of this file on sale."""
    document = await world.catalogue()
    document["meters"] |= METERS
    document["products"].append(PRODUCT)
    await world.doors.ask("checkout", "POST", "/v1/catalogue/apply", body=document)
    await world.clock.settle()
    return world


async def calls(world: World, customer: Customer, method: str, path: str, count: int) -> set[int]:
    headers, body = {KEY_HEADER: customer.person.key}, {"item": "tea"} if method == "POST" else None
    answers = [await world.http.request(method, f"{world.places.gateway}{path}", headers=headers, json=body) for _ in range(count)]
    return {answer.status_code for answer in answers}


async def recorded(world: World, customer: Customer) -> list[dict[str, Any]]:
    """Return what the gateway itself wrote of a customer's calls: the truth that the explanation is held against."""
    values = [record.value for record in await world.records("gateway.calls")]  # other tests write there what is no call at all
    records = [json.loads(value) for value in values if customer.subscription_id.encode() in (value or b"")]
    return [one for one in records if one["sid"] == customer.subscription_id]


async def write(world: World, record: dict[str, Any]) -> None:
    await world.publish("gateway.calls", json.dumps(record).encode(), key=record["sid"].encode())


async def a_month_with_everything(world: World, customer: Customer) -> tuple[str, str]:
    """Call on two days: what counts, fails and is refused; repeat one, delete one, adjust one meter. Returns deleted id, adjusted hour."""
    assert await calls(world, customer, "GET", "/orders", 8) == {200}
    assert await calls(world, customer, "POST", "/orders", 3) == {201}
    assert await calls(world, customer, "GET", "/orders/unknown", 2) == {404}
    assert await calls(world, customer, "DELETE", "/orders/7", 2) == {403}
    await world.clock.settle()
    repeated, deleted = [one for one in await recorded(world, customer) if one["method"] == "GET" and one["status"] == 200][:2]
    await write(world, repeated)
    who = (customer.subscription_id, "--reason", "agreed", "--by", "Ada")
    await turnpike(world, "usage", "delete", *who, "--source", "apim", "--id", deleted["id"], "--day", deleted["time"][:10])
    await turnpike(world, "usage", "adjust", *who, "--meter", "work", "--quantity", "19", "--at", repeated["time"])
    await world.clock.advance_by(timedelta(days=1))
    assert await calls(world, customer, "GET", "/orders", 12) == {200}
    assert await calls(world, customer, "POST", "/orders", 2) == {201}
    await world.clock.advance_by(timedelta(hours=2))
    assert await calls(world, customer, "GET", "/orders/7", 2) == {200}
    assert await calls(world, customer, "POST", "/orders", 1) == {201}
    return deleted["id"], hour_of(repeated)


def hour_of(record: dict[str, Any]) -> str:
    return f"{datetime.fromisoformat(record['time']):%Y-%m-%dT%H}"


def expected(records: list[dict[str, Any]], deleted: str, adjusted_hour: str) -> Counter[Place]:
    """Add up by hand what counts."""
    sums: Counter[Place] = Counter({("work", adjusted_hour, ADJUSTED): 19})
    for record in {one["id"]: one for one in records}.values():
        endpoint = record["method"], record["template"], record["status"]
        if record["id"] != deleted:
            sums.update({(meter, hour_of(record), endpoint): worth for meter, worth in WORTH.get(endpoint, {}).items()})
    return sums


async def opened(world: World, number: str, usage: dict[str, Any]) -> tuple[Counter[Place], Counter[str]]:
    """Open every day of a usage, hold each level against the one above, and return its endpoints and what did not count."""
    sums: Counter[Place] = Counter()
    rest: Counter[str] = Counter()
    for day in usage["days"]:
        found = (await told(world, "explain", number, "--meter", usage["meter_id"], "--day", day["start"][:10]))["day"]
        assert (found["quantity"], day["difference"]) == (day["quantity"], None)
        assert sum(hour["quantity"] for hour in found["hours"]) == day["quantity"]
        assert sum(hour["amount_minor"] for hour in found["hours"]) == day["amount_minor"]
        assert sum(one["events"] for hour in found["hours"] for one in hour["not_counted"]) == day["not_counted"]
        for hour in found["hours"]:
            assert hour["difference"] is None
            assert sum(one["quantity"] for one in hour["endpoints"]) == hour["quantity"]
            for one in hour["endpoints"]:
                sums[usage["meter_id"], hour["start"][:13], (one["method"], one["template"], one["status"])] += one["quantity"]
            rest.update({one["reason"]: one["events"] for one in hour["not_counted"]})
    assert rest == {one["reason"]: one["events"] for one in usage["not_counted"]}
    return sums, rest


async def events(world: World, number: str, meter: str, hours: set[str]) -> dict[str, int]:
    """Return event id -> what it counted for a meter, of some hours."""
    found: dict[str, int] = {}
    for hour in hours:
        answer = await told(world, "explain", number, "--meter", meter, "--hour", f"{hour}:00")
        found |= {one["id"]: one["counted"] for one in answer["events"] if one["outcome"] == "counted" and not one["reason"]}
    return found


async def downloaded(world: World, number: str, level: str, folder: Path) -> list[dict[str, str]]:
    file = folder / f"{level}.csv"
    await turnpike(world, "explain", number, "--csv", str(file), "--level", level)
    return list(csv.DictReader(file.read_text().splitlines()))


def counted_rows(rows: list[dict[str, str]]) -> Counter[Place]:
    sums: Counter[Place] = Counter()
    for row in rows:
        if not row["reason"]:  # rows with a reason are not in the invoice's lines
            endpoint = row["method"], row["template"], int(row["status"] or 0)
            sums[row["meter"], row["hour"][:13], endpoint] += int(row["quantity"])
    return sums


async def the_events_and_the_files_say_the_same(
    world: World, number: str, truth: Counter[Place], records: Iterable[dict[str, Any]], folder: Path
) -> None:
    """Hold single events and both files against what the gateway wrote; `records` are those that count."""
    by_endpoint, by_event = [await downloaded(world, number, level, folder) for level in ("endpoints", "events")]
    for rows in (by_endpoint, by_event):
        assert counted_rows(rows) == truth
        reasons = [row for row in rows if row["reason"] and row["reason"] != "late_billed"]
        assert sum((Counter({row["reason"]: int(row["events"])}) for row in reasons), Counter()) == {
            "failed": 2,
            "blocked": 2,
            "deleted": 1,
        }
        late = {row["meter"]: int(row["quantity"]) for row in rows if row["reason"] == "late_billed"}
        assert late == {"calls": 1, "work": 10, "changes": 1}
    own = {one["id"]: (one["method"], one["template"], one["status"]) for one in records}
    for meter in ("calls", *METERS):
        worth = {name: WORTH[endpoint].get(meter, 0) for name, endpoint in own.items()}
        found = await events(world, number, meter, {hour for _, hour, _ in truth})
        assert {name: quantity for name, quantity in found.items() if name in own} == worth
        assert [quantity for name, quantity in found.items() if name not in own] == [19 if meter == "work" else 0]
        in_file = {row["event_id"]: int(row["quantity"]) for row in by_event if row["meter"] == meter and not row["reason"]}
        assert in_file == {name: quantity for name, quantity in found.items() if quantity}


async def what_came_late_stands_on_the_next_invoice(world: World, customer: Customer) -> None:
    await world.end_the_month()
    invoice = (await world.stripe.invoices(customer.stripe_id))[0]
    tree = await told(world, "explain", invoice.number)
    (line,) = [line for line in tree["lines"] if line["kind"] == "correction"]
    # 29 calls, 115 units of work, 7 changes: 7 more cents, 5 (100 + 7.5 rounded up, after 100 + 2.5 rounded up) and 35
    assert line["amount_minor"] == 47
    correction = tree["corrections"][line["correction_id"]]
    assert correction["amounts"] == {"calls": 1, "work": 10, "changes": 1}
    assert (correction["kind"], correction["reason"]) == ("late", "came after its period was closed")
    assert sum(line["amount_minor"] for line in tree["lines"]) == invoice.total == 947


async def late_usage(world: World, customer: Customer, record: dict[str, Any], end: datetime) -> None:
    """Write a call of a period that is closed, and wait until it was looked at."""
    await write(world, {**record, "id": str(uuid4()), "time": (end - timedelta(minutes=30)).isoformat()})
    params = {"subscription_id": customer.subscription_id}

    async def ask() -> Any:
        return await world.doors.ask("usage_collector", "GET", "/v1/late", params=params)

    await eventually("late usage to be looked at", ask, lambda found: len(found) == 1 and not found[0]["pending"])
    await world.clock.settle()


async def test_an_invoice_of_several_meters_is_explained_from_its_lines_to_its_events_to_the_cent(shop: World, tmp_path: Path) -> None:
    customer = await shop.join("explained")  # one call
    deleted, adjusted_hour = await a_month_with_everything(shop, customer)
    end = await shop.end_the_month()
    on_time = await recorded(shop, customer)
    await late_usage(shop, customer, next(one for one in on_time if one["status"] == 201), end)
    invoice = (await shop.stripe.invoices(customer.stripe_id))[0]
    tree = await told(shop, "explain", invoice.number)
    assert sum(line["amount_minor"] for line in tree["lines"]) == tree["total_minor"] == invoice.total
    assert {line["line_id"]: line["amount_minor"] for line in tree["lines"]} == {line.id: line.amount for line in invoice.lines.data}
    usage = {one["meter_id"]: one for one in tree["usage"]}
    # 28 calls, 20 included; 105 units of work: 100 at 1 cent and 5 at half of one; 6 changes at 35 cents
    assert {meter: (one["quantity"], one["amount_minor"]) for meter, one in usage.items()} == {
        "calls": (28, 56), "work": (105, 103), "changes": (6, 210),
    }  # fmt: skip
    truth, found = expected(on_time, deleted, adjusted_hour), Counter[Place]()
    for meter, one in usage.items():
        by_line = [line["amount_minor"] for line in tree["lines"] if line["line_id"] in one["line_ids"]]
        assert sum(by_line) == one["amount_minor"] == one["rated_minor"] == sum(day["amount_minor"] for day in one["days"])
        assert (one["counted"], one["difference"], len(one["days"])) == (one["quantity"], None, 3)  # the third: what came late
        endpoints, rest = await opened(shop, invoice.number, one)
        assert rest == {"failed": 2, "blocked": 2, "deleted": 1, "late_billed": 1}, meter
        found += endpoints
    assert found == truth
    counting = [one for one in on_time if one["status"] < 300 and one["id"] != deleted]
    await the_events_and_the_files_say_the_same(shop, invoice.number, truth, counting, tmp_path)
    await what_came_late_stands_on_the_next_invoice(shop, customer)
