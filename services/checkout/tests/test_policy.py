"""Policies hold our blocks and whatever a person has written beside them."""

import pytest
from lxml import etree

from billing_common.catalogue import Catalogue, Product
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


def test_a_used_up_month_is_answered_with_the_limit_and_when_the_next_begins() -> None:
    root = etree.fromstring(policy.merge(None, product(quota={"calls": 1700})))
    on_error = root.find("on-error")
    assert on_error is not None
    assert [str(child.tag) for child in on_error if isinstance(child.tag, str)] == ["base", "log-to-eventhub", "choose"]
    assert "The 1,700 calls of the plan It for this calendar month are used up." in next(on_error.iter("set-body")).text
    assert "choose" not in policy.merge(None, product(quota={"calls": 7, "window": "30_days"}))


def test_what_a_person_added_is_kept_and_our_block_is_replaced() -> None:
    by_hand = "<policies><inbound><cors/><base/><set-header name='x'/></inbound><outbound><base/></outbound></policies>"
    first = policy.merge(by_hand, product())
    second = policy.merge(first, product(rate_limit={"calls": 9}))
    inbound = etree.fromstring(second).find("inbound")
    assert inbound is not None
    assert [child.tag for child in inbound if isinstance(child.tag, str)] == ["cors", "base", "rate-limit", "quota-by-key", "set-header"]
    assert 'calls="9"' in second
    assert 'calls="5"' not in second


def test_merging_twice_changes_nothing() -> None:
    once = policy.merge(None, product())
    assert policy.same(once, policy.merge(once, product()))
    assert not policy.same(once, policy.merge(once, product(rate_limit={"calls": 6})))


@pytest.mark.parametrize("text", ["<policies>", "<other/>", "<policies><inbound><!-- turnpike:begin --></inbound></policies>"])
def test_a_policy_that_cannot_be_added_to_is_refused(text: str) -> None:
    with pytest.raises(policy.PolicyError):
        policy.merge(text, product())
