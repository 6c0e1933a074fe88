"""A backlog through the v2 stream of the sandbox's Stripe: sent by the hundred, believed only when a summary shows it, counted once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from pydantic import SecretStr

from billing_common.events import UsageRejected, UsageReported
from billing_common.stripe_client import client_of, create_client
from billing_common.testing import events_in_outbox
from stripe_reporter import ledger, store, stream_ledger, streaming
from stripe_reporter.domain import Kind, MeterEvent, hour_of, shown, stream_serves
from stripe_reporter.sender import Sender, wall_now
from stripe_reporter.settings import Settings
from stripe_reporter.stripe_gateway import StripeGateway

from .conftest import KEY

CUSTOMERS, HOURS = 3, 8
ROWS = CUSTOMERS * HOURS
EACH = 5
LAG = timedelta(seconds=900)
STREAM, SINGLE = "/v2/billing/meter_event_stream", "/v1/billing/meter_events"


@dataclass
class Backlog:
    """Customers with several hours that were never sent, and a replica that streams from so many rows on."""

    client: Any
    gateway: StripeGateway
    doors: httpx.AsyncClient
    make: Callable[[timedelta], Sender]
    customers: list[str]
    meter: str
    start: datetime
    pool: asyncpg.Pool

    async def round(self, later: timedelta = timedelta(0)) -> None:
        await self.make(later).round()

    async def at_stripe(self) -> list[int]:
        end = self.start + timedelta(hours=HOURS)
        asked = [self.gateway.sum(stripe_meter_id=self.meter, stripe_customer_id=one, start=self.start, end=end) for one in self.customers]
        return list(await asyncio.gather(*asked))

    async def fault(self, kind: str, path: str, **more: Any) -> None:
        body = {"kind": kind, "match": {"path_prefix": path}, **more}
        assert (await self.doors.post("/_sandbox/faults", json=body)).is_success

    async def hits(self, path: str) -> int:
        """Say how often a path was called since a fault of kind `delay` was set on it."""
        faults = (await self.doors.get("/_sandbox/faults")).json()["data"]
        return sum(fault["hits"] for fault in faults if fault["path_prefix"] == path and fault["kind"] == "delay")

    async def states(self) -> dict[str, int]:
        return {row["state"]: row["n"] for row in await self.pool.fetch("select state, count(*) as n from ledger group by 1")}


@pytest.fixture
async def backlog(sandbox: str, settings: Settings, pool: asyncpg.Pool, clock: Any, facts: Any) -> AsyncIterator[Backlog]:
    changes = {"stripe_api_base": sandbox, "stripe_api_key": SecretStr(KEY), "retry_max_seconds": 0.1, "stream_from_rows": ROWS}
    settings = settings.model_copy(update=changes)
    client, transport = create_client(settings)
    meter = await client.v1.billing.meters.create_async(
        {"display_name": "Calls", "event_name": "turnpike_payg_calls", "default_aggregation": {"formula": "sum"}}
    )
    start = hour_of(datetime.now(UTC)) - timedelta(hours=HOURS + 2)
    clock.instant = start + timedelta(hours=HOURS + 1)
    customers = [(await client.v1.customers.create_async({})).id for _ in range(CUSTOMERS)]
    async with pool.acquire() as connection:
        await store.put_meters(connection, 1, [("payg", "calls", meter.id, "turnpike_payg_calls")])
        for number, customer in enumerate(customers):
            await store.put_subscription(connection, facts.subscription(number, customer=customer))
            for hour in (start + timedelta(hours=n) for n in range(HOURS)):
                await store.put_window(connection, facts.usage(EACH, number=number, hour=hour), hour + timedelta(hours=1))
    gateway = StripeGateway(client, lambda token: client_of(settings, token, transport))

    def make(later: timedelta) -> Sender:
        sender = Sender(pool, gateway, clock, settings, wake=asyncio.Event(), progress=lambda _: None)
        sender.wall_now = lambda: wall_now() + later
        return sender

    async with httpx.AsyncClient(base_url=sandbox) as doors:
        yield Backlog(client, gateway, doors, make, customers, meter.id, start, pool)
    await transport.close_async()


async def test_a_backlog_is_streamed_and_acknowledged_when_the_summary_shows_it(backlog: Backlog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "EVENTS_A_CALL", 10)
    monkeypatch.setattr(ledger, "WINDOWS_AT_ONCE", 5)  # a backlog is larger than what is planned in one transaction
    for path in (STREAM, SINGLE):
        await backlog.fault("delay", path, seconds=0.001)
    await backlog.round()
    assert (await backlog.states(), await backlog.at_stripe()) == ({"sent": ROWS}, [EACH * HOURS] * CUSTOMERS)
    await backlog.round(LAG / 2)
    assert await backlog.states() == {"sent": ROWS}, "a summary may lag: nothing is believed before"
    await backlog.round(LAG * 1.1)
    assert await backlog.states() == {"acknowledged": ROWS}
    assert (await backlog.hits(STREAM), await backlog.hits(SINGLE)) == (3, 0)
    async with backlog.pool.acquire() as connection:
        assert len(await events_in_outbox(connection, UsageReported)) == ROWS


async def test_rows_beyond_one_portion_do_not_wait_for_the_summaries(backlog: Backlog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_ledger, "ROWS_AT_ONCE", ROWS // 2)
    await backlog.fault("delay", STREAM, seconds=0.001)
    await backlog.round()
    assert await backlog.states() == {"sent": ROWS // 2, "acknowledged": ROWS // 2}, "too few for the stream: they go by v1 at once"
    assert await backlog.at_stripe() == [EACH * HOURS] * CUSTOMERS
    await backlog.round(LAG * 1.1)
    assert (await backlog.states(), await backlog.at_stripe()) == ({"acknowledged": ROWS}, [EACH * HOURS] * CUSTOMERS)


async def test_a_backlog_of_many_portions_is_streamed_in_one_go(backlog: Backlog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_ledger, "ROWS_AT_ONCE", ROWS // 4)
    monkeypatch.setattr(streaming.domain, "stream_serves", lambda rows, lanes, *, from_rows: rows > 0)
    for path in (STREAM, SINGLE):
        await backlog.fault("delay", path, seconds=0.001)
    await backlog.round()
    assert (await backlog.states(), await backlog.at_stripe()) == ({"sent": ROWS}, [EACH * HOURS] * CUSTOMERS)
    assert (await backlog.hits(STREAM), await backlog.hits(SINGLE)) == (4, 0)
    waits = await backlog.pool.fetch("select retry_at - now() as wait from lane")
    assert all(LAG / 2 < row["wait"] <= LAG for row in waits)


async def test_lanes_with_rows_that_were_not_sent_are_free_at_once(backlog: Backlog, monkeypatch: pytest.MonkeyPatch) -> None:
    await backlog.make(timedelta(0))._plan()
    wall = wall_now()
    monkeypatch.setattr(stream_ledger, "ROWS_AT_ONCE", HOURS)
    streamer = backlog.make(timedelta(0))._streamer
    await streamer.round(wall)
    free = await backlog.pool.fetchval("select count(*) from lane l where retry_at <= $1 and exists (select 1 from ledger r where "
        "r.stripe_customer_id = l.stripe_customer_id and r.state = 'intent')", wall)  # fmt: skip
    waiting = await backlog.pool.fetchval("select count(distinct stripe_customer_id) from ledger where state = 'intent'")
    assert free == waiting > 0


async def test_what_the_summary_does_not_show_goes_by_v1_and_hears_why(backlog: Backlog) -> None:
    await backlog.client.v1.customers.delete_async(backlog.customers[0])
    await backlog.round()
    await backlog.round(LAG * 1.1)
    await backlog.round(LAG * 1.1)
    assert await backlog.states() == {"acknowledged": ROWS - HOURS, "rejected": HOURS}
    async with backlog.pool.acquire() as connection:
        rejected = await events_in_outbox(connection, UsageRejected)
    assert {one.code for one in rejected} == {"meter_event_customer_not_found"}
    assert len(rejected) == HOURS


@pytest.mark.parametrize("kind", ["drop", "drop_after_commit", "status"])
async def test_a_call_without_a_good_answer_is_repeated_by_v1_and_counted_once(backlog: Backlog, kind: str) -> None:
    await backlog.fault(kind, STREAM, times=1, **({"status": 500} if kind == "status" else {}))
    for _ in range(3):
        await backlog.round()
    assert (await backlog.states(), await backlog.at_stripe()) == ({"acknowledged": ROWS}, [EACH * HOURS] * CUSTOMERS)


async def test_only_the_call_without_an_answer_is_repeated_and_the_others_wait_for_their_summary(
    backlog: Backlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "EVENTS_A_CALL", 10)
    await backlog.fault("drop", STREAM, times=1)
    for _ in range(2):
        await backlog.round()
    assert await backlog.states() in ({"acknowledged": 10, "sent": ROWS - 10}, {"acknowledged": 4, "sent": ROWS - 4})
    for _ in range(2):
        await backlog.round(LAG * 1.1)
    assert (await backlog.states(), await backlog.at_stripe()) == ({"acknowledged": ROWS}, [EACH * HOURS] * CUSTOMERS)


async def test_killed_between_ledger_and_stream_it_is_sent_once_by_the_next(backlog: Backlog) -> None:
    sender = backlog.make(timedelta(0))
    await sender._plan()
    async with backlog.pool.acquire() as connection:
        wall = wall_now()
        lanes = await ledger.claim_lanes(connection, owner="dead", wall=wall, until=wall + timedelta(seconds=30), limit=10)
        assert len(await stream_ledger.take(connection, lanes, wall)) == ROWS
    await backlog.round()
    assert await backlog.states() == {"sent": ROWS}, "its lease holds"
    for _ in range(3):
        await backlog.round(LAG * 1.1)
    assert (await backlog.states(), await backlog.at_stripe()) == ({"acknowledged": ROWS}, [EACH * HOURS] * CUSTOMERS)


async def test_new_usage_of_a_streamed_hour_goes_on_and_does_not_blur_the_sum(
    backlog: Backlog, publish: Any, facts: Any, clock: Any
) -> None:
    await backlog.round()
    await publish(facts.usage(EACH + 2, 2, number=0, hour=backlog.start))
    clock.instant += timedelta(minutes=2)
    await backlog.round()
    await backlog.round(LAG * 1.1)
    await backlog.round(LAG * 1.1)
    assert (await backlog.states(), (await backlog.at_stripe())[0]) == ({"acknowledged": ROWS + 1}, EACH * HOURS + 2)


async def test_a_forgotten_row_is_not_found_in_what_another_streamed_meanwhile(backlog: Backlog) -> None:
    """A day-old row and a fresh streamed one have the same hour and quantity: Stripe's sum must not be credited to the wrong one."""
    await backlog.round()
    hour = await backlog.pool.fetchrow(
        "select * from ledger where stripe_customer_id = $1 order by event_time limit 1", backlog.customers[0]
    )
    assert hour is not None
    async with backlog.pool.acquire() as connection:
        row = MeterEvent(
            uuid4(), hour["window_id"], hour["stripe_customer_id"], hour["event_name"], hour["stripe_meter_id"], hour["event_time"], 9, EACH
        )
        await ledger.add_intents(connection, [row], wall_now())
        old = wall_now() - timedelta(days=2)
        await connection.execute("update ledger set state = 'unknown', first_sent_at = $2 where identifier = $1", row.identifier, old)
        await connection.execute("update lane set retry_at = $1", old)
    await backlog.round()
    assert await backlog.states() == {"sent": ROWS, "unknown": 1}
    for _ in range(4):
        await backlog.round(LAG * 1.1)
        await backlog.pool.execute("update lane set retry_at = $1", old)
    for _ in range(4):
        await backlog.round(LAG * 2.3)
    assert (await backlog.states()).get("acknowledged") == ROWS + 2
    assert (await backlog.at_stripe())[0] == EACH * (HOURS + 1)


async def test_an_expired_session_is_renewed_once(backlog: Backlog) -> None:
    event = MeterEvent(
        *(row := await backlog.pool.fetchrow("select gen_random_uuid(), gen_random_uuid()"))[:2],
        backlog.customers[0], "turnpike_payg_calls", backlog.meter, backlog.start, 1, 7,
    )  # fmt: skip
    assert row is not None
    assert (await backlog.gateway.stream([event])).kind is Kind.ACKNOWLEDGED
    session = backlog.gateway._session
    assert session is not None
    backlog.gateway._session = replace(session, client=backlog.gateway._of_token("stream_token_of_yesterday"))
    assert (await backlog.gateway.stream([event])).kind is Kind.ACKNOWLEDGED
    assert (await backlog.at_stripe())[0] == 7
    backlog.gateway._session, backlog.gateway._of_token = None, lambda _: backlog.client
    assert (await backlog.gateway.stream([event])).kind is Kind.KEY_REFUSED


@pytest.mark.parametrize(
    ("rows", "lanes", "from_rows", "serves"),
    [(24, 3, 24, True), (23, 3, 24, False), (24, 7, 24, False), (24, 6, 24, True), (10**6, 1, 0, False), (0, 0, 0, False)],
)
def test_the_stream_serves_a_large_backlog_of_few_lanes(rows: int, lanes: int, from_rows: int, *, serves: bool) -> None:
    assert stream_serves(rows, lanes, from_rows=from_rows) is serves


def test_rows_are_shown_only_by_a_sum_that_is_exactly_theirs(backlog: Backlog) -> None:
    rows = [MeterEvent(None, None, "c", "e", "m", backlog.start, 1, quantity) for quantity in (5, -2)]  # type: ignore[arg-type]
    assert shown(rows, at_stripe=10, acknowledged=7)
    assert not shown(rows, at_stripe=9, acknowledged=7)
    assert not shown(rows, at_stripe=11, acknowledged=7)
