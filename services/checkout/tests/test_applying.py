"""Applies that are killed, stopped by an outage, or run twice: every road ends in the same state, and each says where it is."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import stamina
import stripe

from billing_common import stripe_client
from billing_common.catalogue import Catalogue
from billing_common.testing import topics_in_outbox
from checkout import applying, store_catalogue
from checkout.carrying import ApplyStoppedError, Outside
from checkout.settings import Settings
from checkout.store_catalogue import ApplyRunningError
from checkout.stripe_catalogue import StripeCatalogue

from .conftest import Sandboxes, apim_of, settings_of

STEPS = 11  # of a document below over the one before it


def document(number: int, amount: str | None = None) -> dict[str, Any]:
    """A product that is always there with an amount of its own, and one that comes with this document and goes with the next."""
    calls = {"meter": "calls", "amount": amount or f"0.{number + 10}", "per": 100}
    products = [
        {"id": "steady", "name": "Steady", "model": "Metered", "price": {"usage": [calls]}, "apis": ["orders"]},
        {"id": f"fresh{number}", "name": "Fresh", "model": "Tier", "price": {"base": "5"}, "quota": {"calls": 5}},
    ]
    return Catalogue.from_document({"version": 1, "meters": {"calls": {"name": "Calls"}}, "products": products}).document()


@pytest.fixture(scope="session")
def own_settings(database: str, other_sandboxes: Sandboxes) -> Settings:
    return settings_of(database, other_sandboxes)


@pytest.fixture
async def own_stripe(own_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[stripe.StripeClient]:
    monkeypatch.setattr(stripe_client, "NETWORK_RETRIES", 0)
    client, transport = stripe_client.create_client(own_settings)
    yield client
    await transport.close_async()


@pytest.fixture
async def own(own_settings: Settings, own_stripe: stripe.StripeClient) -> AsyncIterator[Outside]:
    """Sandboxes that other tests do not look at."""
    async with apim_of(own_settings) as apim:
        yield Outside(StripeCatalogue(own_stripe), apim)


async def apply(pool: asyncpg.Pool, outside: Outside, wanted: dict[str, Any], **more: Any) -> applying.Applied:
    return await applying.apply(pool, outside, Catalogue.from_document(wanted), by="test", now=more.pop("now", datetime.now(UTC)), **more)


async def script(sandbox: str, fault: dict[str, Any]) -> None:
    """Let something go wrong at a sandbox."""
    async with httpx.AsyncClient() as client:
        (await client.post(f"{sandbox}/_sandbox/faults", json=fault)).raise_for_status()


def kill_each(settings: Settings, documents: list[dict[str, Any]]) -> list[list[int]]:
    plain = (
        "kafka_bootstrap_servers",
        "stripe_api_base",
        "apim_base_url",
        "apim_subscription_id",
        "apim_resource_group",
        "apim_service_name",
    )
    secret = ("database_url", "internal_token_keys", "stripe_api_key", "apim_static_token", "usage_event_hub_connection")
    values = {
        "plain": {name: getattr(settings, name) for name in plain},
        "secret": {name: getattr(settings, name).get_secret_value() for name in secret},
        "ca_file": str(settings.apim_ca_file),
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "killed_applies.py")],
        input=json.dumps({"settings": values, "documents": documents}),
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ended: list[list[int]] = json.loads(done.stdout.splitlines()[-1])
    return ended


async def test_half_an_outage_of_stripe_says_what_is_done_and_left_and_the_next_apply_finishes(
    pool: asyncpg.Pool, own: Outside, other_sandboxes: Sandboxes, own_stripe: stripe.StripeClient
) -> None:
    await apply(pool, own, document(20))
    wanted = document(21)
    for kind in ({"kind": "status", "status": 500, "times": 1}, {"kind": "drop_after_commit", "times": 1}):
        await script(other_sandboxes.stripe, kind | {"match": {"method": "POST", "path_prefix": "/v1/prices"}})
        with pytest.raises(
            ApplyStoppedError, match=r"^stripe: create price turnpike:\S+ .*: Stripe (answers HTTP 500|does not answer)$"
        ) as stopped:
            await apply(pool, own, wanted)
        unfinished = await store_catalogue.last_apply(pool)
        assert unfinished is not None
        assert (unfinished.is_unfinished, unfinished.done, unfinished.remaining) == (True, stopped.value.done, stopped.value.remaining)
    finished = await apply(pool, own, wanted)
    assert (finished.version.version, finished.is_new) == (2, True)
    keys = [price.lookup_key async for price in (await own_stripe.v1.prices.list_async({"limit": 100})).auto_paging_iter()]
    assert max(Counter(keys).values()) == 1  # the price whose answer was lost was found
    assert (await applying.look(pool, own, None)).plan.steps == ()


async def test_half_an_outage_of_apim_says_what_is_done_and_left_and_the_next_apply_finishes(
    pool: asyncpg.Pool, own: Outside, other_sandboxes: Sandboxes
) -> None:
    await apply(pool, own, document(30))
    fault = {"match": {"method": "PUT", "path_prefix": "/products/fresh31/groups"}, "kind": "status", "status": 409, "times": 1}
    await script(other_sandboxes.calls, fault)
    stamina.set_testing(True, attempts=1)
    try:
        with pytest.raises(ApplyStoppedError, match="link group developers") as stopped:
            await apply(pool, own, document(31))
    finally:
        stamina.set_testing(False)
    assert [text.split(" (")[0] for text in stopped.value.done][-1] == "apim: create product fresh31"
    assert stopped.value.remaining[0] == "apim: link group developers (product fresh31)"
    finished = await apply(pool, own, document(31))
    assert [step.text() for step in finished.plan.steps] == stopped.value.remaining
    assert (await applying.look(pool, own, None)).plan.steps == ()


async def test_calls_are_recorded_until_the_last_who_is_billed_by_the_record_has_moved(pool: asyncpg.Pool, own: Outside) -> None:
    first = await apply(pool, own, document(61))
    await pool.execute("insert into account(account_id) values ('a')")
    await pool.execute(
        "insert into subscription values ('s', 'a', 'u', 'steady', $1, '', 'usd', false, 'live', 1, 'active', now(), null, 'sub_1', now())",
        first.version.version,
    )
    elsewhere = document(61)
    elsewhere["products"][0]["source"] = "ingest"
    second = await apply(pool, own, elsewhere)
    assert "log-to-eventhub" in await _policy(own)
    await pool.execute("update subscription set catalogue_version = $1", second.version.version)
    assert (await applying.look(pool, own, None)).plan.steps == ()
    await apply(pool, own, elsewhere)
    assert "log-to-eventhub" not in await _policy(own)


async def _policy(outside: Outside) -> str:
    seen = await outside.apim.read_product("steady")
    return str(seen and seen.policy)


async def test_two_at_once_the_second_touches_nothing_and_is_told_how_far_the_first_is(pool: asyncpg.Pool, own: Outside) -> None:
    await apply(pool, own, document(40))
    two = await asyncio.gather(apply(pool, own, document(41)), apply(pool, own, document(42)), return_exceptions=True)
    refused = [one for one in two if isinstance(one, ApplyRunningError)]
    assert len(refused) == 1
    assert "another apply of a catalogue is at work" in str(refused[0])
    assert [version.version for version in await store_catalogue.latest_versions(pool, 9)] == [2, 1]
    async with store_catalogue.apply_lock(pool) as connection:
        await connection.execute(
            "update catalogue_apply set state = 'running', done = '[\"a\"]', remaining = '[\"b\", \"c\"]', settled = false"
        )
        with pytest.raises(ApplyRunningError, match=r"by test: 1 of 3 steps are done"):
            await apply(pool, own, document(43))
        running = await store_catalogue.last_apply(pool)
        assert (running and running.state) == "running"
    left = await store_catalogue.last_apply(pool)
    assert (left and left.state, left and left.is_unfinished) == ("interrupted", True)
    await apply(pool, own, document(42))
    settled = await store_catalogue.last_apply(pool)
    assert settled is not None
    assert not settled.is_unfinished


async def test_a_step_is_not_made_when_the_lock_is_lost(pool: asyncpg.Pool, own: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock lives in a connection of the database; when that breaks somebody else may apply."""
    await apply(pool, own, document(50))
    create = own.stripe.create_product

    async def cut(*arguments: Any, **more: Any) -> None:
        await create(*arguments, **more)
        await pool.execute("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'")

    monkeypatch.setattr(own.stripe, "create_product", cut)
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.AdminShutdownError)):
        await apply(pool, own, document(51))
    last = await store_catalogue.last_apply(pool)
    assert (last and last.state, last and last.remaining[0]) == ("interrupted", "stripe: create product turnpike_fresh51 (Fresh)")
    monkeypatch.undo()
    assert (await apply(pool, own, document(51))).is_new


async def test_an_apply_killed_at_any_step_is_finished_by_the_next_without_a_second_object(
    pool: asyncpg.Pool, own: Outside, own_settings: Settings, own_stripe: stripe.StripeClient
) -> None:
    assert (await apply(pool, own, document(0))).is_new
    at_first = {price.id async for price in (await own_stripe.v1.prices.list_async({"limit": 100})).auto_paging_iter()}
    numbers = range(1, STEPS + 3)  # killed before the first call, after each, and before the version is written
    ended = await asyncio.to_thread(kill_each, own_settings, [document(number) for number in numbers])
    assert ended == [[-9, 0] for _ in numbers]
    last, before = await store_catalogue.latest_versions(pool, 100)
    assert (last.version, before.version) == (len(numbers) + 1, len(numbers))
    assert (last.document, before.document) == (document(numbers[-1]), document(numbers[-2]))
    assert len(last.created) == 3  # the product and both prices, though the apply that was killed made them
    async with pool.acquire() as connection:
        assert await topics_in_outbox(connection) == ["catalogue.applied"] * last.version
    prices = [price async for price in (await own_stripe.v1.prices.list_async({"limit": 100})).auto_paging_iter()]
    assert max(Counter(price.lookup_key for price in prices).values()) == 1
    assert len({price.id for price in prices} - at_first) == 2 * len(numbers)
    assert sorted(str(price.product) for price in prices if price.active) == [f"turnpike_fresh{numbers[-1]}", "turnpike_steady"]
    meters = (await own_stripe.v1.billing.meters.list_async({"limit": 100})).data
    assert [meter.event_name for meter in meters] == ["turnpike_steady_calls"]
    assert (await applying.look(pool, own, None)).plan.steps == ()
