"""Events and webhook endpoints over the API."""

import secrets
from fnmatch import fnmatchcase

from sandbox_stripe.calls import Call, route
from sandbox_stripe.contract import load
from sandbox_stripe.errors import Json, invalid
from sandbox_stripe.world import World, merge_metadata

TYPES_MAX = 20
ENDPOINTS_MAX = 16
ROLL_SECONDS = 24 * 3_600


@route("get", "/v1/events")
def list_events(call: Call) -> Json:
    given = call.params
    types = given.get("types")
    if types and given.get("type"):
        raise invalid("You may only specify one of these parameters: type, types.", "type", "parameters_exclusive")
    if types and len(types) > TYPES_MAX:
        raise invalid(f"You can pass at most {TYPES_MAX} types.", "types")
    wanted = types or ([given["type"]] if given.get("type") else [])
    success = given.get("delivery_success")

    def keep(one: Json) -> bool:
        return (not wanted or any(fnmatchcase(one["type"], pattern) for pattern in wanted)) and (
            success is None or success == (_undelivered(call.world, one["id"]) == 0)
        )

    columns = {"lookup": wanted[0]} if len(wanted) == 1 and "*" not in wanted[0] else {}
    shown = call.page("event", keep=keep, **columns)
    for event in shown["data"]:
        event["pending_webhooks"] = _undelivered(call.world, event["id"])
    return shown


def _undelivered(world: World, event: str) -> int:
    sql = "SELECT count(*) FROM deliveries WHERE event = ? AND state IN ('pending', 'held', 'failed', 'dropped')"
    return int(world.store.execute(sql, event).fetchone()[0])


@route("get", "/v1/events/{id}")
def retrieve_event(call: Call) -> Json:
    return {**call.show(call.world.get("event", call.id)), "pending_webhooks": _undelivered(call.world, call.id)}


@route("post", "/v1/webhook_endpoints")
def create_endpoint(call: Call) -> Json:
    given, world = call.params, call.world
    _check(given)
    if world.store.count("webhook_endpoint") >= ENDPOINTS_MAX:
        raise invalid(f"You have reached the maximum of {ENDPOINTS_MAX} webhook endpoints.")
    secret = "whsec_" + secrets.token_urlsafe(24)
    fields: Json = {
        "api_version": given.get("api_version"), "application": None, "description": given.get("description") or None,
        "enabled_events": given["enabled_events"], "metadata": {}, "status": "enabled", "url": given["url"], "_secrets": [[secret, None]],
    }  # fmt: skip
    merge_metadata(fields, given)
    return {**call.show(world.new("webhook_endpoint", fields)), "secret": secret}


def _check(given: Json) -> None:
    if given.get("url") and not given["url"].startswith(("http://", "https://")):
        raise invalid("Invalid URL: An explicit scheme (such as https) must be provided.", "url", "url_invalid")
    known = {*load()["x-sdk-lists"]["snapshot_event_types"], "*"}
    for index, type_ in enumerate(given.get("enabled_events") or []):
        if type_ not in known:
            raise invalid(f"Unknown event type: {type_}", f"enabled_events[{index}]")


@route("get", "/v1/webhook_endpoints")
def list_endpoints(call: Call) -> Json:
    return call.page("webhook_endpoint")


@route("get", "/v1/webhook_endpoints/{webhook_endpoint}")
def retrieve_endpoint(call: Call) -> Json:
    return call.show(call.world.get("webhook_endpoint", call.id, "webhook_endpoint"))


@route("post", "/v1/webhook_endpoints/{webhook_endpoint}")
def update_endpoint(call: Call) -> Json:
    given, world = call.params, call.world
    _check(given)
    endpoint = world.get("webhook_endpoint", call.id, "webhook_endpoint")
    for name in ("url", "enabled_events", "description"):
        if name in given:
            endpoint[name] = given[name] or None
    if "disabled" in given:
        endpoint["status"] = "disabled" if given["disabled"] else "enabled"
    merge_metadata(endpoint, given)
    return call.show(world.store.save(endpoint))


@route("delete", "/v1/webhook_endpoints/{webhook_endpoint}")
def delete_endpoint(call: Call) -> Json:
    endpoint = call.world.get("webhook_endpoint", call.id, "webhook_endpoint")
    call.world.store.delete(endpoint["id"])
    call.world.store.execute(
        "UPDATE deliveries SET state = 'failed', last_error = 'endpoint deleted' WHERE endpoint = ? AND state = 'pending'", call.id
    )
    return {"id": endpoint["id"], "object": "webhook_endpoint", "deleted": True}


def roll_secret(world: World, endpoint: Json) -> str:
    """Give a new secret; the one before signs too for 24 hours (wall time). Stripe offers this in its dashboard only."""
    secret = "whsec_" + secrets.token_urlsafe(24)
    newest = endpoint["_secrets"][0][0]
    endpoint["_secrets"] = [[secret, None], [newest, int(world.wall()) + ROLL_SECONDS]]
    world.store.save(endpoint)
    return secret


def signing_secrets(endpoint: Json, wall: float) -> list[str]:
    return [secret for secret, until in endpoint["_secrets"] if until is None or until > wall]
