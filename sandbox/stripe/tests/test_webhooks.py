"""Webhooks: signed, repeated until answered, twice, out of order, held back and dropped on demand."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import stripe
from stripe import Webhook


@dataclass
class Receiver:
    """An endpoint that keeps what it gets and answers what it is told to."""

    url: str = ""
    got: list[tuple[bytes, str]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    secret: str = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if ": " in line)
                lower = {name.lower(): value for name, value in headers.items()}
                body = await reader.readexactly(int(lower["content-length"]))
                self.got.append((body, lower["stripe-signature"]))
                status = self.answers.pop(0) if self.answers else 200
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
        except asyncio.IncompleteReadError:
            writer.close()

    def events(self) -> list[Any]:
        """Verify every body with the SDK and return the events."""
        return [Webhook.construct_event(body, signature, self.secret) for body, signature in self.got]


@pytest.fixture
async def receiver(up: Any) -> AsyncIterator[Receiver]:
    found = Receiver()
    server = await asyncio.start_server(found.handle, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    endpoint = await up.client.v1.webhook_endpoints.create_async(
        {"url": found.url, "enabled_events": ["customer.created", "customer.updated"]}
    )
    found.secret = endpoint.secret
    up.created["endpoint"] = endpoint.id
    yield found
    server.close()
    await server.wait_closed()


async def test_an_event_is_signed_and_carries_the_request_and_what_changed(up: Any, receiver: Receiver) -> None:
    customer = await up.client.v1.customers.create_async({"name": "A"}, {"idempotency_key": "key-1"})
    await up.client.v1.customers.update_async(customer.id, {"name": "B"})
    await up.settle()
    created, updated = sorted(receiver.events(), key=lambda event: event.type)
    assert (created.type, created.data.object.id, created.request.idempotency_key) == ("customer.created", customer.id, "key-1")
    assert updated.data.previous_attributes.to_dict() == {"name": "A"}
    with pytest.raises(stripe.SignatureVerificationError):
        Webhook.construct_event(receiver.got[0][0] + b" ", receiver.got[0][1], receiver.secret)


async def test_an_endpoint_gets_only_the_types_it_asked_for(up: Any, receiver: Receiver) -> None:
    await up.client.v1.products.create_async({"name": "A"})
    await up.client.v1.customers.create_async({})
    await up.settle()
    assert [event.type for event in receiver.events()] == ["customer.created"]


async def test_a_refused_delivery_comes_again_and_until_then_the_sandbox_is_not_settled(up: Any, receiver: Receiver) -> None:
    receiver.answers = [500]
    await up.client.v1.customers.create_async({})
    while not receiver.got:
        await asyncio.sleep(0.01)
    assert (await up.http.get("/_sandbox/status")).json()["settled"] is False
    await up.settle()
    first, second = receiver.events()
    assert first.id == second.id
    log = (await up.http.get("/_sandbox/webhooks")).json()["data"]
    assert (log[0]["state"], log[0]["attempts"], log[0]["last_status"]) == ("delivered", 2, 200)
    assert (await up.client.v1.events.list_async({"delivery_success": False})).data == []


async def test_duplicates_on_demand(up: Any, receiver: Receiver) -> None:
    await up.http.post("/_sandbox/webhooks", json={"mode": {"duplicate": True}})
    await up.client.v1.customers.create_async({})
    await up.settle()
    assert len({event.id for event in receiver.events()}) == 1
    assert len(receiver.got) == 2


async def test_reverse_order_on_demand(up: Any, receiver: Receiver) -> None:
    await up.http.post("/_sandbox/webhooks", json={"mode": {"hold": True}})
    made = [(await up.client.v1.customers.create_async({})).id for _ in range(4)]
    await up.settle()
    assert receiver.got == []
    up.sandbox.sender.world.settings.__dict__["webhook_concurrency"] = 1
    await up.http.post("/_sandbox/webhooks", json={"mode": {"reverse": True}})
    await up.settle()
    assert [event.data.object.id for event in receiver.events()] == made[::-1]


async def test_what_is_held_is_sent_on_release_and_what_is_dropped_never(up: Any, receiver: Receiver) -> None:
    await up.http.post("/_sandbox/webhooks", json={"mode": {"hold": True}})
    await up.client.v1.customers.create_async({})
    assert (await up.http.post("/_sandbox/webhooks/release")).json() == {"released": 1}
    await up.settle()
    assert len(receiver.got) == 1
    await up.http.post("/_sandbox/webhooks", json={"mode": {"drop": 1}})
    lost = await up.client.v1.customers.create_async({})
    await up.settle()
    assert len(receiver.got) == 1
    missed = await up.client.v1.events.list_async({"delivery_success": False, "types": ["customer.created"]})
    assert [event.data.object.id for event in missed.data] == [lost.id]


async def test_a_rolled_secret_signs_beside_the_new_one(up: Any, receiver: Receiver) -> None:
    old = receiver.secret
    new = (await up.http.post(f"/_sandbox/webhooks/{up.created['endpoint']}/roll")).json()["secret"]
    await up.client.v1.customers.create_async({})
    await up.settle()
    body, signature = receiver.got[0]
    for secret in (old, new):
        assert Webhook.construct_event(body, signature, secret).type == "customer.created"


async def test_a_new_invoice_waits_as_a_draft_while_its_webhook_is_refused(up: Any, receiver: Receiver) -> None:
    made = await up.make_catalogue()
    session = await up.check_out([{"price": made["base"].id, "quantity": 1}])
    await up.client.v1.webhook_endpoints.update_async(up.created["endpoint"], {"enabled_events": ["invoice.created"]})
    await up.settle()
    receiver.got.clear()
    receiver.answers = [500] * 3
    end = session.subscription["items"].data[0].current_period_end
    await up.http.put("/_sandbox/clock", json={"offset_seconds": end - up.sandbox.world.wall() + 1})
    while not receiver.got:
        await asyncio.sleep(0.01)
    while up.sandbox.sender.in_flight:  # until the refusal is written down
        await asyncio.sleep(0.01)
    await up.http.put("/_sandbox/clock", json={"offset_seconds": end - up.sandbox.world.wall() + 3700})
    await asyncio.sleep(0.1)
    newest = (await up.client.v1.invoices.list_async({"limit": 1})).data[0]
    assert newest.status == "draft"
    await up.move_to(end + 3 * 3600)
    newest = (await up.client.v1.invoices.list_async({"limit": 1})).data[0]
    assert newest.status == "paid"
    assert newest.webhooks_delivered_at is not None
