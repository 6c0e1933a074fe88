"""Reports: Azure's rows over the gateway's own counts."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from azure.core.exceptions import HttpResponseError

from billing_common.clock import BusinessClock

DAY = datetime(2027, 1, 10, tzinfo=UTC)


@pytest.fixture
async def called(start: Callable[..., Any], client_for: Callable[..., Any], arm_for: Any) -> Any:
    """Calls on 10 January 2027 from 00:00: 3 good, 1 not found, 1 failed by sub-1; 1 good by sub-2 a day later; one without a key."""
    clock = BusinessClock(DAY - datetime.now(UTC) + timedelta(minutes=1), offset_allowed=True)
    async with start(clock, report_lag_seconds=0) as sandbox, client_for(sandbox) as client:
        arm = arm_for(client)
        await arm.user()
        await arm.product()
        first = await arm.subscription("sub-1", ownerId="/users/user-1")
        second = await arm.subscription("sub-2")
        await arm.subscription("idle")
        async with httpx.AsyncClient(base_url=sandbox.gateway_url) as gateway:
            for path in ("/orders", "/orders/7", "/orders", "/orders/99999", "/status/500"):
                await gateway.get(path, headers={"Ocp-Apim-Subscription-Key": first})
            await gateway.get("/orders")
            clock.set_offset(clock.offset + timedelta(days=1))
            await gateway.get("/orders", headers={"Ocp-Apim-Subscription-Key": second})
        yield arm


def between(start: datetime, end: datetime | None = None, extra: str = "") -> str:
    text = f"timestamp ge datetime'{start:%Y-%m-%dT%H:%M:%S}'"
    return text + (f" and timestamp le datetime'{end:%Y-%m-%dT%H:%M:%S}'" if end else "") + extra


def counts(row: Any) -> tuple[int, int, int, int, int]:
    return row.call_count_success, row.call_count_blocked, row.call_count_failed, row.call_count_other, row.call_count_total


async def test_by_subscription_has_a_row_for_each_also_for_idle_ones(called: Any) -> None:
    rows = {row.subscription_id: row async for row in called.client.reports.list_by_subscription(*called.at, filter=between(DAY))}
    assert set(rows) == {"/subscriptions/master", "/subscriptions/sub-1", "/subscriptions/sub-2", "/subscriptions/idle"}
    assert counts(rows["/subscriptions/sub-1"]) == (3, 0, 1, 1, 5)
    assert (rows["/subscriptions/sub-1"].product_id, rows["/subscriptions/sub-1"].user_id) == ("/products/pro", "/users/user-1")
    assert counts(rows["/subscriptions/idle"]) == (0, 0, 0, 0, 0)
    assert rows["/subscriptions/sub-1"].bandwidth > 0


@pytest.mark.parametrize("sid", ["sub-1", "/subscriptions/sub-1"])
async def test_a_report_can_be_for_one_subscription_and_a_time(called: Any, sid: str) -> None:
    wanted = between(DAY, DAY + timedelta(hours=23), f" and subscriptionId eq '{sid}'")
    rows = [row async for row in called.client.reports.list_by_subscription(*called.at, filter=wanted)]
    assert [counts(row) for row in rows] == [(3, 0, 1, 1, 5)]
    before = between(DAY - timedelta(days=2), DAY - timedelta(days=1), f" and subscriptionId eq '{sid}'")
    assert [counts(row)[4] async for row in called.client.reports.list_by_subscription(*called.at, filter=before)] == [0]


async def test_by_time_gives_buckets_of_the_interval(called: Any) -> None:
    rows = [row async for row in called.client.reports.list_by_time(*called.at, filter=between(DAY), interval=timedelta(days=1))]
    assert [(row.timestamp, counts(row)) for row in rows] == [(DAY, (3, 1, 1, 1, 6)), (DAY + timedelta(days=1), (1, 0, 0, 0, 1))]
    hours = [row async for row in called.client.reports.list_by_time(*called.at, filter=between(DAY), interval=timedelta(minutes=15))]
    assert sum(row.call_count_total for row in hours) == 7


async def test_the_other_groupings_add_up_to_the_same(called: Any) -> None:
    reports = called.client.reports
    products = {row.product_id: counts(row)[4] async for row in reports.list_by_product(*called.at, filter=between(DAY))}
    assert products == {"/products/pro": 6, "/products/-": 1}
    apis = [(row.api_id, counts(row)[4]) async for row in reports.list_by_api(*called.at, filter=between(DAY))]
    assert apis == [("/apis/orders", 7)]
    users = {row.user_id: counts(row)[4] async for row in reports.list_by_user(*called.at, filter=between(DAY))}
    assert users == {"/users/user-1": 5, "/users/-": 2}
    operations = [row async for row in reports.list_by_operation(*called.at, filter=between(DAY), orderby="callCountTotal desc")]
    assert [(row.operation_id.rsplit("/", 1)[-1], counts(row)[4]) for row in operations] == [
        ("list-orders", 4),
        ("get-order", 2),
        ("get-status", 1),
    ]


async def test_single_requests_are_listed_with_their_ids(called: Any) -> None:
    rows = [row async for row in called.client.reports.list_by_request(*called.at, filter=between(DAY), top=100)]
    assert len({row.request_id for row in rows}) == 7
    assert [row.response_code for row in rows] == [200, 200, 200, 404, 500, 401, 200]
    assert rows[5].backend_response_code == ""
    assert rows[5].subscription_id == "/subscriptions/-"


async def test_reports_trail_by_the_lag(start: Callable[..., Any], client_for: Callable[..., Any], arm_for: Any) -> None:
    async with start(report_lag_seconds=1800) as sandbox, client_for(sandbox) as client:
        arm = arm_for(client)
        await arm.product()
        key = await arm.subscription()
        async with httpx.AsyncClient(base_url=sandbox.gateway_url) as gateway:
            await gateway.get("/orders", headers={"Ocp-Apim-Subscription-Key": key})
        wanted = between(datetime(2020, 1, 1, tzinfo=UTC), None, " and subscriptionId eq 'sub-1'")
        assert [counts(row)[4] async for row in client.reports.list_by_subscription(*arm.at, filter=wanted)] == [0]
        sandbox.clock.set_offset(timedelta(seconds=1801))
        assert [counts(row)[4] async for row in client.reports.list_by_subscription(*arm.at, filter=wanted)] == [1]


@pytest.mark.parametrize(
    ("wanted", "interval"),
    [
        ("subscriptionId eq 'a'", timedelta(hours=1)),
        ("timestamp gt datetime'2027-01-01T00:00:00'", timedelta(hours=1)),
        ("timestamp ge datetime'soon'", timedelta(hours=1)),
        (between(DAY, None, " and color eq 'red'"), timedelta(hours=1)),
        (between(DAY), timedelta(minutes=10)),
        (between(DAY), timedelta(0)),
    ],
)
async def test_a_wrong_report_is_refused(arm: Any, wanted: str, interval: timedelta) -> None:
    with pytest.raises(HttpResponseError) as caught:
        [row async for row in arm.client.reports.list_by_time(*arm.at, filter=wanted, interval=interval)]
    assert caught.value.status_code == 400
