"""What is sent to checkout's internal door, and what its answers become."""

import json

import httpx
import pytest

from billing_common.internal_auth import InternalAuth, read_token
from delegation_gateway.checkout_gateway import CheckoutGateway, CheckoutRefusedError, CheckoutRequest, CheckoutUnavailableError

KEYS = ["k" * 32]
REQUEST = CheckoutRequest("s-1", "a-1", "u-1", "payg", 3, "Orders", "usd", "http://x/ready", "http://x/not-paid")


def gateway(answer: httpx.Response | Exception, seen: list[httpx.Request]) -> CheckoutGateway:
    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    client = httpx.AsyncClient(base_url="http://checkout.test", transport=httpx.MockTransport(respond))
    return CheckoutGateway(client, InternalAuth(KEYS, caller="delegation_gateway", scopes=["checkout:write"]))


async def test_a_request_carries_all_fields_and_a_token_for_the_door() -> None:
    seen: list[httpx.Request] = []
    assert await gateway(httpx.Response(200, json={"url": "https://pay"}), seen).payment_page(REQUEST) == "https://pay"
    assert seen[0].url.path == "/v1/checkout-sessions"
    assert json.loads(seen[0].content) == {
        "subscription_id": "s-1",
        "account_id": "a-1",
        "user_id": "u-1",
        "product_id": "payg",
        "catalogue_version": 3,
        "display_name": "Orders",
        "currency": "usd",
        "success_url": "http://x/ready",
        "cancel_url": "http://x/not-paid",
    }
    caller = read_token(KEYS, seen[0].headers["authorization"].removeprefix("Bearer "))
    assert caller is not None
    assert caller.scopes == {"checkout:write"}


async def test_the_billing_page_is_asked_for_with_the_way_back() -> None:
    seen: list[httpx.Request] = []
    assert (
        await gateway(httpx.Response(200, json={"url": "https://bill"}), seen).billing_page("a-1", return_url="http://x") == "https://bill"
    )
    assert (seen[0].url.path, json.loads(seen[0].content)) == (
        "/v1/billing-portal-sessions",
        {"account_id": "a-1", "return_url": "http://x"},
    )


async def test_charges_of_one_subscription_are_asked_for() -> None:
    seen: list[httpx.Request] = []
    assert await gateway(httpx.Response(200, json=[{"amount_minor": 60}]), seen).charges("s-1") == [{"amount_minor": 60}]
    assert (seen[0].method, seen[0].url.path, seen[0].url.params["subscription_id"]) == ("GET", "/v1/corrections", "s-1")
    assert seen[0].extensions["timeout"]["read"] <= 3, "a page does not wait for it"
    with pytest.raises(CheckoutUnavailableError):
        await gateway(httpx.Response(503), []).charges("s-1")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(503), CheckoutUnavailableError),
        (httpx.Response(429), CheckoutUnavailableError),
        (httpx.Response(401), CheckoutUnavailableError),
        (httpx.ConnectError("refused"), CheckoutUnavailableError),
        (httpx.ReadTimeout("slow"), CheckoutUnavailableError),
        (httpx.Response(409, json={"detail": "already subscribed"}), CheckoutRefusedError),
        (httpx.Response(404, text="no such product"), CheckoutRefusedError),
        (httpx.Response(422, json={"detail": [{"loc": []}]}), CheckoutRefusedError),
    ],
)
async def test_an_outage_may_be_tried_again_and_a_refusal_may_not(answer: httpx.Response | Exception, error: type[Exception]) -> None:
    with pytest.raises(error):
        await gateway(answer, []).payment_page(REQUEST)
