"""Billing meters: what usage is counted under."""

from typing import Any

from sandbox_stripe.calls import Call, equal, route
from sandbox_stripe.catalogue import set_fields
from sandbox_stripe.errors import Json, invalid
from sandbox_stripe.world import World


@route("post", "/v1/billing/meters")
def create_meter(call: Call) -> Json:
    given: dict[str, Any] = call.params
    if active_meter(call.world, given["event_name"]):
        raise invalid(f"There is already an active meter with event name {given['event_name']}.", "event_name")
    mapping = given.get("customer_mapping") or {"type": "by_id", "event_payload_key": "stripe_customer_id"}
    meter = call.world.new("billing.meter", {
        "customer_mapping": mapping, "default_aggregation": {"formula": given["default_aggregation"]["formula"]},
        "display_name": given["display_name"], "event_name": given["event_name"], "event_time_window": given.get("event_time_window"),
        "status": "active", "status_transitions": {"deactivated_at": None}, "updated": call.world.now(),
        "value_settings": given.get("value_settings") or {"event_payload_key": "value"}, "_lookup": given["event_name"],
    })  # fmt: skip
    call.world.emit("billing.meter.created", meter)
    return call.show(meter)


def active_meter(world: World, event_name: str) -> Json | None:
    return next(world.store.select("billing.meter", lookup=event_name, status="active"), None)


@route("get", "/v1/billing/meters/{id}")
def retrieve_meter(call: Call) -> Json:
    return call.show(call.world.get("billing.meter", call.id))


@route("get", "/v1/billing/meters")
def list_meters(call: Call) -> Json:
    return call.page("billing.meter", keep=equal(call.params, "status"))


@route("post", "/v1/billing/meters/{id}")
def update_meter(call: Call) -> Json:
    meter = call.world.get("billing.meter", call.id)
    with call.world.changing(meter, "billing.meter.updated"):
        set_fields(meter, call.params, "display_name")
        meter["updated"] = call.world.now()
    return call.show(meter)


@route("post", "/v1/billing/meters/{id}/deactivate")
def deactivate_meter(call: Call) -> Json:
    return _switch(call, "inactive", "billing.meter.deactivated")


@route("post", "/v1/billing/meters/{id}/reactivate")
def reactivate_meter(call: Call) -> Json:
    return _switch(call, "active", "billing.meter.reactivated")


def _switch(call: Call, status: str, event_type: str) -> Json:
    meter = call.world.get("billing.meter", call.id)
    if meter["status"] == status:
        raise invalid(f"The meter is already {status}.")
    if status == "active" and active_meter(call.world, meter["event_name"]):
        raise invalid(f"There is already an active meter with event name {meter['event_name']}.", "event_name")
    now = call.world.now()
    meter.update(status=status, updated=now, status_transitions={"deactivated_at": now if status == "inactive" else None})
    call.world.store.save(meter)
    call.world.emit(event_type, meter)
    return call.show(meter)
