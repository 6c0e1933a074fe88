"""Requests as Stripe takes and refuses them: errors, idempotency, paging, expand, metadata, faults, limits."""

import asyncio
from typing import Any

import pytest
import stripe


async def test_a_request_without_a_key_or_with_a_wrong_one_is_refused(up: Any) -> None:
    assert (await up.http.get("/v1/customers")).status_code == 401
    wrong = await up.http.get("/v1/customers", headers={"Authorization": "Bearer sk_test_other_key_of_somebody"})
    assert wrong.status_code == 401
    assert "other_key" not in wrong.text
    restricted = await up.http.get("/v1/customers", headers={"Authorization": "Bearer rk_test_turnpike_sandbox"})
    assert restricted.status_code == 200
    assert restricted.headers["request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("path", "form", "code", "param"),
    [
        ("/v1/products", {"name": "A", "colour": "red"}, "parameter_unknown", "colour"),
        ("/v1/products", {"metadata[a]": "b"}, "parameter_missing", "name"),
        ("/v1/products", {"name": ""}, "parameter_invalid_empty", "name"),
        ("/v1/prices", {"currency": "usd", "recurring[intervall]": "month"}, "parameter_unknown", "recurring[intervall]"),
        ("/v1/prices", {"currency": "usd", "product": "prod_x", "unit_amount": "1.5"}, "parameter_invalid_integer", "unit_amount"),
        ("/v1/prices", {"currency": "usd", "product": "prod_x", "unit_amount": "1"}, "resource_missing", "product"),
        ("/v1/subscriptions", {"customer": "cus_x", "items[0][price]": "price_x"}, "resource_missing", "customer"),
        ("/v1/customers", {"metadata[" + "k" * 41 + "]": "v"}, None, "metadata[" + "k" * 41 + "]"),
        ("/v1/checkout/sessions", {"mode": "subscription", "payment_method_types[0]": "card"}, "parameter_unknown", "payment_method_types"),
    ],
)
async def test_wrong_parameters_are_named(up: Any, path: str, form: dict[str, str], code: str | None, param: str) -> None:
    answer = await up.http.post(path, data=form, headers={"Authorization": "Bearer sk_test_turnpike_sandbox"})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error.get("code"), error["param"]) == (400, "invalid_request_error", code, param)


async def test_an_unknown_address_and_an_unknown_object_are_404(up: Any) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await up.client.v1.customers.retrieve_async("cus_none")
    assert (caught.value.http_status, caught.value.code) == (404, "resource_missing")
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await up.client.v1.refunds.list_async()
    assert "Unrecognized request URL" in str(caught.value)


async def test_a_metered_line_must_not_carry_a_quantity(up: Any) -> None:
    made = await up.make_catalogue()
    with pytest.raises(stripe.InvalidRequestError, match="Remove quantity from `line_items\\[0\\]`"):
        await up.client.v1.checkout.sessions.create_async(
            {"mode": "subscription", "success_url": "http://127.0.0.1:9/", "line_items": [{"price": made["usage"].id, "quantity": 1}]}
        )


async def test_a_repeated_key_replays_the_first_answer_and_another_request_with_it_is_refused(up: Any) -> None:
    customers = up.client.v1.customers
    first = await customers.create_async({"email": "a@example.com"}, {"idempotency_key": "k1"})
    again = await customers.create_async({"email": "a@example.com"}, {"idempotency_key": "k1"})
    assert again.id == first.id
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    with pytest.raises(stripe.IdempotencyError) as caught:
        await customers.create_async({"email": "b@example.com"}, {"idempotency_key": "k1"})
    assert caught.value.error.type == "idempotency_error"
    assert len((await customers.list_async()).data) == 1


async def test_a_key_in_use_is_a_409(up: Any) -> None:
    await up.http.post("/_sandbox/faults", json={"kind": "delay", "seconds": 0.5, "times": 1, "match": {"method": "POST"}})
    customers = up.client.v1.customers
    slow = asyncio.create_task(customers.create_async({"name": "A"}, {"idempotency_key": "k2"}))
    await asyncio.sleep(0.15)
    with pytest.raises(stripe.APIError) as caught:
        await customers.create_async({"name": "A"}, {"idempotency_key": "k2"})
    assert (caught.value.http_status, caught.value.error.code) == (409, "idempotency_key_in_use")
    assert (await slow).name == "A"


async def test_a_refused_request_with_a_key_leaves_nothing_behind_and_is_replayed(up: Any) -> None:
    params = {"product_data": {"name": "Half done"}, "currency": "usd", "billing_scheme": "tiered", "tiers_mode": "volume"}
    for _ in range(2):
        with pytest.raises(stripe.InvalidRequestError):
            await up.client.v1.prices.create_async(params, {"idempotency_key": "k3"})
    assert (await up.client.v1.products.list_async()).data == []


async def test_lists_are_paged_newest_first_in_both_directions(up: Any) -> None:
    customers = up.client.v1.customers
    made = [(await customers.create_async({"name": str(number)})).id for number in range(7)]
    newest_first = made[::-1]
    listed = [one.id async for one in (await customers.list_async({"limit": 3})).auto_paging_iter()]
    assert listed == newest_first
    back = await customers.list_async({"limit": 2, "ending_before": newest_first[4]})
    assert ([one.id for one in back.data], back.has_more) == (newest_first[2:4], True)
    with pytest.raises(stripe.InvalidRequestError):
        await customers.list_async({"limit": 101})


async def test_tiers_come_only_when_expanded_and_a_wrong_expand_is_refused(up: Any) -> None:
    made = await up.make_catalogue()
    prices = up.client.v1.prices
    assert "tiers" not in (await prices.retrieve_async(made["usage"].id)).to_dict()
    shown = await prices.retrieve_async(made["usage"].id, {"expand": ["tiers", "product"]})
    assert [tier.up_to for tier in shown.tiers] == [100000, None]
    assert shown.product.name == "Standard"
    with pytest.raises(stripe.InvalidRequestError, match="cannot be expanded"):
        await prices.retrieve_async(made["usage"].id, {"expand": ["nonsense"]})
    with pytest.raises(stripe.InvalidRequestError, match="more than 4 levels"):
        await prices.retrieve_async(made["usage"].id, {"expand": ["a.b.c.d.e"]})


async def test_metadata_is_merged_and_an_empty_value_removes_its_key(up: Any) -> None:
    customers = up.client.v1.customers
    made = await customers.create_async({"metadata": {"a": "1", "b": "2"}})
    changed = await customers.update_async(made.id, {"metadata": {"a": "", "c": "3"}})
    assert changed.metadata.to_dict() == {"b": "2", "c": "3"}
    assert (await customers.update_async(made.id, {"metadata": ""})).metadata.to_dict() == {}


async def test_a_lookup_key_is_unique_until_it_is_transferred(up: Any) -> None:
    made = await up.make_catalogue()
    params = {"currency": "usd", "product": made["product"].id, "unit_amount": 1, "lookup_key": "base", "recurring": {"interval": "month"}}
    with pytest.raises(stripe.InvalidRequestError):
        await up.client.v1.prices.create_async(params)
    new = await up.client.v1.prices.create_async({**params, "transfer_lookup_key": True})
    found = await up.client.v1.prices.list_async({"lookup_keys": ["base"]})
    assert [one.id for one in found.data] == [new.id]
    assert (await up.client.v1.prices.retrieve_async(made["base"].id)).lookup_key is None


async def test_a_known_identifier_is_refused_with_stripes_words_and_counted_once(up: Any) -> None:
    made = await up.make_catalogue()
    customer = await up.client.v1.customers.create_async({})
    event = {"event_name": "calls", "identifier": "w-1", "payload": {"stripe_customer_id": customer.id, "value": "5"}}
    await up.client.v1.billing.meter_events.create_async(event)
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await up.client.v1.billing.meter_events.create_async(event)
    assert caught.value.user_message == "An event already exists with identifier w-1."
    assert caught.value.headers["stripe-should-retry"] == "false"
    start = up.sandbox.world.business_now() // 60 * 60
    rows = await up.client.v1.billing.meters.event_summaries.list_async(
        made["meter"].id, {"customer": customer.id, "start_time": start - 60, "end_time": start + 60}
    )
    assert [row.aggregated_value for row in rows.data] == [5.0]


@pytest.mark.parametrize(("shift", "code"), [(-36 * 86400, "timestamp_too_far_in_past"), (400, "timestamp_in_future")])
async def test_usage_outside_the_window_is_refused(up: Any, shift: int, code: str) -> None:
    await up.make_catalogue()
    customer = await up.client.v1.customers.create_async({})
    payload = {"stripe_customer_id": customer.id, "value": "5"}
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await up.client.v1.billing.meter_events.create_async(
            {"event_name": "calls", "payload": payload, "timestamp": up.sandbox.world.business_now() + shift}
        )
    assert caught.value.code == code


async def test_faults_answer_429_and_500_and_cut_the_connection_before_or_after_the_work(up: Any) -> None:
    customers = up.client.v1.customers
    options = {"max_network_retries": 0}
    match = {"method": "POST", "path_prefix": "/v1/customers"}
    await up.http.post("/_sandbox/faults", json={"match": match, "kind": "status", "status": 429, "times": 1})
    with pytest.raises(stripe.RateLimitError) as limited:
        await customers.create_async({}, options)
    assert limited.value.headers["stripe-rate-limited-reason"] == "global-rate"
    assert "retry-after" not in limited.value.headers
    await up.http.post("/_sandbox/faults", json={"match": match, "kind": "status", "status": 500, "times": 1})
    with pytest.raises(stripe.APIError):
        await customers.create_async({}, options)
    await up.http.post("/_sandbox/faults", json={"match": match, "kind": "drop", "times": 1})
    with pytest.raises(stripe.APIConnectionError):
        await customers.create_async({}, options)
    assert (await customers.list_async()).data == []
    await up.http.post("/_sandbox/faults", json={"match": match, "kind": "drop_after_commit", "times": 1})
    with pytest.raises(stripe.APIConnectionError):
        await customers.create_async({"name": "Once"}, {**options, "idempotency_key": "k9"})
    again = await customers.create_async({"name": "Once"}, {**options, "idempotency_key": "k9"})
    assert [one.id for one in (await customers.list_async()).data] == [again.id]
    assert len((await up.http.get("/_sandbox/faults")).json()["data"]) == 4
    assert (await up.http.delete("/_sandbox/faults")).json() == {"removed": 4}


async def test_stripes_rate_limit_can_be_switched_on(run: Any, tmp_path: Any) -> None:
    async with run(tmp_path / "limited.sqlite3", rate_limit_per_second=5) as up:
        answers = [await up.http.get("/v1/customers", headers={"Authorization": "Bearer sk_test_turnpike_sandbox"}) for _ in range(12)]
        assert {answer.status_code for answer in answers} == {200, 429}


async def test_the_business_clock_moves_forward_only(up: Any) -> None:
    assert (await up.http.put("/_sandbox/clock", json={"offset_seconds": 3600})).json()["offset_seconds"] == 3600
    assert (await up.http.put("/_sandbox/clock", json={"offset_seconds": 3599})).status_code == 409
    assert (await up.http.put("/_sandbox/clock", json={"offset_seconds": "a"})).status_code == 400
    assert (await up.http.put("/_sandbox/clock", json={"offset_seconds": 3600.25})).json()["offset_seconds"] == 3600.25
    status = (await up.http.get("/_sandbox/status")).json()
    assert set(status) == {"service", "settled", "activity", "next_due", "waiting_for", "now"}
    assert (status["settled"], status["next_due"]) == (True, None)
