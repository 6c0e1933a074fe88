"""Changes of plan on the running stack: an upgrade in mid-month, a downgrade with the period, a migration to new prices."""

import json
from collections.abc import Mapping
from copy import deepcopy
from datetime import datetime
from typing import Any

import pytest
from whole_system import AFTER_MIDNIGHT, Customer, World, eventually

from billing_common.catalogue import Catalogue
from billing_common.rating import Facts, Period, period_at, rate
from embedded_servers import places
from turnpike_cli.catalogue_commands import MODELS_FILE

pytestmark = pytest.mark.timeout(420)


def models() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((places.checkout() / MODELS_FILE).read_text())
    return found


async def product_at_stripe(world: World, customer: Customer) -> str:
    found = await world.stripe.client.v1.subscriptions.retrieve_async(customer.stripe_id)
    return str((found.metadata or {}).turnpike_product_id)  # type: ignore[union-attr]


async def segments(world: World, customer: Customer, period: Period) -> list[dict[str, Any]]:
    """Return the collector's segments of a period with their own totals."""
    params = {"from": period.start.isoformat(), "to": period.end.isoformat()}
    answer = await world.doors.ask("usage_collector", "GET", f"/v1/usage/{customer.subscription_id}", params=params)
    totals: Mapping[str, int] = {}
    for entry in answer["usage"]:
        totals = {**totals, entry["segment_start"]: totals.get(entry["segment_start"], 0) + entry["quantity"]}
    return [{**segment, "calls": totals.get(segment["started_at"], 0)} for segment in answer["segments"]]


async def invoiced(world: World, customer: Customer, period: Period) -> int:
    """Return what all lines for service within a period add up to, whichever invoice they stand on."""
    return sum(line.amount_minor for line in await world.stripe.lines(customer.stripe_id, period.start, period.end))


def rated(document: dict[str, Any], product: str, calls: int, period: Period, facts: Facts) -> int:
    catalogue = Catalogue.from_document(document)
    return rate(catalogue, catalogue.product(product), period=period, usage={"calls": calls}, facts=facts).total_minor


async def take_away(world: World, customer: Customer, calls: int, at: datetime) -> None:
    """Correct usage as `turnpike usage adjust` does."""
    body = {
        "subscription_id": customer.subscription_id, "meter": "calls", "quantity": -calls, "at": at.isoformat(), "reason": "a load test",
        "by": "Ada",
    }  # fmt: skip
    await world.doors.ask("usage_collector", "POST", "/v1/corrections/adjustments", body=body)
    await world.clock.settle()


async def same_key_works(world: World, customer: Customer, key: str) -> None:
    await world.answers(customer, 200)
    page = await customer.person.browser.open(customer.person.page)
    shown = await customer.person.browser.submit(page, "", action="/key")
    assert key in "".join(shown.tree.text_content().split())


async def bill_so_far(world: World, customer: Customer) -> int:
    """Return what the command says that the running period costs, after checking that both pages say the same."""
    path = f"/v1/usage/{customer.subscription_id}/standing"
    total = int((await world.doors.ask("usage_collector", "GET", path))["bill"]["total_minor"])
    own = await customer.person.browser.open(customer.person.page)
    usage = await customer.person.browser.open(f"{customer.person.page}/usage")
    assert f"Total${total / 100:.2f}" in "".join(own.tree.text_content().split())
    assert f"Billsofar${total / 100:.2f}" in "".join(usage.tree.text_content().split())
    return total


async def reported_equals_counted(world: World, customer: Customer, period: Period, calls: int) -> None:
    params = {"subscription_id": customer.subscription_id, "from": period.start.isoformat(), "to": period.end.isoformat()}
    meters = (await world.doors.ask("stripe_reporter", "GET", "/v1/reconciliation", params=params))["meters"]
    billed = [meter for meter in meters if meter["event_name"] is not None]
    assert sum(meter["acknowledged"] for meter in billed) == calls, meters
    assert sum(meter["stripe"] for meter in billed) == calls, meters


async def test_an_upgrade_in_mid_month_is_paid_at_once_and_each_call_is_billed_by_its_plan(world: World) -> None:
    customer = await world.join("payg")
    key, called_at = customer.person.key, await world.clock.now()
    await customer.person.call_many(world.http, 60)
    await world.clock.settle()
    await world.change_plan(customer, "standard", "now")
    await eventually("the new plan at Stripe", lambda: product_at_stripe(world, customer), lambda found: found == "standard")
    await customer.person.call_many(world.http, 40)
    await same_key_works(world, customer, key)
    await world.clock.settle()
    period = period_at(Catalogue.from_document(models()).product("standard"), started_at=customer.start, at=customer.start)
    old, new = await segments(world, customer, period)
    answered = customer.person.calls[200]
    assert (old["product_id"], old["reason"], new["product_id"]) == ("payg", "change", "standard")
    assert old["calls"] + new["calls"] == answered
    assert old["ended_at"] == new["started_at"]
    await reported_equals_counted(world, customer, period, old["calls"])  # the new plan's hour is not over
    await take_away(world, customer, 20, called_at)  # under the old plan, which has been billed
    end = await world.end_the_month()
    await reported_equals_counted(world, customer, period, answered)
    since = datetime.fromisoformat((await world.stripe.subscription(customer.subscription_id)).metadata.turnpike_plan_since)
    ended = Facts(started_at=customer.start, ended_at=since, end_reason="change")
    expected = rated(models(), "payg", old["calls"] - 20, period, ended)
    expected += rated(models(), "standard", new["calls"], period, Facts(started_at=since))
    assert period.end == end
    assert await invoiced(world, customer, period) == expected
    assert [access for _, access, _ in await world.access(customer)] == ["granted", "granted"]


async def test_a_downgrade_with_the_period_leaves_each_period_wholly_on_its_plan(world: World) -> None:
    customer = await world.join("pro")
    key = customer.person.key
    await customer.person.call_many(world.http, 30)
    await world.change_plan(customer, "standard", "period_end")
    page = await eventually(
        "the planned change on the page",
        lambda: customer.person.browser.open(customer.person.page),
        lambda page: page.has("Changes to Standard on"),
    )
    assert page.has("Keep Pro")
    end = await world.end_the_month()
    assert await product_at_stripe(world, customer) == "standard"
    before = customer.person.calls[200]
    await customer.person.call_many(world.http, 20)
    await same_key_works(world, customer, key)
    counted = await world.check_period(customer, customer.start, end, sent=before)
    assert counted["calls"] == before
    await world.end_the_month()
    standard = Catalogue.from_document(models()).product("standard")
    period = period_at(standard, started_at=end, at=end)
    assert await invoiced(world, customer, period) == rated(
        models(), "standard", customer.person.calls[200] - before, period, Facts(started_at=end)
    )
    assert (await world.stripe.client.v1.subscriptions.retrieve_async(customer.stripe_id)).schedule is None


def with_standard_at(base: str, sold: dict[str, Any]) -> dict[str, Any]:
    document = deepcopy(sold)
    next(one for one in document["products"] if one["id"] == "standard")["price"]["base"] = base
    return document


async def migrate(world: World, customer: Customer, document: dict[str, Any], when: str) -> None:
    """Do what `turnpike catalogue apply --migrate` does at checkout's doors: show who would move, apply, move."""
    body = {"text": json.dumps(document)}
    planned = await world.doors.ask("checkout", "POST", "/v1/migrations/plan", body=body, params={"when": when})
    assert customer.subscription_id in {move["subscription_id"] for move in planned["moves"]}
    await world.doors.ask("checkout", "POST", "/v1/catalogue/apply", body=document)
    await world.doors.ask("checkout", "POST", "/v1/migrations", params={"when": when})
    await world.clock.settle()


async def test_subscribers_move_to_new_prices_with_the_next_period_and_at_once(world: World) -> None:
    customer = await world.join("standard")
    key = customer.person.key
    await customer.person.call_many(world.http, 25)
    sold = await world.catalogue()
    dearer, cheaper = with_standard_at("99.95", sold), with_standard_at("79.95", sold)
    try:
        await migrate(world, customer, dearer, "next-period")
        before = customer.person.calls[200]
        end = await world.next_month()
        await world.clock.advance_to(end + AFTER_MIDNIGHT)
        await customer.person.call_many(world.http, 15)
        await same_key_works(world, customer, key)
        first = period_at(Catalogue.from_document(models()).product("standard"), started_at=customer.start, at=customer.start)
        assert await invoiced(world, customer, first) == rated(models(), "standard", before, first, Facts(started_at=customer.start))
        await world.clock.settle()
        await migrate(world, customer, cheaper, "now")
        await customer.person.call_many(world.http, 10)
        await same_key_works(world, customer, key)
        await world.clock.settle()
        shown = await bill_so_far(world, customer)
        await world.end_the_month()
        second = period_at(Catalogue.from_document(dearer).product("standard"), started_at=end, at=end)
        old, new = await segments(world, customer, second)
        assert old["calls"] + new["calls"] == customer.person.calls[200] - before
        await reported_equals_counted(world, customer, second, old["calls"] + new["calls"])
        since = datetime.fromisoformat((await world.stripe.subscription(customer.subscription_id)).metadata.turnpike_plan_since)
        ended = Facts(started_at=end, ended_at=since, end_reason="change")
        expected = rated(dearer, "standard", old["calls"], second, ended)
        expected += rated(cheaper, "standard", new["calls"], second, Facts(started_at=since))
        assert await invoiced(world, customer, second) == expected == shown
        rows = (await world.doors.ask("checkout", "GET", "/v1/migrations"))["migrations"]
        assert {row["state"] for row in rows if row["subscription_id"] == customer.subscription_id} == {"done"}
    finally:
        await world.doors.ask("checkout", "POST", "/v1/catalogue/apply", body=sold)
        await world.clock.settle()


async def test_who_changes_the_plan_himself_is_not_moved_to_new_prices_and_who_takes_it_back_is(world: World) -> None:
    leaver, stayer = await world.join("standard"), await world.join("standard")
    keys = [customer.person.key for customer in (leaver, stayer)]
    sold = await world.catalogue()
    dearer = with_standard_at("99.95", sold)
    try:
        await migrate(world, leaver, dearer, "next-period")
        for customer in (leaver, stayer):
            page = await customer.person.browser.open(customer.person.page)
            assert page.has("New prices from")
        await world.change_plan(leaver, "pro", "now")
        await eventually("the own plan at Stripe", lambda: product_at_stripe(world, leaver), lambda found: found == "pro")
        await world.change_plan(stayer, "pro", "period_end")
        page = await eventually(
            "the own change on the page",
            lambda: stayer.person.browser.open(stayer.person.page),
            lambda page: page.has("Changes to Pro on"),
        )
        await stayer.person.browser.submit(page, "", action="/change/withdraw")
        await eventually(
            "the new prices on the page again",
            lambda: stayer.person.browser.open(stayer.person.page),
            lambda page: page.has("New prices from"),
        )
        await world.clock.settle()
        end = await world.end_the_month()
        assert [await product_at_stripe(world, customer) for customer in (leaver, stayer)] == ["pro", "standard"]
        period = period_at(Catalogue.from_document(models()).product("standard"), started_at=end, at=end)
        whole = Facts(started_at=end)
        for customer, key in zip((leaver, stayer), keys, strict=True):
            await same_key_works(world, customer, key)
        assert await invoiced(world, leaver, period) == rated(dearer, "pro", 0, period, whole)
        assert await invoiced(world, stayer, period) == rated(dearer, "standard", 0, period, whole)
        rows = (await world.doors.ask("checkout", "GET", "/v1/migrations"))["migrations"]
        found = sorted((row["subscription_id"], row["state"], row["reason"]) for row in rows)
        assert [one[1:] for one in found if one[0] == leaver.subscription_id] == [("withdrawn", "replaced")]
        assert [one[1:] for one in found if one[0] == stayer.subscription_id] == [("done", None), ("withdrawn", "replaced")]
    finally:
        await world.doors.ask("checkout", "POST", "/v1/catalogue/apply", body=sold)
        await world.clock.settle()
