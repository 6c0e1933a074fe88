"""Further keys on a subscription's page: added by name, shown by POST, replaced, revoked, and never more than the plan has."""

from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from billing_common.events import AccessGranted, AccessSuspended, SubscriptionKeysChanged
from billing_common.testing import events_in_outbox
from delegation_gateway.parts import Parts

from .conftest import Story

Publish = Callable[..., Any]


class Keys:
    """A member's live subscription to Pro, which has five keys."""

    def __init__(self, story: Story, connection: asyncpg.Connection) -> None:
        self.story, self.connection = story, connection
        self.sid, self.browser = story.subscription_id, story.member.browser
        self.address = f"/subscriptions/{self.sid}/keys"

    async def access(self, *sids: str, revision: int, kind: Any = AccessGranted) -> None:
        values = {"user_id": self.story.member.user_id, "product_id": "pro", "sid": self.sid, "revision": revision}
        told = kind(**self.story._common(), **values, sids=sids, reason="keys", effective_at=self.story.parts.clock.now())
        await self.story.publish(told)

    async def add(self, name: str = "Shop", **fields: str) -> Any:
        return await self.browser.submit(await self.story.page(), self.address, name=name, **fields)

    async def told(self) -> list[SubscriptionKeysChanged]:
        return await events_in_outbox(self.connection, SubscriptionKeysChanged)


@pytest.fixture
async def keys(member: Any, applied: int, parts: Parts, publish: Publish, connection: asyncpg.Connection) -> Keys:
    story = Story(member, parts, publish, await member.subscribe("pro"), "pro")
    found = Keys(story, connection)
    await story.state()
    await found.access(found.sid, revision=1)
    return found


async def test_a_key_is_asked_for_by_name_and_shown_when_it_is_there(keys: Keys, apim: Any) -> None:
    assert (await keys.add("Mobile app")).status_code == 303
    (event,) = await keys.told()
    assert (event.revision, [(key.sid, key.name, key.revoked) for key in event.keys]) == (1, [(f"{keys.sid}_2", "Mobile app", False)])
    page = await keys.story.page()
    assert "Mobile app" in page.text
    assert "It is being made" in page.text
    await keys.access(keys.sid, f"{keys.sid}_2", revision=2)
    page = await keys.story.page()
    assert "secondary-of" not in page.text
    shown = await keys.browser.submit(page, f"{keys.address}/2/show")
    assert f"primary-of-{keys.sid}_2" in shown.text
    assert f"secondary-of-{keys.sid}_2" in shown.text
    assert apim.keys_shown == [f"{keys.sid}_2"]
    assert (await keys.browser.get(f"{keys.address}/2/show")).status_code == 405


async def test_the_plan_says_how_many(keys: Keys) -> None:
    page = await keys.story.page()
    for name in ("a", "b", "c", "d"):
        assert (await keys.add(name)).status_code == 303
    late = await keys.browser.submit(page, keys.address, name="e")  # the form of a page from before
    assert late.status_code == 409
    assert "Your plan has 5 keys" in late.text
    assert len((await keys.told())[-1].keys) == 4
    full = await keys.story.page()
    assert "5 of 5 keys" in full.text
    assert "Add a key" not in full.text


async def test_a_revoked_key_makes_room_and_its_number_is_not_used_again(keys: Keys) -> None:
    for name in ("a", "b"):
        await keys.add(name)
    await keys.access(keys.sid, f"{keys.sid}_2", f"{keys.sid}_3", revision=2)
    assert (await keys.browser.submit(await keys.story.page(), f"{keys.address}/3/revoke")).status_code == 303
    await keys.add("c")
    last = (await keys.told())[-1]
    assert last.revision == 4
    assert {key.sid.rsplit("_", 1)[1]: key.revoked for key in last.keys} == {"2": False, "3": True, "4": False}
    assert "#key-3" not in (await keys.story.page()).text
    assert (await keys.browser.submit(await keys.story.page(), f"{keys.address}/2/show")).status_code == 200


async def test_a_double_click_is_one_key_and_revoking_twice_is_told_once(keys: Keys) -> None:
    page = await keys.story.page()
    for _ in range(2):
        assert (await keys.browser.submit(page, keys.address, name="a")).status_code == 303
    assert len(await keys.told()) == 1
    await keys.access(keys.sid, f"{keys.sid}_2", revision=2)
    page = await keys.story.page()
    for _ in range(2):
        await keys.browser.submit(page, f"{keys.address}/2/revoke")
    assert len(await keys.told()) == 2


@pytest.mark.parametrize(("number", "which"), [(1, "primary"), (1, "secondary"), (2, "secondary")])
async def test_a_value_is_replaced_and_the_new_ones_shown(keys: Keys, apim: Any, number: int, which: str) -> None:
    await keys.add("a")
    await keys.access(keys.sid, f"{keys.sid}_2", revision=2)
    answer = await keys.browser.submit(await keys.story.page(), f"{keys.address}/{number}/regenerate", which=which)
    sid = keys.sid if number == 1 else f"{keys.sid}_2"
    assert apim.regenerated == [(sid, which)]
    assert f"{which}-of-{sid}" in answer.text


async def test_the_first_key_lives_as_long_as_its_subscription(keys: Keys) -> None:
    page = await keys.story.page()
    token = page.text.split('name="form_token" value="')[1].split('"')[0]
    answer = await keys.browser.post(f"{keys.address}/1/revoke", form_token=token)
    assert answer.status_code == 409
    assert await keys.told() == []


@pytest.mark.parametrize("name", ["", "   ", "x" * 101, "a\nb"])
async def test_a_key_needs_a_name(keys: Keys, name: str) -> None:
    answer = await keys.add(name)
    assert answer.status_code == 422
    assert await keys.told() == []


async def test_no_key_is_added_while_access_is_suspended(keys: Keys) -> None:
    page = await keys.story.page()
    await keys.access(keys.sid, revision=2, kind=AccessSuspended)
    assert "Add a key" not in (await keys.story.page()).text
    assert (await keys.browser.submit(page, keys.address, name="a")).status_code == 409
    assert await keys.told() == []


async def test_a_plan_with_one_key_offers_no_more(member: Any, applied: int, parts: Parts, publish: Publish) -> None:
    story = Story(member, parts, publish, await member.subscribe("basic"), "basic")
    await story.state()
    await story.access()
    assert "Add a key" not in (await story.page()).text


async def test_keys_of_another_account_are_not_found(keys: Keys, stranger: Any, apim: Any) -> None:
    await keys.add("a")
    await keys.access(keys.sid, f"{keys.sid}_2", revision=2)
    token = (await stranger.browser.get("/subscriptions")).text.split('name="form_token" value="')[1].split('"')[0]
    for step in ("", "/1/show", "/2/show", "/2/regenerate", "/2/revoke"):
        answer = await stranger.browser.post(keys.address + step, form_token=token, form_id="x", name="a")
        assert answer.status_code == 404, step
    without_form = await keys.browser.post(f"{keys.address}/2/show")
    assert without_form.status_code == 403
    assert (apim.keys_shown, apim.regenerated, len(await keys.told())) == ([], [], 1)


async def test_a_key_that_is_not_there_cannot_be_shown(keys: Keys, apim: Any) -> None:
    await keys.add("a")
    token = (await keys.story.page()).text.split('name="form_token" value="')[1].split('"')[0]
    for number in (2, 3):
        assert (await keys.browser.post(f"{keys.address}/{number}/show", form_token=token)).status_code == 404
    assert apim.keys_shown == []


async def test_a_further_key_in_the_portal_leads_to_the_keys_and_not_to_the_end_of_the_subscription(keys: Keys) -> None:
    await keys.add("a")
    await keys.access(keys.sid, f"{keys.sid}_2", revision=2)
    answer = await keys.browser.get(keys.story.member.link("Unsubscribe", subscriptionId=f"{keys.sid}_2"))
    assert answer.headers["location"] == f"/subscriptions/{keys.sid}#keys"
