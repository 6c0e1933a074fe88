"""A number that somebody altered in Postgres: before the close it keeps the period open, after it the explanation names it."""

from dataclasses import dataclass
from datetime import timedelta

import pytest
from by_hand import alter, told, turnpike
from whole_system import AFTER_MIDNIGHT, World

from turnpike_cli.clock import BusinessTime
from turnpike_cli.errors import CommandError

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Alteration:
    """A number that somebody changed by hand, and what the day's events, total and window are then, beside what was called."""

    service: str
    table: str
    column: str
    key: str
    differences: tuple[int, int, int]

    def sql(self, amount: int) -> str:
        """Change the first hour of a subscription."""
        return (
            f"update {self.table} set {self.column} = {self.column} + ({amount}) where ctid = (select t.ctid from {self.table} t "
            f"where {self.key} and t.{self.column} > 0 order by t.hour limit 1)"
        )


OF_SEGMENT = "t.segment_id in (select id from segment where subscription_id = $1)"
ALTERATIONS = (
    Alteration("usage_collector", "usage_window", "quantity", OF_SEGMENT, (0, 0, 7)),
    Alteration("stripe_reporter", "usage_window", "total", "t.subscription_id = $1", (0, 7, 0)),
    Alteration("usage_collector", "usage_rollup", "quantity", OF_SEGMENT, (7, 0, 0)),
)


async def test_a_number_that_somebody_altered_after_the_close_is_named_and_not_explained_away(world: World) -> None:
    now = await world.clock.now()
    await world.clock.advance_to(now.replace(minute=1) + timedelta(hours=1))  # so that all calls are in one hour
    customer = await world.join("payg")
    await customer.person.call_many(world.http, 30)
    await world.end_the_month()
    called = customer.person.calls[200]
    invoice = (await world.stripe.invoices(customer.stripe_id))[0]
    for one in ALTERATIONS:
        await alter(world, one.service, one.sql(7), customer)
        tree = await told(world, "explain", invoice.number)
        (usage,) = tree["usage"]
        (day,) = usage["days"]
        assert (tree["total_minor"], usage["quantity"]) == (invoice.total, called)  # the bill is what it is
        assert usage["difference"], one
        events, total, window = (called + more for more in one.differences)
        words = f"{events} in events, {total} in the total" + (f", {window} in the collector's window" if window != total else "")
        assert day["difference"] == words
        opened = (await told(world, "explain", invoice.number, "--day", day["start"][:10]))["day"]
        assert [hour["difference"] for hour in opened["hours"] if hour["difference"]] == [words]
        text = await turnpike(world, "explain", invoice.number)
        assert f"! {words}" in text
        await alter(world, one.service, one.sql(-7), customer)
    (usage,) = (await told(world, "explain", invoice.number))["usage"]
    assert (usage["difference"], [day["difference"] for day in usage["days"]]) == (None, [None])


async def test_a_window_altered_before_the_close_keeps_its_month_open_until_it_is_put_back(world: World) -> None:
    customer = await world.join("payg")
    await customer.person.call_many(world.http, 30)
    called = customer.person.calls[200]
    await world.clock.settle()
    await world.clock.advance_by(timedelta(hours=2))
    altered = ALTERATIONS[0]
    await alter(world, altered.service, altered.sql(7), customer)
    end = await world.next_month()
    with pytest.raises(CommandError, match=f"calls: {called + 7} counted at the close, {called} in windows"):
        await BusinessTime(world.doors, settle_seconds=4).advance_to(end + timedelta(minutes=1))
    repair = ("reconcile", "--subscription", customer.subscription_id, "--repair")
    refused = await turnpike(world, *repair, code=2)
    assert "put them right first" in refused, "nobody can say which number is right"
    await alter(world, altered.service, altered.sql(-7), customer)
    assert "the collector says its total again" in await turnpike(world, *repair, code=0)
    await world.clock.settle()
    await world.clock.advance_to(end + AFTER_MIDNIGHT)
    invoice = (await world.stripe.invoices(customer.stripe_id))[0]
    (usage,) = (await told(world, "explain", invoice.number))["usage"]
    assert (usage["quantity"], usage["difference"]) == (called, None)
