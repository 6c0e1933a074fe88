"""The account's state: store, business clock, ids, and the events that every change emits."""

import secrets
import string
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sandbox_stripe import render
from sandbox_stripe.errors import Json, missing_resource
from sandbox_stripe.settings import Settings
from sandbox_stripe.store import Store

API_VERSION = "2026-10-28.endive"
ALPHABET = string.ascii_letters + string.digits
PREFIXES = {
    "customer": "cus_", "product": "prod_", "price": "price_", "subscription": "sub_1", "subscription_item": "si_", "invoice": "in_1",
    "line_item": "il_1", "invoiceitem": "ii_1", "invoice_payment": "inpay_1", "payment_method": "pm_1", "payment_intent": "pi_3",
    "checkout.session": "cs_test_", "billing_portal.session": "bps_1", "billing_portal.configuration": "bpc_1", "webhook_endpoint": "we_1",
    "event": "evt_1", "billing.meter": "mtr_test_", "test_helpers.test_clock": "clock_1", "item": "li_1",
    "billing.meter_event_adjustment": "mtradj_", "subscription_schedule": "sub_sched_1",
}  # fmt: skip


def draw(length: int = 24) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


@dataclass
class Request:
    """The API request that is being answered; automatic events have none."""

    id: str | None = None
    idempotency_key: str | None = None


@dataclass
class World:
    """Handed to every handler and to the billing engine. Only `now` knows what time it is."""

    settings: Settings
    store: Store
    wall: Callable[[], float] = time.time
    request: Request = field(default_factory=Request)
    simulated: int | None = None
    base_url: str = ""
    hold_webhooks: bool = False

    def offset(self) -> float:
        """Return how far the business clock is ahead of the wall, in seconds; kept as whole milliseconds."""
        return self.store.number("offset_milliseconds") / 1000

    def business_now(self) -> int:
        return int(self.wall() + self.offset())

    def now(self, of: Json | None = None) -> int:
        """Return the moment inside a transition, else an object's test clock, else the business clock."""
        if self.simulated is not None:
            return self.simulated
        clock = self.store.find(of["test_clock"]) if of and of.get("test_clock") else None
        return int(clock["frozen_time"]) if clock else self.business_now()

    @contextmanager
    def at(self, moment: int) -> Iterator[None]:
        """Everything inside happens at `moment`, by nobody's request."""
        before, request = self.simulated, self.request
        self.simulated, self.request = moment, Request()
        try:
            yield
        finally:
            self.simulated, self.request = before, request

    def new(self, type_: str, body: Json, *, of: Json | None = None) -> Json:
        """Insert an object with a fresh id, unless the body brings its own."""
        id_ = body.pop("id", None) or PREFIXES[type_] + draw(58 if type_ == "checkout.session" else 22)
        return self.store.insert({"id": id_, "object": type_, "livemode": False, "created": self.now(of or body), **body})

    def get(self, type_: str, id_: str, param: str = "id", *, status: int = 404) -> Json:
        found = self.store.find(id_, type_)
        if found is None:
            raise missing_resource(type_, id_, param, status=status)
        return found

    def emit(self, type_: str, body: Json, previous: Json | None = None) -> Json:
        """Store an event with the object as it is now, and queue it for every endpoint that listens."""
        payload: Json = {"object": render.render(self.store, body)}
        if previous is not None:
            payload["previous_attributes"] = previous
        endpoints = [one for one in self.store.select("webhook_endpoint", status="enabled") if listens(one, type_)]
        request = {"id": self.request.id, "idempotency_key": self.request.idempotency_key}
        fields = {"type": type_, "api_version": API_VERSION, "data": payload, "pending_webhooks": len(endpoints), "request": request}
        event = self.new("event", {**fields, "_lookup": type_}, of=body)
        state = "held" if self.hold_webhooks else "pending"
        for endpoint in endpoints:
            self.store.execute(
                "INSERT INTO deliveries (event, event_type, object, endpoint, state, next_wall) VALUES (?, ?, ?, ?, ?, ?)",
                event["id"], type_, body.get("id", ""), endpoint["id"], state, self.wall(),
            )  # fmt: skip
        return event

    @contextmanager
    def changing(self, body: Json, event_type: str) -> Iterator[None]:
        """Save the object after the block and emit `event_type` with what its changed fields held before, if any changed."""
        before = render.render(self.store, body)
        yield
        self.store.save(body)
        after = render.render(self.store, body)
        previous = {key: before.get(key) for key in {*before, *after} if before.get(key) != after.get(key)}
        if previous:
            self.emit(event_type, body, previous)


def listens(endpoint: Json, type_: str) -> bool:
    return "*" in endpoint["enabled_events"] or type_ in endpoint["enabled_events"]


def merge_metadata(body: Json, params: Json) -> None:
    """Stripe's rule: keys are merged, an empty value removes its key, an empty string removes all."""
    given = params.get("metadata")
    if given == "":
        body["metadata"] = {}
    elif given is not None:
        merged = {**(body.get("metadata") or {}), **given}
        body["metadata"] = {key: value for key, value in merged.items() if value != ""}
