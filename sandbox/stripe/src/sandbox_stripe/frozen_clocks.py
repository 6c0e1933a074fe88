"""Test clocks: customers whose time stands still until it is advanced."""

from sandbox_stripe import cycle, periods
from sandbox_stripe.calls import Call, route
from sandbox_stripe.errors import Json, invalid
from sandbox_stripe.world import World

KEPT_SECONDS = 30 * 86_400
INTERVALS_MAX = 2
YEAR = 366 * 86_400


@route("post", "/v1/test_helpers/test_clocks")
def create_clock(call: Call) -> Json:
    given, world = call.params, call.world
    fields: Json = {
        "deletes_after": world.business_now() + KEPT_SECONDS, "frozen_time": given["frozen_time"], "name": given.get("name"),
        "status": "ready",
        "status_details": {},
    }  # fmt: skip
    clock = world.new("test_helpers.test_clock", fields)
    world.emit("test_helpers.test_clock.created", clock)
    return call.show(clock)


@route("get", "/v1/test_helpers/test_clocks/{test_clock}")
def retrieve_clock(call: Call) -> Json:
    return call.show(call.world.get("test_helpers.test_clock", call.id, "test_clock"))


@route("get", "/v1/test_helpers/test_clocks")
def list_clocks(call: Call) -> Json:
    return call.page("test_helpers.test_clock")


@route("post", "/v1/test_helpers/test_clocks/{test_clock}/advance")
def advance_clock(call: Call) -> Json:
    """Move a clock: everything due on the way happens before this answers, in time order."""
    world = call.world
    clock = world.get("test_helpers.test_clock", call.id, "test_clock")
    target = call.params["frozen_time"]
    if target <= clock["frozen_time"]:
        raise invalid("You can only advance a test clock to a time after its frozen time.", "frozen_time")
    if target > _latest(world, clock):
        raise invalid(f"A test clock can be advanced by at most {INTERVALS_MAX} intervals of its shortest subscription.", "frozen_time")
    world.emit("test_helpers.test_clock.advancing", {**clock, "status": "advancing"})
    cycle.run_due(world, target, clock["id"])
    clock["frozen_time"] = target
    world.store.save(clock)
    world.emit("test_helpers.test_clock.ready", clock)
    return call.show(clock)


def _latest(world: World, clock: Json) -> int:
    start = clock["frozen_time"]
    alive = world.store.select("subscription", parent=clock["id"], keep=lambda one: one["ended_at"] is None)
    ends = [periods.boundary(start, one["_interval"], one["_interval_count"], INTERVALS_MAX) for one in alive]
    return min(ends, default=start + 2 * YEAR)


@route("delete", "/v1/test_helpers/test_clocks/{test_clock}")
def delete_clock(call: Call) -> Json:
    """Delete a clock, its customers, and what would still have happened to them."""
    world = call.world
    clock = world.get("test_helpers.test_clock", call.id, "test_clock")
    for customer in list(world.store.select("customer", parent=clock["id"])):
        for subscription in list(world.store.select("subscription", customer=customer["id"])):
            world.store.delete(subscription["id"])
        world.store.delete(customer["id"])
    world.store.execute("DELETE FROM transitions WHERE clock = ?", clock["id"])
    world.store.delete(clock["id"])
    world.emit("test_helpers.test_clock.deleted", clock)
    return {"id": clock["id"], "object": "test_helpers.test_clock", "deleted": True}
