"""A plan is a pure comparison: each difference is one step that names what is found, what is wanted and why."""

from dataclasses import replace
from typing import Any

import pytest

from billing_common.catalogue import Catalogue
from billing_common.catalogue_stripe import desired_products
from checkout import drift, plan_view, policy
from checkout.apim_gateway import SeenApimProduct
from checkout.plan import Plan, make_plan
from checkout.plan_apim import ApimWorld
from checkout.policy import PolicyError
from checkout.steps import Known
from checkout.stripe_catalogue import SeenMeter, SeenPrice, SeenProduct, StripeWorld


def document(amount: str = "0.15", **fields: Any) -> dict[str, Any]:
    price = {"base": "5", "usage": [{"meter": "calls", "amount": amount, "per": 100}]}
    product = {"id": "it", "name": "It", "description": "Words", "model": "Hybrid", "price": price, "apis": ["orders"], "features": ["a"]}
    return {"version": 1, "meters": {"calls": {"name": "API calls"}}, "products": [product | fields]}


CATALOGUE = Catalogue.from_document(document())
(DESIRED,) = desired_products(CATALOGUE)
BASE, USAGE = DESIRED.prices


def seen_price(price: Any, stripe_id: str) -> SeenPrice:
    return SeenPrice(stripe_id, price.stripe_product_id, price.lookup_key, price.product_id, price.component, price.nickname, active=True)


PRODUCT = SeenProduct("turnpike_it", "it", "It", "Words", ("a",), active=True, default_price="")
METER = SeenMeter("mtr_1", "turnpike_it_calls", "It: API calls", active=True)
AS_APPLIED = StripeWorld(
    {"turnpike_it": PRODUCT}, {"mtr_1": METER}, {"price_b": seen_price(BASE, "price_b"), "price_u": seen_price(USAGE, "price_u")}
)
KNOWN = Known(
    {BASE.lookup_key: "price_b", USAGE.lookup_key: "price_u"},
    {BASE.lookup_key: "USD 5.00 a month", USAGE.lookup_key: "USD 0.15 per 100 calls"},
    {"turnpike_it_calls": "mtr_1"},
)
AT_APIM = SeenApimProduct(
    "It", "Words", True, True, False, frozenset({"developers", "guests", "administrators"}), frozenset({"orders"}),
    policy.merge(None, CATALOGUE.products[0]),
)  # fmt: skip


def planned(
    catalogue: Catalogue = CATALOGUE, stripe: StripeWorld = AS_APPLIED, apim: SeenApimProduct | None = AT_APIM, **more: Any
) -> Plan:
    return make_plan(catalogue, stripe=stripe, apim=ApimWorld(True, {"it": apim} | more), known=KNOWN)


def with_price(stripe_id: str, **fields: Any) -> StripeWorld:
    return replace(AS_APPLIED, prices=AS_APPLIED.prices | {stripe_id: replace(AS_APPLIED.prices[stripe_id], **fields)})


def with_product(**fields: Any) -> StripeWorld:
    return replace(AS_APPLIED, products={"turnpike_it": replace(PRODUCT, **fields)})


def with_meter(**fields: Any) -> StripeWorld:
    return replace(AS_APPLIED, meters={"mtr_1": replace(METER, **fields)})


HAND_MADE = SeenPrice("price_h", "turnpike_it", "", "", "", "special", active=True)
TAKEN = SeenPrice("price_t", "turnpike_it", USAGE.lookup_key, "", "", "", active=True)

STRIPE_DRIFT: list[tuple[StripeWorld, list[str], str]] = [
    (with_product(name="Else"), ["update product turnpike_it"], 'name is "Else", applied was "It"'),
    (with_product(description=""), ["update product turnpike_it"], 'description is none, applied was "Words"'),
    (with_product(features=("a", "b")), ["update product turnpike_it"], "features is a, b, applied was a"),
    (with_product(active=False), ["update product turnpike_it"], "state is inactive, applied was active"),
    (with_product(product_id=""), ["update product turnpike_it"], 'metadata turnpike_product_id is none, applied was "it"'),
    (with_meter(active=False), ["reactivate meter turnpike_it_calls"], "state is inactive, applied was active"),
    (with_meter(display_name="X"), ["update meter turnpike_it_calls"], 'display name is "X", applied was "It: API calls"'),
    (with_price("price_b", active=False), [f"reactivate price {BASE.lookup_key}"], "USD 5.00 a month): state is inactive"),
    (with_price("price_b", nickname="x"), [f"update price {BASE.lookup_key}"], 'nickname is "x", applied was "base fee"'),
    (with_price("price_b", product_id="other"), [f"update price {BASE.lookup_key}"], 'turnpike_product_id is "other", applied was "it"'),
    (with_price("price_b", component=""), [f"update price {BASE.lookup_key}"], 'turnpike_component is none, applied was "base"'),
    (with_price("price_b", lookup_key=""), [f"update price {BASE.lookup_key}"], "lookup key is none, applied was"),
    (replace(AS_APPLIED, products={}), ["create product turnpike_it"], "product turnpike_it is gone (It)"),
    (
        replace(AS_APPLIED, prices=AS_APPLIED.prices | {"price_h": HAND_MADE}),
        ["archive price price_h"],
        "price price_h is active, but the applied catalogue has no such price (special, not of an applied catalogue",
    ),
    (
        replace(AS_APPLIED, prices=with_price("price_u", lookup_key="").prices | {"price_t": TAKEN}),
        [f"update price {USAGE.lookup_key}", "archive price price_t"],
        "lookup key is none",
    ),
    (
        replace(AS_APPLIED, meters={"mtr_1": replace(METER, active=False), "mtr_2": replace(METER, stripe_id="mtr_2")}),
        ["archive meter mtr_2", "reactivate meter turnpike_it_calls"],
        "meter mtr_2 is active",
    ),
]


@pytest.mark.parametrize(("world", "steps", "words"), STRIPE_DRIFT)
def test_what_somebody_changed_at_stripe_is_found_and_put_back(world: StripeWorld, steps: list[str], words: str) -> None:
    found = planned(stripe=world).steps
    assert [f"{step.action} {step.kind} {step.name}" for step in found] == steps
    assert words in drift.finding(found[0])["text"]
    assert drift.finding(found[0])["text"].startswith("Stripe, product it: ")


def block(xml: str, old: str, new: str) -> SeenApimProduct:
    assert old in xml
    return replace(AT_APIM, policy=xml.replace(old, new))


LIMITED = Catalogue.from_document(document(rate_limit={"calls": 5}))
LIMITED_POLICY = policy.merge(None, LIMITED.products[0])

APIM_DRIFT: list[tuple[SeenApimProduct | None, list[str], str]] = [
    (replace(AT_APIM, display_name="Else"), ["update product it"], 'name is "Else", applied was "It"'),
    (replace(AT_APIM, published=False), ["update product it"], "state is hidden, applied was published"),
    (replace(AT_APIM, approval_required=True), ["update product it"], "needs approval is yes, applied was no"),
    (replace(AT_APIM, subscription_required=False), ["update product it"], "needs a subscription is no, applied was yes"),
    (replace(AT_APIM, groups=frozenset({"guests"})), ["link group developers"], "group developers is no longer linked to the product"),
    (replace(AT_APIM, groups=AT_APIM.groups | {"partners"}), ["unlink group partners"], "group partners was linked to the product by hand"),
    (replace(AT_APIM, apis=frozenset()), ["link api orders"], "api orders is no longer linked"),
    (replace(AT_APIM, apis=frozenset({"orders", "billing"})), ["unlink api billing"], "api billing was linked to the product by hand"),
    (replace(AT_APIM, policy=None), ["create policy it"], "policy it is gone (5 calls in 60 s)"),
    (
        block(LIMITED_POLICY, 'calls="5"', 'calls="500"'),
        ["update policy it"],
        'our block in inbound is <rate-limit calls="500" renewal-period="60"/>, applied was <rate-limit calls="5" renewal-period="60"/>',
    ),
    (
        replace(AT_APIM, policy=policy.SKELETON),
        ["update policy it"],
        'our block in inbound is nothing, applied was <rate-limit calls="5" renewal-period="60"/>',
    ),
    (None, ["create product it", "link group developers", "link group guests", "link api orders", "create policy it"], "it is gone (It)"),
]


@pytest.mark.parametrize(("seen", "steps", "words"), APIM_DRIFT)
def test_what_somebody_changed_at_apim_is_found_and_put_back(seen: SeenApimProduct | None, steps: list[str], words: str) -> None:
    if seen is not None and seen.policy == AT_APIM.policy:
        seen = replace(seen, policy=LIMITED_POLICY)
    found = planned(LIMITED, apim=seen).steps
    assert [f"{step.action} {step.kind} {step.name}" for step in found] == steps
    assert words in drift.finding(found[0])["text"]


def test_what_a_person_added_outside_our_block_is_neither_drift_nor_lost() -> None:
    assert AT_APIM.policy is not None
    own = AT_APIM.policy.replace("<inbound>", '<inbound><set-header name="x-own"/>').replace("</backend>", "<retry/></backend>")
    assert planned(apim=replace(AT_APIM, policy=own)).steps == ()
    (step,) = planned(LIMITED, apim=replace(AT_APIM, policy=own)).steps
    assert '<set-header name="x-own"/>' in step.subject
    assert "<retry/>" in step.subject


def test_a_policy_with_half_a_block_stops_the_plan_before_anything_is_done_and_names_the_product() -> None:
    assert AT_APIM.policy is not None
    for mark in (" turnpike:begin ", " turnpike:end "):
        with pytest.raises(PolicyError, match=r"product it: <outbound> of its policy has .* without .*: in the portal, put the other mark"):
            planned(apim=replace(AT_APIM, policy=AT_APIM.policy.replace(f"<!--{mark}-->", "")))


def test_a_changed_amount_is_told_as_the_old_and_the_new_price_in_words_and_money() -> None:
    dearer = Catalogue.from_document(document("0.17"))
    plan = planned(dearer)
    assert [step.action for step in plan.steps] == ["create", "archive"]
    new, old = plan.steps
    assert new.detail == "usage of API calls: USD 0.15 per 100 calls -> USD 0.17 per 100 calls"
    assert (new.replaces, old.replaces) == (USAGE.lookup_key, new.name)
    (product,) = plan_view.by_product(plan, dearer, None)[1:]
    assert product["systems"]["stripe"] == {
        "created": [],
        "replaced": [{"kind": "price", "name": new.name, "text": f"price: {new.detail}"}],
        "changed": [],
        "archived": [],
        "untouched": {"product": 1, "meter": 1, "price": 1},
    }


def test_an_old_price_that_an_interrupted_apply_left_on_sale_is_told_as_archived() -> None:
    dearer = Catalogue.from_document(document("0.17"))
    (new,) = [price for price in desired_products(dearer)[0].prices if price.component == "usage:calls"]
    plan = planned(dearer, replace(AS_APPLIED, prices=AS_APPLIED.prices | {"price_n": seen_price(new, "price_n")}))
    (product,) = plan_view.by_product(plan, dearer, None)[1:]
    assert [entry["name"] for entry in product["systems"]["stripe"]["archived"]] == [USAGE.lookup_key]


def test_a_default_price_that_has_to_go_is_no_longer_the_default_and_any_other_is_left_alone() -> None:
    assert planned(stripe=with_product(default_price="price_b")).steps == ()
    world = replace(with_product(default_price="price_h"), prices=AS_APPLIED.prices | {"price_h": HAND_MADE})
    first = planned(stripe=world).steps[0]
    assert first.text() == 'stripe: update product turnpike_it (default price: "price_h" -> none)'


def test_a_product_that_is_no_longer_sold_is_taken_off_sale_in_both_systems_also_when_it_comes_back_by_hand() -> None:
    gone = SeenProduct("turnpike_gone", "gone", "Gone", "", (), active=True, default_price="")
    world = replace(AS_APPLIED, products=AS_APPLIED.products | {"turnpike_gone": gone})
    steps = planned(stripe=world, gone=replace(AT_APIM, display_name="Gone")).steps
    assert [step.text() for step in steps] == [
        "stripe: archive product turnpike_gone (Gone)",
        "apim: unpublish product gone (Gone; its keys go on working)",
    ]


def test_the_fingerprint_names_all_that_would_be_written_and_the_file() -> None:
    worded = [planned(Catalogue.from_document(document(description=text))).fingerprint for text in ("A", "B")]
    keys = [planned(Catalogue.from_document(document(keys=count))) for count in (1, 2)]
    assert len({*worded, *(plan.fingerprint for plan in keys)}) == 4
    assert [plan.steps for plan in keys] == [(), ()]
    assert planned().fingerprint == planned().fingerprint


def test_calls_go_on_being_recorded_while_somebody_is_billed_by_the_record() -> None:
    counted_elsewhere = Catalogue.from_document(document(source="ingest"))

    def steps(**facts: Any) -> list[str]:
        world = ApimWorld(True, {"it": AT_APIM}, **facts)
        return [step.text() for step in make_plan(counted_elsewhere, stripe=AS_APPLIED, apim=world, known=KNOWN).steps]

    assert any("policy it" in text for text in steps())
    assert steps(recorded={"it"}) == []
    assert steps(takes_records=True) == []  # the last one has moved: the next apply takes it out, and until then nothing is wrong


def test_a_record_that_somebody_took_out_by_hand_is_missed_where_it_bills() -> None:
    counted_elsewhere = Catalogue.from_document(document(source="ingest"))
    without = replace(AT_APIM, policy=policy.merge(None, counted_elsewhere.products[0]))

    def steps(recorded: set[str]) -> list[str]:
        world = ApimWorld(True, {"it": without}, recorded, takes_records=True)
        return [step.text() for step in make_plan(counted_elsewhere, stripe=AS_APPLIED, apim=world, known=KNOWN).steps]

    assert steps(set()) == []
    assert any("policy it" in text for text in steps({"it"}))
