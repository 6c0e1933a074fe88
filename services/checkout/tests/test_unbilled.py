"""Usage that a final invoice does not bill: the difference by the invoice's own price, billed, waived or kept as the plan says, once."""

import asyncio
from collections.abc import Awaitable, Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from billing_common.catalogue import Catalogue
from billing_common.events import Event, InvalidEventError, UsageUnbilled, derive_id
from checkout import charging, correction_store, store_catalogue
from checkout.handlers import NotKnownYetError
from checkout.store_catalogue import Version

from .conftest import FILE
from .test_corrections import END, START, AtStripe, at_stripe, charges, corrected, sold

__all__ = ["at_stripe"]  # a fixture
Publish = Callable[[Event], Awaitable[None]]
AFTER = END + timedelta(hours=2)


def missing(billed: int, counted: int, *, product: str = "payg", component: str = "usage:calls", **fields: Any) -> UsageUnbilled:
    values: dict[str, Any] = {
        "cause_id": f"{billed}-{counted}",
        "occurred_at": AFTER,
        "unbilled_id": derive_id("test", product, str(billed)),
        "subscription_id": "s-1",
        "account_id": "a-1",
        "invoice_id": "in_1",
        "invoice_number": "ABC-0001",
        "product_id": product,
        "catalogue_version": 1,
        "meter_id": "calls",
        "component": component,
        "period_start": START,
        "period_end": END,
        "billed": billed,
        "counted": counted,
    }
    return UsageUnbilled(**values | fields)


async def version_with(pool: asyncpg.Pool, *, trial_days: int = 0, **of_payg: Any) -> None:
    """Keep a second version in which Pay-as-you-go is sold otherwise."""
    document = deepcopy(Catalogue.parse(FILE.read_text()).document())
    (payg,) = [product for product in document["products"] if product["id"] == "payg"]
    if trial_days:
        payg |= {"trial_days": trial_days, "billing_anchor": "anniversary"}
    for name, part in of_payg.items():
        payg[name] = payg.get(name, {}) | part
    async with pool.acquire() as connection:
        await store_catalogue.add(connection, Version(2, document, {}, [], "test", datetime.now(UTC)))


@pytest.mark.parametrize(
    ("product", "component", "billed", "counted", "amount"),
    [
        ("payg", "usage:calls", 9_000, 10_000, 150),
        ("payg", "usage:calls", 0, 10_000, 1_500),
        ("standard", "usage:calls", 90_000, 100_000, 0),  # within what is included
        ("standard", "usage:calls", 99_500, 100_500, 50),
        ("enterprise", "unit", 1_500_000, 1_500_001, 74_995),
        ("enterprise", "unit", 1, 1_500_000, 0),  # the same package
        ("enterprise", "unit", 0, 1, 74_995),  # that at least one is charged stands on a line of its own
    ],
)
async def test_what_is_missing_costs_what_the_invoice_would_say_more_and_is_charged_once(
    known: None, pool: asyncpg.Pool, publish: Publish, product: str, component: str, billed: int, counted: int, amount: int
) -> None:
    await sold(pool, publish, product)
    event = missing(billed, counted, product=product, component=component)
    await publish(event)
    await publish(event)
    assert await charges(pool) == [(amount, "pending" if amount else "done")]
    assert await pool.fetchval("select count(*) from intent") == (1 if amount else 0)
    assert await correction_store.kept(pool) == 0


@pytest.mark.parametrize(("price", "amount"), [({"minimum": "40.00"}, 150), ({"maximum": "10.00"}, 150)])
async def test_lines_that_were_made_from_all_usage_are_not_made_again(
    known: None, pool: asyncpg.Pool, publish: Publish, price: dict[str, str], amount: int
) -> None:
    """The month's own minimum, or maximum, was made from 10,000 calls: with these 1.50 it comes out as the plan says."""
    await version_with(pool, price=price)
    await sold(pool, publish)
    await publish(missing(9_000, 10_000, catalogue_version=2))
    assert [found for found, _ in await charges(pool)] == [amount]


@pytest.mark.parametrize(("period_end", "amount"), [(START + timedelta(days=14), 0), (START + timedelta(days=15), 150)])
async def test_free_days_stay_free(known: None, pool: asyncpg.Pool, publish: Publish, period_end: datetime, amount: int) -> None:
    await version_with(pool, trial_days=14, policies={"late_usage": "hold"} if not amount else {})
    await sold(pool, publish)
    await publish(missing(9_000, 10_000, catalogue_version=2, period_end=period_end))
    assert [found for found, _ in await charges(pool)] == [amount]


async def test_a_later_correction_of_the_period_does_not_count_it(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    """The correction is of the settled totals, with or without what the invoice lacks; and the other way round."""
    await sold(pool, publish, "standard")
    middle = START + timedelta(days=10)
    add = "insert into settled_segment values ('s-1', $1, $2, $3)"
    await pool.execute(add, START, middle, '{"calls": 60000}')
    await pool.execute(add, middle, END, '{"calls": 60000}')
    await publish(missing(110_000, 120_000, product="standard"))
    await publish(corrected(60_000, 50_000, product="standard", segment_start=middle))
    assert [amount for amount, _ in await charges(pool)] == [1_000, -1_000]


async def test_more_that_is_found_later_is_one_more_charge(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await sold(pool, publish)
    await publish(missing(8_000, 9_000))
    await publish(missing(9_000, 10_000))
    assert [amount for amount, _ in await charges(pool)] == [150, 150]


async def test_it_waits_for_its_subscription_and_its_catalogue_and_leaves_no_trace(
    known: None, pool: asyncpg.Pool, publish: Publish
) -> None:
    with pytest.raises(NotKnownYetError):
        await publish(missing(9_000, 10_000, occurred_at=datetime.now(UTC)))
    await sold(pool, publish)
    event = missing(9_000, 10_000, catalogue_version=2)
    with pytest.raises(NotKnownYetError):
        await publish(event)
    assert await pool.fetchval("select count(*) from correction_charge") == 0
    await version_with(pool)
    await publish(event)
    assert [amount for amount, _ in await charges(pool)] == [150]


@pytest.mark.parametrize("fields", [{"product": "gone"}, {"counted": -1}, {"meter_id": "bytes"}])
async def test_what_can_never_be_priced_is_a_dead_letter_and_stops_nobody(
    known: None, pool: asyncpg.Pool, publish: Publish, fields: dict[str, Any]
) -> None:
    await sold(pool, publish)
    with pytest.raises(InvalidEventError):
        await publish(missing(**{"billed": 0, "counted": 10, **fields}))
    assert await pool.fetchval("select count(*) from correction_charge") == 0


async def test_an_amount_that_no_column_takes_is_a_dead_letter(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    dear = {"meter": "calls", "amount": "900.00"}
    await version_with(pool, price={"usage": [dear]})
    await sold(pool, publish)
    with pytest.raises(InvalidEventError, match="more than can be charged"):
        await publish(missing(0, 10**15, catalogue_version=2))
    assert await pool.fetchval("select count(*) from correction_charge") == 0


@pytest.mark.parametrize(("policy", "disposition", "kept"), [("waive", "waive", 0), ("hold", "keep", 1)])
async def test_a_plan_that_waives_or_holds_late_usage_charges_nothing(
    known: None, pool: asyncpg.Pool, publish: Publish, policy: str, disposition: str, kept: int
) -> None:
    await version_with(pool, policies={"late_usage": policy})
    await sold(pool, publish)
    await publish(missing(9_000, 10_000, catalogue_version=2))
    assert await charges(pool) == []  # no bill so far counts it
    assert await pool.fetchval("select count(*) from intent") == 0
    (found,) = await correction_store.unbilled(pool, "s-1", 10)
    assert (found["disposition"], found["amount_minor"]) == (disposition, 150)
    assert await correction_store.kept(pool) == kept


async def test_a_person_decides_once_about_what_is_kept(known: None, pool: asyncpg.Pool, publish: Publish, door: httpx.AsyncClient) -> None:
    await version_with(pool, policies={"late_usage": "hold"})
    await sold(pool, publish)
    for billed in (7_000, 8_000, 9_000):
        await publish(missing(billed, billed + 1_000, catalogue_version=2))
    third, second, first = (await door.get("/v1/unbilled", params={"subscription_id": "s-1"})).json()
    assert (first["of_invoice"], first["billed"], first["counted"], first["disposition"]) == ("ABC-0001", 7_000, 8_000, "keep")

    async def decide(one: dict[str, Any], disposition: str) -> int:
        body = {"unbilled_id": one["unbilled_id"], "disposition": disposition, "by": "Ann"}
        return (await door.post("/v1/unbilled/decisions", json=body)).status_code

    assert [await decide(first, "bill"), await decide(second, "waive"), await decide(second, "bill")] == [202, 202, 404]
    assert await decide({"unbilled_id": str(uuid4())}, "bill") == 404
    found = {one["unbilled_id"]: one for one in (await door.get("/v1/unbilled")).json()}
    assert [(found[one["unbilled_id"]]["disposition"], found[one["unbilled_id"]]["decided_by"]) for one in (first, second, third)] == [
        ("bill", "Ann"), ("waive", "Ann"), ("keep", None),
    ]  # fmt: skip
    assert await charges(pool) == [(150, "pending")]
    assert await pool.fetchval("select intent_id from intent") == derive_id("intent", "correction", first["unbilled_id"])
    assert await correction_store.kept(pool) == 1


async def test_the_gauge_shows_what_is_kept(known: None, pool: asyncpg.Pool, publish: Publish) -> None:
    await version_with(pool, policies={"late_usage": "hold"})
    await sold(pool, publish)
    await publish(missing(9_000, 10_000, catalogue_version=2))
    charging.KEPT.set(0)
    showing = asyncio.create_task(charging.show_kept(pool))
    async with asyncio.timeout(60):
        while charging.KEPT._value.get() != 1:
            await asyncio.sleep(0.01)
    showing.cancel()


# --- against the sandbox of Stripe ---------------------------------------------------------------------------------------------


async def announce(at_stripe: AtStripe, billed: int, counted: int) -> UUID:
    event = missing(billed, counted, catalogue_version=at_stripe.version, period_start=at_stripe.start, period_end=at_stripe.end)
    await at_stripe.publish(event)
    while await at_stripe.worker.drain():
        pass
    return event.unbilled_id


async def test_it_stands_on_the_next_invoice_with_a_line_that_names_the_one_that_lacks_it(at_stripe: AtStripe) -> None:
    await at_stripe.use(9_000)
    await at_stripe.advance(at_stripe.end + timedelta(hours=2))
    await at_stripe.use(1_000)  # into a period whose invoice is final: Stripe bills it on no invoice
    unbilled_id = await announce(at_stripe, 9_000, 10_000)
    await at_stripe.advance(at_stripe.end + timedelta(days=33))
    assert (await at_stripe.totals())[-2:] == [1_350, 150]
    newest = (await at_stripe.api.v1.invoices.list_async({"customer": at_stripe.customer, "limit": 1})).data[0]
    (line,) = [line for line in newest.lines.data if line.amount]
    assert line.description == "Usage not on invoice ABC-0001: +1,000 API calls"
    assert (line.metadata["turnpike_component"], line.metadata["turnpike_correction_id"]) == ("unbilled", str(unbilled_id))


async def test_after_the_end_it_has_an_invoice_of_its_own(at_stripe: AtStripe) -> None:
    await at_stripe.use(10_000)
    await at_stripe.api.v1.subscriptions.cancel_async(at_stripe.subscription, {"invoice_now": True, "prorate": False})
    await announce(at_stripe, 10_000, 14_000)
    assert (await at_stripe.totals())[-1] == 600
    ((placed, invoice_id),) = await at_stripe.placed()
    assert (placed, invoice_id is not None) == ("own_invoice", True)
