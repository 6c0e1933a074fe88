"""Things changed by hand at both sandboxes are found against the applied version, shown as figures, and put back."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest
import stripe
from prometheus_client import REGISTRY

from checkout import applying, drift, store_catalogue, store_drift
from checkout.apim_gateway import ApimUnavailableError
from checkout.carrying import Outside
from checkout.drift import Watch
from checkout.settings import Settings
from checkout.store_catalogue import Version

Topics = Callable[[], Awaitable[list[str]]]
HOUR = timedelta(hours=1)


@pytest.fixture
async def arm(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A person with the portal open: ARM without Turnpike's gateway."""
    service = f"/subscriptions/0/resourceGroups/local/providers/Microsoft.ApiManagement/service/{settings.apim_service_name}"
    assert settings.apim_static_token is not None
    headers = {"authorization": f"Bearer {settings.apim_static_token.get_secret_value()}", "if-match": "*"}
    verify = ssl.create_default_context(cafile=str(settings.apim_ca_file))
    base = f"{settings.apim_base_url}{service}"
    async with httpx.AsyncClient(base_url=base, headers=headers, params={"api-version": "2024-05-01"}, verify=verify) as client:
        yield client


def figures() -> dict[tuple[str, str], float]:
    samples = next(metric for metric in REGISTRY.collect() if metric.name == "turnpike_catalogue_drift").samples
    return {(sample.labels["system"], sample.labels["kind"]): sample.value for sample in samples}


async def changed_by_hand(stripe_api: stripe.StripeClient, arm: httpx.AsyncClient, ids: dict[str, Any]) -> None:
    v1 = stripe_api.v1
    await v1.products.update_async("turnpike_pro", {"name": "Professional", "active": False})
    await v1.prices.update_async(ids["pro"]["prices"]["usage:calls"], {"active": False})
    await v1.prices.update_async(ids["pro"]["prices"]["base"], {"nickname": "ours", "metadata": {"turnpike_product_id": ""}})
    await v1.billing.meters.deactivate_async(ids["payg"]["meters"]["calls"]["id"])
    taken = await v1.prices.retrieve_async(ids["standard"]["prices"]["base"])
    assert taken.lookup_key is not None
    recurring: Any = {"interval": "month"}
    own = await v1.prices.create_async(
        {
            "product": "turnpike_standard", "currency": "usd", "unit_amount": 1, "recurring": recurring,
            "lookup_key": taken.lookup_key, "transfer_lookup_key": True,
        }
    )  # fmt: skip
    await v1.products.update_async("turnpike_standard", {"default_price": own.id})
    for method, path, body in (
        ("PATCH", "/products/basic", {"properties": {"state": "notPublished", "displayName": "B"}}),
        ("DELETE", "/products/basic/groups/guests", None),
        ("DELETE", "/products/basic/apis/orders", None),
        ("DELETE", "/products/free", None),
    ):
        (await arm.request(method, path, json=body)).raise_for_status()
    await edit_policy(arm, "pro", "<inbound>", '<inbound>\n<set-header name="x-own" exists-action="delete" />')
    await edit_policy(arm, "standard", 'calls="100"', 'calls="999"')


async def edit_policy(arm: httpx.AsyncClient, product: str, old: str, new: str) -> None:
    path = f"/products/{product}/policies/policy"
    xml = (await arm.get(path, params={"format": "rawxml"})).json()["properties"]["value"]
    assert old in xml
    (await arm.put(path, json={"properties": {"format": "rawxml", "value": xml.replace(old, new)}})).raise_for_status()


async def test_all_that_was_changed_by_hand_is_found_shown_as_figures_and_put_back_without_the_file(
    applied: Version, door: httpx.AsyncClient, stripe_api: stripe.StripeClient, arm: httpx.AsyncClient, outbox: Topics, outside: Outside
) -> None:
    none = (await door.get("/v1/catalogue/drift")).json()
    assert (none["drift"], none["findings"], none["version"], none["unfinished_apply"]) == (False, [], 1, None)
    await changed_by_hand(stripe_api, arm, applied.stripe_ids)
    found = (await door.get("/v1/catalogue/drift")).json()
    named = sorted((one["system"], one["product_id"], one["kind"]) for one in found["findings"])
    assert named == [
        ("apim", "basic", "api"), ("apim", "basic", "group"), ("apim", "basic", "product"),
        ("apim", "free", "api"), ("apim", "free", "group"), ("apim", "free", "group"), ("apim", "free", "policy"),
        ("apim", "free", "product"),
        ("apim", "standard", "policy"),
        ("stripe", "payg", "meter"), ("stripe", "pro", "price"), ("stripe", "pro", "price"), ("stripe", "pro", "product"),
        ("stripe", "standard", "price"), ("stripe", "standard", "price"), ("stripe", "standard", "product"),
    ]  # fmt: skip
    assert figures() == {
        ("stripe", "product"): 2, ("stripe", "meter"): 1, ("stripe", "price"): 4,
        ("apim", "logger"): 0, ("apim", "product"): 2, ("apim", "group"): 3, ("apim", "api"): 2, ("apim", "policy"): 2,
    }  # fmt: skip
    moved = await door.post("/v1/catalogue/repair", params={"plan": none["plan"]})
    assert (moved.status_code, moved.json()["error"]["code"]) == (409, "plan_moved")
    repaired = (await door.post("/v1/catalogue/repair", params={"plan": found["plan"], "by": "Anna"})).json()
    assert (repaired["version"], repaired["new_version"], repaired["stripe_ids"]) == (1, False, applied.stripe_ids)
    assert await outbox() == []
    after = (await door.get("/v1/catalogue/drift")).json()
    assert (after["findings"], set(figures().values())) == ([], {0})
    own = await outside.apim.read_product("pro")
    assert own is not None
    assert own.policy is not None
    assert 'name="x-own"' in own.policy  # what a person added beside our block was neither drift nor lost
    assert len((await stripe_api.v1.prices.list_async({"product": "turnpike_standard", "active": True})).data) == 2


async def test_the_watch_looks_once_an_interval_and_every_replica_shows_what_was_found(
    applied: Version, pool: asyncpg.Pool, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    async def counted(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        return await look(*arguments)

    look = drift.find
    monkeypatch.setattr(drift, "find", counted)
    first, second = (Watch(pool, outside, interval=HOUR) for _ in range(2))
    await first.once()
    assert looks == 0  # nothing was applied through this database, so nobody has to look
    await store_drift.note(pool, 1, [{"system": "stripe", "kind": "price"}])
    await pool.execute("update catalogue_drift set checked_at = now() - interval '61 minutes', claimed_at = 'epoch'")
    await second.once()
    await first.once()
    assert (looks, figures()["stripe", "price"]) == (1, 0)
    await store_drift.note(pool, 1, [{"system": "stripe", "kind": "price"}])
    await first.once()
    assert (looks, figures()["stripe", "price"]) == (1, 1)


async def test_a_look_that_fails_keeps_the_last_figures_and_is_tried_again_soon(
    applied: Version, pool: asyncpg.Pool, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down() -> None:
        raise ApimUnavailableError("HTTP 503")

    await store_drift.note(pool, 1, [{"system": "apim", "kind": "policy"}])
    await pool.execute("update catalogue_drift set checked_at = now() - interval '3 hours', claimed_at = 'epoch'")
    with monkeypatch.context() as outage:
        outage.setattr(outside.apim, "logger_is_right", down)
        await Watch(pool, outside, interval=HOUR).once()
    assert figures()["apim", "policy"] == 1
    assert await store_drift.claim(pool, HOUR) is False
    await pool.execute("update catalogue_drift set claimed_at = claimed_at - interval '6 minutes'")
    await Watch(pool, outside, interval=HOUR).once()
    assert figures()["apim", "policy"] == 0


async def test_nothing_is_said_about_drift_while_an_apply_is_at_work_or_before_the_first(
    pool: asyncpg.Pool, door: httpx.AsyncClient, version_outside: Version
) -> None:
    nothing = await door.get("/v1/catalogue/drift")
    assert (nothing.status_code, nothing.json()["error"]["code"]) == (409, "no_catalogue")
    assert (await door.post("/v1/catalogue/repair")).json()["error"]["code"] == "no_catalogue"
    async with pool.acquire() as connection:
        await store_catalogue.add(connection, version_outside)
    async with store_catalogue.apply_lock(pool):
        busy = await door.get("/v1/catalogue/drift")
    assert (busy.status_code, busy.json()["error"]["code"]) == (409, "apply_running")


async def test_a_look_that_an_apply_overtook_is_not_noted(
    applied: Version, pool: asyncpg.Pool, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = applying.look

    async def overtaken(*arguments: Any) -> Any:
        looked = await look(*arguments)
        await pool.execute(
            "insert into catalogue_apply(apply_id, digest, requested_by, started_at) values (gen_random_uuid(), '', 'x', now())"
        )
        await pool.execute("update catalogue_apply set state = 'done'")
        return looked

    monkeypatch.setattr(drift, "look", overtaken)
    await drift.find(pool, outside)
    assert await store_drift.last(pool) is None


async def test_drift_after_half_an_apply_says_where_it_comes_from(applied: Version, pool: asyncpg.Pool, door: httpx.AsyncClient) -> None:
    await pool.execute(
        "insert into catalogue_apply(apply_id, digest, requested_by, started_at, state, done, remaining, error)"
        " values (gen_random_uuid(), '', 'Anna', now(), 'failed', '[\"a\"]', '[\"b\"]', 'HTTP 500')"
    )
    unfinished = (await door.get("/v1/catalogue/drift")).json()["unfinished_apply"]
    assert (unfinished["requested_by"], unfinished["done"], unfinished["remaining"], unfinished["error"]) == (
        "Anna",
        ["a"],
        ["b"],
        "HTTP 500",
    )
    await door.post("/v1/catalogue/repair")
    assert (await door.get("/v1/catalogue/drift")).json()["unfinished_apply"] is None
