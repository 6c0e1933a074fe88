"""The gateway against the sandbox's management API, through the real SDK over TLS."""

from dataclasses import replace

import pytest
from azure.mgmt.apimanagement.aio import ApiManagementClient

from sandbox_apim.app import Sandbox
from sandbox_apim.doors import Fault, FaultMatch
from subscription_enforcer.apim_gateway import ApimError, ApimGateway, Wanted

PLACE = ("turnpike", "turnpike")
WANTED = Wanted(sid="s-1", user_id="u-1", product_id="standard", display_name="Weather", state="active", comment="Turnpike: subscribed")


@pytest.fixture
def gateway(client: ApiManagementClient) -> ApimGateway:
    return ApimGateway(client, resource_group=PLACE[0], service_name=PLACE[1])


async def test_the_same_keys_live_through_suspension_restoration_and_a_change_of_product(
    gateway: ApimGateway, client: ApiManagementClient
) -> None:
    await gateway.apply(WANTED, new=True)
    keys = (await client.subscription.list_secrets(*PLACE, "s-1")).primary_key
    seen = []
    for state, product in (("suspended", "standard"), ("active", "standard"), ("active", "pro"), ("cancelled", "pro")):
        await gateway.apply(replace(WANTED, state=state, product_id=product, comment="Turnpike: test"), new=False)
        found = await client.subscription.get(*PLACE, "s-1")
        seen.append((str(found.state), (found.scope or "").rpartition("/")[2], found.state_comment))
    assert seen == [(state, product, "Turnpike: test") for state, product in
                    (("suspended", "standard"), ("active", "standard"), ("active", "pro"), ("cancelled", "pro"))]  # fmt: skip
    assert (await client.subscription.list_secrets(*PLACE, "s-1")).primary_key == keys


async def test_a_repeated_call_changes_nothing(gateway: ApimGateway, client: ApiManagementClient, sandbox: Sandbox) -> None:
    await gateway.apply(WANTED, new=True)
    version = sandbox.store.version
    await gateway.apply(WANTED, new=False)
    assert sandbox.store.version == version
    assert (await client.subscription.get(*PLACE, "s-1")).owner_id is not None


@pytest.mark.parametrize("state", ["suspended", "cancelled"])
async def test_what_is_not_there_needs_no_stop(gateway: ApimGateway, state: str) -> None:
    await gateway.apply(replace(WANTED, state=state), new=False)
    assert [found.sid async for found in gateway.list_all()] == ["master"]


@pytest.mark.parametrize(("field", "text"), [("user_id", "ownerId"), ("product_id", "scope")])
async def test_a_missing_user_or_product_is_told_in_arm_s_words(gateway: ApimGateway, field: str, text: str) -> None:
    with pytest.raises(ApimError, match=rf"^refused: ValidationError.*{text}"):
        await gateway.apply(replace(WANTED, **{field: "nobody"}), new=True)


@pytest.mark.parametrize("status", [409, 412, 422, 503])
async def test_a_collision_is_tried_again_with_what_is_there_now(gateway: ApimGateway, sandbox: Sandbox, status: int) -> None:
    await gateway.apply(WANTED, new=True)
    sandbox.faults.waiting.append(Fault(match=FaultMatch(path_prefix="/subscriptions/s-1", method="PATCH"), status=status))
    await gateway.apply(replace(WANTED, state="suspended"), new=False)
    assert not sandbox.faults.waiting
    assert {found.sid: found.state async for found in gateway.list_all()}["s-1"] == "suspended"


async def test_a_new_one_is_not_looked_for_and_a_repetition_is(gateway: ApimGateway, client: ApiManagementClient, sandbox: Sandbox) -> None:
    sandbox.faults.waiting.append(Fault(match=FaultMatch(path_prefix="/subscriptions/s-1", method="GET"), status=400))
    await gateway.apply(WANTED, new=True)
    assert len(sandbox.faults.waiting) == 1  # nobody asked
    sandbox.faults.waiting.clear()
    await gateway.apply(replace(WANTED, state="suspended"), new=False)
    sandbox.faults.waiting.append(Fault(match=FaultMatch(path_prefix="/subscriptions/s-1", method="PUT"), status=409))
    await gateway.apply(replace(WANTED, comment="Turnpike: found"), new=True)
    found = await client.subscription.get(*PLACE, "s-1")
    assert (str(found.state), found.state_comment) == ("active", "Turnpike: found")  # only a PATCH of what was found can say so


async def test_an_outage_ends_as_an_error_that_says_later(gateway: ApimGateway, sandbox: Sandbox) -> None:
    sandbox.faults.waiting.append(Fault(status=409, times=100))
    with pytest.raises(ApimError, match=r"^later: "):
        await gateway.apply(WANTED, new=True)


async def test_the_list_names_state_and_product_and_foreign_ones_have_none(gateway: ApimGateway) -> None:
    await gateway.apply(WANTED, new=True)
    listed = {found.sid: (found.state, found.product_id) async for found in gateway.list_all()}
    assert listed == {"master": ("active", ""), "s-1": ("active", "standard")}
