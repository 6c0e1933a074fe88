"""A sender's life through the command: made, its usage counted and billed within its scope only, revoked, refused."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner
from whole_system import Customer, World, eventually

from turnpike_cli.__main__ import app
from turnpike_cli.errors import CommandError

pytestmark = pytest.mark.timeout(300)
BATCH = "application/cloudevents-batch+json"


async def turnpike(world: World, *arguments: str) -> str:
    """Run the command; returns what it says. Raises what it would end with."""
    done = await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--data", str(world.stack.folder)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


async def senders(world: World) -> dict[str, dict[str, Any]]:
    return {one["id"]: one for one in json.loads(await turnpike(world, "senders", "list", "--json"))}


async def counted(world: World, customer: Customer) -> int:
    shown = json.loads(await turnpike(world, "usage", "show", customer.subscription_id, "--json"))
    return int(shown["standing"]["totals"].get("calls", 0))


async def test_a_key_sends_within_its_scope_until_it_is_revoked(world: World) -> None:
    customer = await world.join("enterprise")
    subscription, source = customer.subscription_id, f"/{customer.person.name}"
    words = ("senders", "add", customer.person.name, "--source", source, "--subscription", subscription, "--json")
    made = json.loads(await turnpike(world, *words))
    moment = (await world.clock.now()).isoformat()

    def event(number: int, **other: str) -> dict[str, Any]:
        given = {"specversion": "1.0", "type": "turnpike.usage", "source": source, "id": f"e-{number}", "subject": subscription}
        return {**given, "time": moment, "data": {"meter": "calls", "quantity": 10}, **other}

    async def post(*events: dict[str, Any]) -> httpx.Response:
        headers = {"authorization": f"Bearer {made['key']}", "content-type": BATCH}
        return await world.http.post(f"{world.places.ingest}/v1/events", content=json.dumps(events), headers=headers)

    # Within its scope and outside of it.
    good = [event(1), event(2, source=f"{source}/eu-1")]
    answer = await post(*good, event(3, source="/elsewhere"), event(4, subject="somebody-else"))
    assert answer.status_code == 202
    assert [one.get("reason") for one in answer.json()["results"]] == [None, None, "foreign_source", "foreign_subscription"]
    assert (await post(event(3, source=f"{source}-2"))).status_code == 403
    await eventually("20 calls to be counted", lambda: counted(world, customer), lambda found: found == 20)
    rejected = ("usage", "rejected", "--subscription", subscription)
    await eventually("the refusal to be listed", lambda: turnpike(world, *rejected), lambda found: "foreign_source" in found)

    # It is listed, without its key.
    listed = (await senders(world))[made["id"]]
    assert (listed["source_prefix"], listed["subscriptions"]) == (source, [subscription])
    assert made["key"] not in json.dumps(listed)

    # Revoked: its key is refused, what it sent stays counted, and it is gone from the list.
    await turnpike(world, "senders", "revoke", made["id"])
    await eventually("the key to be refused", lambda: post(event(1)), lambda answer: answer.status_code == 401)  # a repeat: counts nothing
    assert (await post(event(5))).json()["error"]["code"] == "unknown_key"
    await world.clock.settle()
    assert await counted(world, customer) == 20
    assert made["id"] not in await senders(world)
    with pytest.raises(CommandError, match="revoked before"):
        await turnpike(world, "senders", "revoke", made["id"])
