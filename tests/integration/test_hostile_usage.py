"""Usage that is sent too often or in bad faith: counted once, answered with its reason, and nobody else notices."""

import asyncio
import gzip
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx
import psutil
import pytest
from whole_system import Customer, World

pytestmark = pytest.mark.timeout(300)
CONNECTIONS = 32
ROUNDS = 100
SINGLE, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
MEGABYTE = 1 << 20
GROWTH_MAX = 100 * MEGABYTE  # what the door may hold at once, and the allocator's slack; the bodies together are some 1,000 MB


@dataclass(frozen=True)
class Sender:
    """One customer's own key at the ingest door."""

    client: httpx.AsyncClient
    customer: Customer
    source: str
    key: str
    since: datetime
    again: Counter[str] = field(default_factory=Counter)

    def event(self, number: int, **fields: Any) -> dict[str, Any]:
        basic = {"specversion": "1.0", "id": f"e-{number}", "source": self.source, "type": "turnpike.usage"}
        data = {"meter": "calls", "quantity": 1}
        return {**basic, "subject": self.customer.subscription_id, "time": self.since.isoformat(), "data": data, **fields}

    async def post(self, body: bytes | dict[str, Any] | list[Any], kind: str = BATCH, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"authorization": f"Bearer {self.key}", "content-type": kind, **headers}
        while True:
            try:
                return await self.client.post("/v1/events", content=content, headers=given)
            except httpx.TransportError:  # a connection that was closed while it was idle: sent again, as any sender does
                self.again["after a transport error"] += 1
                assert self.again.total() < CONNECTIONS, self.again


@asynccontextmanager
async def sender(world: World) -> AsyncIterator[Sender]:
    customer = await world.join("enterprise")
    source = f"/{customer.person.name}"
    body = {"name": customer.person.name, "source": source, "subscriptions": [customer.subscription_id]}
    key = (await world.doors.ask("usage_collector", "POST", "/v1/senders", body=body))["key"]
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    async with httpx.AsyncClient(base_url=world.places.ingest, limits=limits, timeout=60, trust_env=False) as client:
        yield Sender(client, customer, source, key, await world.clock.now())


async def received(world: World, one: Sender) -> dict[str, int]:
    """Return how many events were received, how many came again, and what the meter counts."""
    since = one.since.replace(minute=0, second=0, microsecond=0)
    params = {"subscription_id": one.customer.subscription_id, "from": since.isoformat(), "to": (since + timedelta(hours=2)).isoformat()}
    found = await world.doors.ask("usage_collector", "GET", "/v1/reconciliation", params=params)
    events, calls = found["events"], found["meters"].get("calls", {"counted": 0})
    return {"received": int(events["received"]), "duplicates": int(events["duplicates"]), "counted": int(calls["counted"])}


async def test_an_event_from_32_connections_at_once_is_counted_once(world: World) -> None:
    async with sender(world) as one:
        for number in range(ROUNDS):
            event = one.event(number)
            answers = await asyncio.gather(*(one.post(event, SINGLE) for _ in range(CONNECTIONS)))
            assert {answer.status_code for answer in answers} == {202}
        await world.clock.settle()
        found = await received(world, one)
        repeats = ROUNDS * (CONNECTIONS - 1)
        assert repeats <= found.pop("duplicates") <= repeats + one.again.total()
        assert found == {"received": ROUNDS, "counted": ROUNDS}


def corpus(one: Sender) -> dict[str, tuple[bytes, dict[str, str], int]]:
    """What a careless or hostile sender posts: body, headers, and the answer."""

    def batch(**fields: Any) -> bytes:
        return json.dumps([one.event(10**6, **fields)]).encode()

    zipped = {"content-encoding": "gzip"}
    return {
        "a negative quantity": (batch(data={"meter": "calls", "quantity": -1}), {}, 422),
        "a quantity of a thousand millions": (batch(data={"meter": "calls", "quantity": 10**9}), {}, 422),
        "a huge number": (batch(data={"meter": "calls", "quantity": 10**300}), {}, 422),
        "a text for a number": (batch(data={"meter": "calls", "quantity": "1"}), {}, 422),
        "an unknown meter": (batch(data={"meter": "cals", "quantity": 1}), {}, 422),
        "a date years ahead": (batch(time="2099-01-01T00:00:00Z"), {}, 422),
        "a date years ago": (batch(time="1999-01-01T00:00:00Z"), {}, 422),
        "no id": (json.dumps([{key: value for key, value in one.event(1).items() if key != "id"}]).encode(), {}, 422),
        "another tenant's subscription": (batch(subject="somebody-else"), {}, 403),
        "another tenant's source": (batch(source="/somebody-else"), {}, 403),
        "a forged key": (batch(), {"authorization": f"Bearer {one.key[:-4]}AAAA"}, 401),
        "malformed JSON": (b'[{"id": ', {}, 400),
        "NaN": (batch().replace(b'"quantity": 1', b'"quantity": NaN'), {}, 400),
        "invalid UTF-8": (batch().replace(b"e-1000000", b"e-\xff"), {}, 400),
        "deep nesting": (b"[" * 200_000 + b"]" * 200_000, {}, 400),
        "ten megabytes": (b"[" + b" " * 10 * MEGABYTE + b"]", {}, 413),
        "a gzip bomb": (gzip.compress(bytes(100 * MEGABYTE)), zipped, 413),
        "no gzip at all": (b"[]", zipped, 400),
    }


async def test_bad_input_is_refused_while_good_usage_goes_on_in_constant_memory(world: World) -> None:
    async with sender(world) as one:
        bad = corpus(one)
        process = psutil.Process(world.stack.state.processes["usage_collector"].pid)
        before, most = process.memory_info().rss, 0
        wrong: Counter[str] = Counter()
        stop = asyncio.Event()

        async def offend(names: list[str]) -> None:
            for name in names:
                body, headers, status = bad[name]
                answer = await one.post(body, BATCH, **headers)
                while answer.status_code in {429, 503}:  # too much at once: asked to wait
                    await asyncio.sleep(float(answer.headers["retry-after"]) / 10)
                    answer = await one.post(body, BATCH, **headers)
                if answer.status_code != status or not answer.json():
                    wrong[f"{name}: {answer.status_code} {answer.text[:200]}"] += 1

        async def watch() -> int:
            highest = 0
            while not stop.is_set():
                highest = max(highest, process.memory_info().rss)
                await asyncio.sleep(0.02)
            return highest

        watching = asyncio.create_task(watch())
        offences = [asyncio.create_task(offend([*list(bad)[shift:], *list(bad)[:shift]])) for shift in range(0, len(bad), 2)]
        for number in range(ROUNDS):
            answer = await one.post(one.event(number), SINGLE)
            assert answer.status_code == 202, answer.text
        await asyncio.gather(*offences)
        stop.set()
        most = await watching
        assert wrong == {}
        assert most - before < GROWTH_MAX, f"{(most - before) / MEGABYTE:.0f} MB more"
        await world.clock.settle()
        found = await received(world, one)
        assert found.pop("duplicates") <= one.again.total()
        assert found == {"received": ROUNDS, "counted": ROUNDS}
        params = {"subscription_id": one.customer.subscription_id}
        listed = await world.doors.ask("usage_collector", "GET", "/v1/rejected", params=params)
        reasons = {row["reason"] for row in listed["at_the_door"]}
        assert {"invalid_quantity", "unknown_meter", "in_the_future", "too_old"} <= reasons, listed
