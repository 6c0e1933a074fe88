"""Every answer of a broad scenario fits Stripe's contract file, field by field."""

import re
from functools import cache
from typing import Any

import stripe
from jsonschema import Draft202012Validator

from sandbox_stripe import contract


def to_json_schema(node: Any) -> Any:
    """OpenAPI 3.0 -> JSON Schema 2020-12."""
    if isinstance(node, list):
        return [to_json_schema(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {key: to_json_schema(value) for key, value in node.items() if key != "nullable" and not key.startswith("x-")}
    if node.get("x-open-enum"):
        made.pop("enum", None)
    if node.get("nullable"):
        if isinstance(made.get("type"), str):
            made["type"] = [made["type"], "null"]
            if "enum" in made:
                made["enum"] = [*made["enum"], None]
        else:
            made = {"anyOf": [made, {"type": "null"}]}
    return made


@cache
def definitions() -> dict[str, Any]:
    return {"components": {"schemas": {name: to_json_schema(schema) for name, schema in contract.schemas().items()}}}


@cache
def validator(method: str, template: str) -> Draft202012Validator:
    operation = contract.load()["paths"][template][method]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    return Draft202012Validator({**to_json_schema(schema), **definitions()})


def problems(method: str, path: str, body: Any) -> list[str]:
    operation = contract.find_operation(method, path)
    assert operation, path
    if body.get("deleted"):
        return [] if set(body) == {"id", "object", "deleted"} else [f"deleted: {body}"]
    errors = validator(method, operation.template).iter_errors(body)
    found = [f"{method} {operation.template} {'/'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in errors]
    return found + unknown_fields(body)


def unknown_fields(body: Any, where: str = "") -> list[str]:
    """A field that the SDK's type does not have is an invention of ours."""
    if isinstance(body, list):
        return [one for element in body for one in unknown_fields(element, where)]
    if not isinstance(body, dict):
        return []
    found = []
    kind = body.get("object", "")
    schema = contract.schemas().get(kind) if isinstance(kind, str) else None
    if schema and not body.get("deleted"):
        found = [f"{body['object']}.{name} is not in the contract" for name in set(body) - set(schema["properties"]) - {"plan"}]
    return found + [one for key, value in body.items() if key != "metadata" for one in unknown_fields(value, key)]


async def everything(up: Any, card: dict[str, str]) -> None:
    """Touch every route that the sandbox has."""
    v1 = up.client.v1
    await v1.webhook_endpoints.create_async({"url": "http://127.0.0.1:9/hook", "enabled_events": ["*"], "api_version": "2026-10-28.endive"})
    made = await up.make_catalogue()
    await catalogue_calls(v1, made)
    session = await up.check_out([{"price": made["base"].id, "quantity": 1}, {"price": made["usage"].id}])
    await customer_calls(v1, session.customer)
    await subscription_calls(v1, session.customer, session.subscription.id, made)
    await schedule_calls(v1, session.customer, session.subscription.id, made)
    await invoice_calls(v1, session.customer, session.subscription.id)
    portal = await v1.billing_portal.sessions.create_async({"customer": session.customer})
    assert (await up.http.post(f"{portal.url}/card", data={**card, "number": "4000000000000341"})).status_code == 303
    await usage_calls(up, made["meter"], session.customer)
    await clock_calls(v1, made)
    await portal_calls(v1, session.customer)
    await v1.checkout.sessions.line_items.list_async(session.id)
    await v1.checkout.sessions.list_async({"customer": session.customer, "expand": ["data.line_items"]})
    other = await v1.checkout.sessions.create_async(
        {
            "mode": "subscription",
            "line_items": [{"price": made["usage"].id}],
            "success_url": "http://127.0.0.1:9/",
            "customer": session.customer,
        }
    )
    await v1.checkout.sessions.expire_async(other.id)
    await v1.subscriptions.cancel_async(session.subscription.id, {"invoice_now": True, "prorate": True})
    events = await v1.events.list_async({"limit": 100})
    await v1.events.retrieve_async(events.data[0].id)
    endpoints = await v1.webhook_endpoints.list_async()
    await v1.webhook_endpoints.update_async(endpoints.data[0].id, {"enabled_events": ["invoice.paid"], "disabled": True})
    await v1.webhook_endpoints.retrieve_async(endpoints.data[0].id)
    await v1.webhook_endpoints.delete_async(endpoints.data[0].id)
    await v1.customers.delete_async(session.customer)
    await v1.customers.retrieve_async(session.customer)


async def catalogue_calls(v1: Any, made: dict[str, Any]) -> None:
    await v1.products.update_async(made["product"].id, {"description": "More", "marketing_features": [{"name": "Fast"}]})
    await v1.products.list_async({"active": True})
    extra = await v1.products.create_async({"name": "Extra", "default_price_data": {"currency": "usd", "unit_amount": 500}})
    await v1.products.retrieve_async(extra.id, {"expand": ["default_price"]})
    await v1.products.delete_async((await v1.products.create_async({"name": "Mistake"})).id)
    await v1.prices.create_async({
        "currency": "usd", "product": extra.id, "unit_amount_decimal": "0.000000000001", "recurring": {"interval": "year"},
        "currency_options": {"eur": {"unit_amount": 7}}, "metadata": {"a": "b"}, "expand": ["currency_options", "product"],
    })  # fmt: skip
    await v1.prices.retrieve_async(made["usage"].id, {"expand": ["tiers", "product"]})
    await v1.prices.list_async({"lookup_keys": ["base"], "expand": ["data.tiers", "data.product"]})
    await v1.prices.update_async(made["base"].id, {"nickname": "Base fee"})
    await v1.billing.meters.list_async({"status": "active"})
    meter = made["meter"].id
    await v1.billing.meters.update_async(meter, {"display_name": "API calls"})
    await v1.billing.meters.deactivate_async(meter)
    await v1.billing.meters.reactivate_async(meter)
    await v1.billing.meters.retrieve_async(meter)


async def customer_calls(v1: Any, customer: str) -> None:
    await v1.customers.update_async(customer, {"name": "A Buyer", "address": {"country": "DE"}, "metadata": {"a": "1"}})
    await v1.customers.retrieve_async(customer, {"expand": ["subscriptions", "invoice_settings.default_payment_method"]})
    await v1.customers.list_async({"email": "buyer@example.com"})
    await v1.customers.payment_methods.list_async(customer)
    method = await v1.payment_methods.create_async(
        {"type": "card", "card": {"number": "5555555555554444", "exp_month": 1, "exp_year": 2040, "cvc": "123"}}
    )
    await v1.payment_methods.attach_async(method.id, {"customer": customer})
    await v1.customers.payment_methods.retrieve_async(customer, method.id)
    await v1.payment_methods.update_async(method.id, {"metadata": {"a": "1"}})
    await v1.payment_methods.list_async({"customer": customer, "type": "card"})
    await v1.payment_methods.retrieve_async(method.id, {"expand": ["customer"]})
    await v1.payment_methods.detach_async(method.id)


async def subscription_calls(v1: Any, customer: str, subscription: str, made: dict[str, Any]) -> None:
    await v1.subscriptions.retrieve_async(subscription, {"expand": ["latest_invoice.payments", "items.data.price.product", "customer"]})
    await v1.subscriptions.list_async({"customer": customer, "status": "all", "expand": ["data.default_payment_method"]})
    await v1.subscriptions.update_async(subscription, {"cancel_at_period_end": True, "metadata": {"a": "1"}})
    await v1.subscriptions.update_async(subscription, {"cancel_at_period_end": False, "description": "Sold by phone"})
    items = await v1.subscription_items.list_async({"subscription": subscription})
    await v1.subscription_items.retrieve_async(items.data[0].id)
    await v1.subscription_items.update_async(items.data[0].id, {"quantity": 3, "proration_behavior": "always_invoice"})
    seat = await v1.prices.create_async(
        {"currency": "usd", "product": made["product"].id, "unit_amount": 100, "recurring": {"interval": "month"}}
    )
    added = await v1.subscription_items.create_async({"subscription": subscription, "price": seat.id, "quantity": 2})
    await v1.subscription_items.delete_async(added.id, {"proration_behavior": "none"})


async def schedule_calls(v1: Any, customer: str, subscription: str, made: dict[str, Any]) -> None:
    schedule = await v1.subscription_schedules.create_async({"from_subscription": subscription})
    running = {"items": [{"price": made["base"].id, "quantity": 3}, {"price": made["usage"].id}], "end_date": schedule.phases[0].end_date}
    later = {"items": [{"price": made["base"].id}], "metadata": {"plan": "smaller"}}
    await v1.subscription_schedules.update_async(schedule.id, {"phases": [running, later], "metadata": {"a": "1"}})
    await v1.subscription_schedules.retrieve_async(schedule.id, {"expand": ["subscription", "phases.items.price"]})
    await v1.subscription_schedules.list_async({"customer": customer})
    await v1.subscription_schedules.release_async(schedule.id)


async def invoice_calls(v1: Any, customer: str, subscription: str) -> None:
    await v1.invoices.create_preview_async({"subscription": subscription})
    listed = await v1.invoices.list_async({"customer": customer, "expand": ["data.payments"]})
    paid = listed.data[-1].id
    await v1.invoices.line_items.list_async(paid)
    payments = await v1.invoice_payments.list_async({"invoice": paid, "expand": ["data.payment.payment_intent"]})
    await v1.invoice_payments.retrieve_async(payments.data[0].id)
    await v1.payment_intents.retrieve_async(payments.data[0].payment.payment_intent.id)
    await v1.payment_intents.list_async({"customer": customer})
    item = await v1.invoice_items.create_async({"customer": customer, "amount": 700, "currency": "usd", "description": "Help"})
    await v1.invoice_items.retrieve_async(item.id)
    await v1.invoice_items.list_async({"customer": customer, "pending": True})
    invoice = await v1.invoices.create_async({"customer": customer, "pending_invoice_items_behavior": "include"})
    await v1.invoices.update_async(invoice.id, {"description": "By hand", "metadata": {"a": "1"}})
    final = await v1.invoices.finalize_invoice_async(invoice.id)
    await v1.invoices.mark_uncollectible_async(final.id)
    await v1.invoices.void_invoice_async(final.id)
    await v1.invoices.delete_async((await v1.invoices.create_async({"customer": customer})).id)


async def usage_calls(up: Any, meter: Any, customer: str) -> None:
    client = up.client
    payload = {"stripe_customer_id": customer, "value": "25"}
    await client.v1.billing.meter_events.create_async({"event_name": "calls", "identifier": "i1", "payload": payload})
    await client.v1.billing.meter_event_adjustments.create_async({"event_name": "calls", "type": "cancel", "cancel": {"identifier": "i1"}})
    await client.v2.billing.meter_events.create_async({"event_name": "calls", "identifier": "i2", "payload": payload})
    session = await client.v2.billing.meter_event_session.create_async()
    transport = stripe.HTTPXClient(timeout=10)
    streaming = stripe.StripeClient(
        session.authentication_token, base_addresses={"api": up.base, "meter_events": up.base}, http_client=transport
    )
    await streaming.v2.billing.meter_event_stream.create_async(
        {"events": [{"event_name": "calls", "identifier": "i3", "payload": payload}]}
    )
    await transport.close_async()
    start = up.sandbox.world.business_now() // 3600 * 3600
    rows = await client.v1.billing.meters.event_summaries.list_async(
        meter.id, {"customer": customer, "start_time": start, "end_time": start + 3600, "value_grouping_window": "hour"}
    )
    assert [row.aggregated_value for row in rows.data] == [50.0]


async def clock_calls(v1: Any, made: dict[str, Any]) -> None:
    clock = await v1.test_helpers.test_clocks.create_async({"frozen_time": 1_800_000_000, "name": "A year"})
    customer = await v1.customers.create_async({"test_clock": clock.id, "payment_method": "pm_card_visa", "email": "clock@example.com"})
    method = (await v1.customers.payment_methods.list_async(customer.id)).data[0].id
    await v1.subscriptions.create_async({
        "customer": customer.id, "items": [{"price": made["base"].id, "quantity": 2}], "trial_period_days": 3,
        "default_payment_method": method,
    })  # fmt: skip
    await v1.test_helpers.test_clocks.advance_async(clock.id, {"frozen_time": 1_800_000_000 + 4 * 86400})
    await v1.test_helpers.test_clocks.retrieve_async(clock.id)
    await v1.test_helpers.test_clocks.list_async()
    invoices = await v1.invoices.list_async({"customer": customer.id})
    assert [(one.total, one.status) for one in invoices.data] == [(17990, "paid"), (0, "paid")]
    await v1.test_helpers.test_clocks.delete_async(clock.id)


async def portal_calls(v1: Any, customer: str) -> None:
    made = await v1.billing_portal.configurations.create_async(
        {"features": {"invoice_history": {"enabled": True}, "subscription_cancel": {"enabled": True}}, "name": "Ours"}
    )
    await v1.billing_portal.configurations.update_async(made.id, {"default_return_url": "http://127.0.0.1:9/back"})
    await v1.billing_portal.configurations.retrieve_async(made.id)
    await v1.billing_portal.configurations.list_async()
    await v1.billing_portal.sessions.create_async(
        {"customer": customer, "configuration": made.id, "flow_data": {"type": "payment_method_update"}}
    )


async def test_every_answer_fits_the_contract(up: Any, card: dict[str, str], recorded: list[tuple[str, str, int, dict[str, Any]]]) -> None:
    recorded.clear()
    await everything(up, card)
    wrong = [problem for method, path, status, body in recorded if status == 200 for problem in problems(method, path, body)]
    assert not wrong, "\n".join(sorted(set(wrong)))
    assert {status for *_, status, _ in recorded} == {200}
    touched = {contract.find_operation(method, path).template for method, path, _, _ in recorded}  # type: ignore[union-attr]
    from sandbox_stripe.calls import HANDLERS

    offered = {template for _, template in HANDLERS}
    untouched = {template for template in offered - touched if not re.search(r"invoices/\{invoice\}/pay|v2/billing/meter_event_", template)}
    assert untouched <= {"/v1/invoices/{invoice}/pay"}, untouched
