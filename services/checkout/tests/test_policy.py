"""Policies hold our blocks and whatever a person has written beside them."""

import json

import pytest
from lxml import etree

from billing_common.catalogue import Catalogue, Product
from billing_common.catalogue_model import OPERATIONS_MAX
from checkout import policy


def product(**fields: object) -> Product:
    entry = {"id": "it", "name": "It", "model": "Free", "rate_limit": {"calls": 5}, "quota": {"calls": 7}} | fields
    return Catalogue.from_document({"version": 1, "meters": {"calls": {"name": "Calls"}}, "products": [entry]}).products[0]


def test_the_usage_record_is_written_once_in_outbound_and_once_in_on_error() -> None:
    root = etree.fromstring(policy.merge(None, product()))
    assert [element.getparent().tag for element in root.iter("log-to-eventhub")] == ["outbound", "on-error"]  # type: ignore[union-attr]
    names = ["v", "id", "time", "sid", "product", "api", "operation", "method", "template", "status", "requestBytes", "responseBytes"]
    text = next(root.iter("log-to-eventhub")).text or ""
    assert [part.split('"')[1] for part in text.split("new JProperty(")[1:]] == names


def test_a_product_counted_elsewhere_writes_no_usage_record() -> None:
    assert "log-to-eventhub" not in policy.merge(None, product(source="ingest"))


def test_calls_are_recorded_for_those_whom_the_stream_still_bills() -> None:
    gated = product(source="ingest", apis=["orders"], operations={"orders": ["list-orders"]})
    streamed = product(source="stream", apis=["orders"], operations={"orders": ["list-orders"]})
    assert policy.same(policy.merge(None, gated, records=True), policy.merge(None, streamed))


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ({"calls": 7}, ("quota-by-key", "7", "0")),
        ({"calls": 7, "window": "30_days"}, ("quota", "7", "2592000")),
        ({"calls": 7, "beyond": "overage"}, None),
    ],
)
def test_a_quota_becomes_the_element_of_its_window(quota: dict[str, object], expected: tuple[str, str, str] | None) -> None:
    root = etree.fromstring(policy.merge(None, product(quota=quota)))
    found = [(str(e.tag), e.get("calls"), e.get("renewal-period")) for e in root.iter("quota", "quota-by-key")]
    assert found == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("fields", "conditions"),
    [
        ({}, ["RateLimitExceeded", "QuotaExceeded"]),
        ({"quota": {"calls": 7, "window": "30_days"}}, ["RateLimitExceeded", "QuotaExceeded"]),
        ({"quota": {"calls": 7, "beyond": "overage"}}, ["RateLimitExceeded"]),
        ({"rate_limit": None, "quota": {"calls": 7, "beyond": "overage"}}, []),
    ],
)
def test_on_error_answers_for_the_limits_that_the_plan_has(fields: dict[str, object], conditions: list[str]) -> None:
    on_error = etree.fromstring(policy.merge(None, product(**fields))).find("on-error")
    assert on_error is not None
    tags = [str(child.tag) for child in on_error if isinstance(child.tag, str)]
    assert tags == ["base", "log-to-eventhub", *(["choose"] if conditions else [])]
    assert [(when.get("condition") or "").split('"')[1] for when in on_error.iter("when")] == conditions


def test_thirty_days_over_several_keys_are_counted_for_all_of_them() -> None:
    root = etree.fromstring(policy.merge(None, product(quota={"calls": 7, "window": "30_days"}, keys=3)))
    (limit,) = root.iter("quota", "quota-by-key")
    assert (str(limit.tag), limit.get("renewal-period"), limit.get("counter-key")) == (
        "quota-by-key",
        "2592000",
        "@(context.Subscription.Id.Split('_')[0])",
    )


def test_the_gate_stands_behind_the_rate_limit_and_before_the_quota() -> None:
    root = etree.fromstring(policy.merge(None, product(apis=["orders"], operations={"orders": ["list-orders", "get-order"]})))
    inbound = root.find("inbound")
    assert inbound is not None
    assert [str(child.tag) for child in inbound if isinstance(child.tag, str)] == ["base", "rate-limit", "choose", "quota-by-key"]
    (when,) = inbound.iter("when")
    included = 'context.Operation?.Id == "list-orders" || context.Operation?.Id == "get-order"'
    assert when.get("condition") == f'@(context.Api?.Id == "orders" && !({included}))'
    assert [str(child.tag) for child in when] == ["log-to-eventhub", "return-response"]
    assert 'new JProperty("status", 403)' in (when[0].text or "")


def test_the_refusal_of_a_plan_that_is_counted_elsewhere_writes_no_record() -> None:
    fields = {"apis": ["orders"], "operations": {"orders": ["list-orders"]}, "source": "ingest"}
    assert [str(child.tag) for child in next(etree.fromstring(policy.merge(None, product(**fields))).iter("when"))] == ["return-response"]


def test_a_condition_with_the_most_operations_fits_into_apims_longest_expression() -> None:
    ids = [f"{number:02}{'x' * 78}" for number in range(OPERATIONS_MAX)]
    root = etree.fromstring(policy.merge(None, product(apis=["orders"], operations={"orders": ids})))
    assert len(next(root.iter("when")).get("condition") or "") < 16_384


def test_a_name_can_neither_be_an_expression_nor_a_named_value() -> None:
    root = etree.fromstring(policy.merge(None, product(name='A "b" \\ {{secret}} @(1)', apis=["orders"], operations={"orders": ["x"]})))
    bodies = [body.text or "" for body in root.iter("set-body")]
    assert len(bodies) == 3
    assert not any("{{" in body or "@(" in body for body in bodies)
    assert 'A "b" \\ {{secret}} @(1)' in json.loads(bodies[1])["message"]


def test_what_a_person_added_is_kept_and_our_block_is_replaced() -> None:
    by_hand = "<policies><inbound><cors/><base/><set-header name='x'/></inbound><outbound><base/></outbound></policies>"
    first = policy.merge(by_hand, product())
    second = policy.merge(first, product(rate_limit={"calls": 9}))
    inbound = etree.fromstring(second).find("inbound")
    assert inbound is not None
    assert [child.tag for child in inbound if isinstance(child.tag, str)] == ["cors", "base", "rate-limit", "quota-by-key", "set-header"]
    assert 'calls="9"' in second
    assert 'calls="5"' not in second


def test_a_text_that_a_person_wrote_is_kept_to_the_letter() -> None:
    body = "<set-body><![CDATA[<a>  &  </a>]]></set-body><!-- mine:  ä --><set-header name='x'><value>a  b </value></set-header>"
    merged = policy.merge(f"<policies><outbound><base/>{body}</outbound></policies>", product())
    for text in ("<![CDATA[<a>  &  </a>]]>", "<!-- mine:  ä -->", "<value>a  b </value>"):
        assert text in merged
    assert policy.same(merged, policy.merge(merged, product()))


def test_merging_twice_changes_nothing() -> None:
    once = policy.merge(None, product())
    assert policy.same(once, policy.merge(once, product()))
    assert not policy.same(once, policy.merge(once, product(rate_limit={"calls": 6})))


@pytest.mark.parametrize("text", ["<policies>", "<other/>", "<policies><inbound><!-- turnpike:begin --></inbound></policies>"])
def test_a_policy_that_cannot_be_added_to_is_refused(text: str) -> None:
    with pytest.raises(policy.PolicyError):
        policy.merge(text, product())
