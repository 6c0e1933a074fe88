"""Meter events (v1, v2 and the v2 stream), their summaries and their cancellation."""

import re
import secrets
from datetime import UTC, datetime
from typing import Any

from sandbox_stripe.calls import Call, route
from sandbox_stripe.errors import Json, StripeError, invalid
from sandbox_stripe.meters import active_meter
from sandbox_stripe.render import page
from sandbox_stripe.world import World, draw

PAST_DAYS_MAX, FUTURE_SECONDS_MAX = 35, 300
IDENTIFIER_MAX = 100
STREAM_EVENTS_MAX = 100
SESSION_SECONDS = 900
WINDOWS = {"hour": 3_600, "day": 86_400}
SUMMARIES_MAX = 100


@route("post", "/v1/billing/meter_events")
def create_meter_event(call: Call) -> Json:
    given = call.params
    identifier, timestamp = record(call.world, given)
    return {
        "object": "billing.meter_event", "created": call.world.business_now(), "event_name": given["event_name"], "identifier": identifier,
        "livemode": False, "payload": given["payload"], "timestamp": timestamp,
    }  # fmt: skip


def record(world: World, given: Json) -> tuple[str, int]:
    """Check one event and keep it. A known identifier is an error, as Stripe's is."""
    name, identifier = given["event_name"], given.get("identifier") or f"{draw(8)}-{draw(16)}"
    meter = active_meter(world, name)
    if meter is None:
        raise invalid(f"No active meter found for event name {name}.", "event_name", "no_meter")
    if len(identifier) > IDENTIFIER_MAX:
        raise invalid(f"Invalid string: must be at most {IDENTIFIER_MAX} characters", "identifier")
    customer = _customer(world, meter, given["payload"])
    now = world.now(customer)
    timestamp = given.get("timestamp", now)
    if timestamp < now - PAST_DAYS_MAX * 86_400:
        message = f"The timestamp is too far in the past. Timestamps must be within the past {PAST_DAYS_MAX} calendar days."
        raise invalid(message, "timestamp", "timestamp_too_far_in_past")
    if timestamp > now + FUTURE_SECONDS_MAX:
        raise invalid("The timestamp is more than 5 minutes in the future.", "timestamp", "timestamp_in_future")
    wall = int(world.wall())
    known = "SELECT 1 FROM meter_events WHERE identifier = ? AND received_wall > ?"
    if world.store.execute(known, identifier, wall - world.settings.meter_identifier_seconds).fetchone():
        raise StripeError(400, f"An event already exists with identifier {identifier}.", headers={"Stripe-Should-Retry": "false"})
    world.store.execute(
        "INSERT INTO meter_events (identifier, event_name, customer, value, timestamp, received_wall) VALUES (?, ?, ?, ?, ?, ?)",
        identifier, name, customer["id"], _value(meter, given["payload"]), timestamp, wall,
    )  # fmt: skip
    return identifier, timestamp


def _customer(world: World, meter: Json, payload: Json) -> Json:
    key = meter["customer_mapping"]["event_payload_key"]
    id_ = payload.get(key)
    if not id_:
        raise invalid(f"The payload has no customer: expected the key `{key}`.", f"payload[{key}]", "meter_event_no_customer_defined")
    customer = world.store.find(id_, "customer")
    if customer is None:
        raise invalid(f"No such customer: '{id_}'", f"payload[{key}]", "meter_event_customer_not_found")
    return customer


def _value(meter: Json, payload: Json) -> int:
    key = meter["value_settings"]["event_payload_key"]
    text = str(payload.get(key, ""))
    if meter["default_aggregation"]["formula"] == "count" and not text:
        return 1
    if not re.fullmatch(r"-?\d+", text, re.ASCII):
        raise invalid(f"The value of `{key}` must be a whole number.", f"payload[{key}]", "meter_event_invalid_value")
    if len(text) > 15:
        raise invalid(f"The value of `{key}` has too many digits.", f"payload[{key}]", "meter_event_value_too_many_digits")
    return int(text)


@route("post", "/v1/billing/meter_event_adjustments")
def adjust_meter_event(call: Call) -> Json:
    given = call.params
    identifier = (given.get("cancel") or {}).get("identifier")
    if not identifier:
        raise invalid("Missing required param: cancel[identifier].", "cancel[identifier]", "parameter_missing")
    since = int(call.world.wall()) - 86_400
    where = "event_name = ? AND identifier = ? AND received_wall > ? AND canceled = 0"
    done = call.world.store.execute(f"UPDATE meter_events SET canceled = 1 WHERE {where}", given["event_name"], identifier, since)  # noqa: S608
    if done.rowcount == 0:
        raise invalid(f"No meter event of the last 24 hours has the identifier {identifier}.", "cancel[identifier]", "resource_missing")
    return {
        "object": "billing.meter_event_adjustment", "cancel": {"identifier": identifier}, "event_name": given["event_name"],
        "livemode": False, "status": "complete", "type": "cancel",
    }  # fmt: skip


@route("get", "/v1/billing/meters/{id}/event_summaries")
def list_summaries(call: Call) -> Json:
    """Answer one row, or one a window that has events; newest first; start inclusive, end exclusive."""
    given = call.params
    meter = call.world.get("billing.meter", call.id)
    start, end = given["start_time"], given["end_time"]
    step = WINDOWS.get(given.get("value_grouping_window", ""))
    unit, name = (step, given["value_grouping_window"]) if step else (60, "minute")
    for key in ("start_time", "end_time"):
        if given[key] % unit:
            raise invalid(f"`{key}` must be aligned with {name} boundaries.", key)
    if end <= start:
        raise invalid("`end_time` must be after `start_time`.", "end_time")
    windows = _windows_with_events(call.world, meter, given["customer"], (start, end), step) if step else [start]
    span, formula = step or end - start, meter["default_aggregation"]["formula"]
    limit, after = given.get("limit", 10), given.get("starting_after")
    begins = [window for window in windows if not after or window < int(after.rsplit("_", 1)[-1])]
    if not 1 <= limit <= SUMMARIES_MAX:
        raise invalid("Limit must be between 1 and 100.", "limit")
    data = [
        {
            "id": f"mtrusg_{meter['id'][-8:]}_{begin}", "object": "billing.meter_event_summary", "livemode": False, "meter": meter["id"],
            "aggregated_value": float(call.world.store.usage(meter["event_name"], given["customer"], begin, begin + span, formula)),
            "start_time": begin, "end_time": begin + span,
        }
        for begin in begins[:limit]
    ]  # fmt: skip
    return page(data, call.path, has_more=len(begins) > limit)


def _windows_with_events(world: World, meter: Json, customer: str, span: tuple[int, int], step: int) -> list[int]:
    where = "event_name = ? AND customer = ? AND timestamp >= ? AND timestamp < ? AND canceled = 0"
    sql = f"SELECT DISTINCT timestamp / {step} * {step} AS begin FROM meter_events WHERE {where} ORDER BY begin DESC"  # noqa: S608
    return [int(row[0]) for row in world.store.execute(sql, meter["event_name"], customer, *span)]


# --- v2 ---


def iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _v1_of(event: Json) -> Json:
    """Return a v2 event in the form of v1: only the time is written differently."""
    if not event.get("timestamp"):
        return event
    try:
        moment = datetime.fromisoformat(event["timestamp"])
    except ValueError:
        raise invalid("Invalid timestamp: must be an RFC 3339 time.", "timestamp") from None
    return {**event, "timestamp": int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp())}


@route("post", "/v2/billing/meter_events")
def create_meter_event_v2(call: Call) -> Json:
    given = call.params
    identifier, timestamp = record(call.world, _v1_of(given))
    return {
        "object": "v2.billing.meter_event", "created": iso(call.world.business_now()), "event_name": given["event_name"],
        "identifier": identifier, "livemode": False, "payload": given["payload"], "timestamp": iso(timestamp),
    }  # fmt: skip


@route("post", "/v2/billing/meter_event_adjustments")
def adjust_meter_event_v2(call: Call) -> Json:
    done = adjust_meter_event(call)
    return {**done, "object": "v2.billing.meter_event_adjustment", "id": f"mtradj_{draw(20)}", "created": iso(call.world.business_now())}


@route("post", "/v2/billing/meter_event_session")
def create_session(call: Call) -> Json:
    """Hand out a token for the stream; it ends by wall time, as tokens do."""
    expires = int(call.world.wall()) + SESSION_SECONDS
    token = "stream_token_" + secrets.token_urlsafe(32)
    call.world.store.insert({"id": token, "object": "_stream_token", "expires": expires})
    return {
        "id": f"mes_{draw(20)}", "object": "v2.billing.meter_event_session", "authentication_token": token,
        "created": iso(call.world.wall()), "expires_at": iso(expires), "livemode": False,
    }  # fmt: skip


@route("post", "/v2/billing/meter_event_stream")
def stream(call: Call) -> Json:
    """Take up to 100 events. What is wrong with one is found later at Stripe; here it is left out and counted."""
    token = call.world.store.find(call.token, "_stream_token")
    if token is None:
        raise StripeError(401, "Invalid meter event session token.", code="unauthenticated")
    if token["expires"] <= call.world.wall():
        message = "The meter event session has expired. Create a new session and send the events again."
        raise StripeError(401, message, type_="temporary_session_expired", code="billing_meter_event_session_expired")
    events: list[Any] = call.params["events"]
    if len(events) > STREAM_EVENTS_MAX:
        raise invalid(f"At most {STREAM_EVENTS_MAX} events can be sent at once.", "events")
    for event in events:
        try:
            record(call.world, _v1_of(event))
        except StripeError:
            call.world.store.bump("stream_events_rejected")
    return {}
