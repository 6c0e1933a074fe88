"""What is sent to the reporter's internal door, and what its answers become."""

from datetime import date
from typing import Any

import httpx
import pytest

from billing_common.internal_auth import InternalAuth, read_token
from delegation_gateway.internal_door import DoorUnavailableError, InternalDoor, NotKnownError
from delegation_gateway.reporter_gateway import ReporterGateway

KEYS = ["k" * 32]
BILL: dict[str, Any] = {
    "invoice_id": "in_1", "subscription_id": "s-1", "account_id": "a-1", "number": "ABC-1", "currency": "usd", "total_minor": 5,
    "lines": [], "usage": [], "a_field_of_tomorrow": 1,
}  # fmt: skip


def gateway(answer: httpx.Response | Exception, seen: list[httpx.Request]) -> ReporterGateway:
    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    client = httpx.AsyncClient(base_url="http://reporter.test", transport=httpx.MockTransport(respond))
    return ReporterGateway(InternalDoor(client, InternalAuth(KEYS, caller="delegation_gateway", scopes=["reports:read"])))


async def test_a_bill_is_asked_for_with_a_token_for_the_door_and_new_fields_do_no_harm() -> None:
    seen: list[httpx.Request] = []
    bill = await gateway(httpx.Response(200, json=BILL), seen).bill("in_1")
    assert (bill.invoice_id, bill.account_id, bill.total_minor) == ("in_1", "a-1", 5)
    assert seen[0].url.path == "/v1/explanations/in_1"
    caller = read_token(KEYS, seen[0].headers["authorization"].removeprefix("Bearer "))
    assert caller is not None
    assert caller.scopes == {"reports:read"}


async def test_days_and_events_are_asked_for_by_name_and_what_is_not_named_is_left_out() -> None:
    seen: list[httpx.Request] = []
    await gateway(httpx.Response(200, json={"hours": [], "complete_until": None}), seen).day("in_1", "p:calls:1", date(2027, 3, 4))
    assert dict(seen[0].url.params) == {"usage": "p:calls:1", "day": "2027-03-04T00:00:00Z"}
    found = await gateway(httpx.Response(200, json={"events": [], "next": "n"}), seen).events("in_1", {"reason": "", "after": None})
    assert (seen[1].url.path, dict(seen[1].url.params), found.next) == ("/v1/explanations/in_1/events", {"reason": ""}, "n")


async def test_the_csv_comes_in_pieces() -> None:
    seen: list[httpx.Request] = []
    pieces = await gateway(httpx.Response(200, content=b"a,b\r\n1,2\r\n"), seen).csv("in_1", "events")
    assert b"".join([piece async for piece in pieces]) == b"a,b\r\n1,2\r\n"
    assert dict(seen[0].url.params) == {"level": "events"}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(404), NotKnownError),
        (httpx.Response(422), NotKnownError),
        (httpx.Response(401), DoorUnavailableError),
        (httpx.Response(503), DoorUnavailableError),
        (httpx.ConnectError("no"), DoorUnavailableError),
    ],
)
async def test_what_is_not_known_and_who_does_not_answer_are_told_apart(answer: httpx.Response | Exception, error: type[Exception]) -> None:
    with pytest.raises(error):
        await gateway(answer, []).bill("in_1")
    with pytest.raises(error):
        await gateway(answer, []).csv("in_1", "endpoints")
