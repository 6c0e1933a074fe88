"""Why an event adds nothing to a bill, in words: the collector names the reasons, pages and explanations say them."""

from collections.abc import Mapping

WAITS = "waits until it can be judged"  # held, for any other reason
WORDS: Mapping[str, str] = {
    "blocked": "refused by the gateway (401, 403 or 429)",
    "failed": "answered with an error",
    "no_status": "never answered",
    "meter_filter": "not of the kind that the meter counts",
    "other_source": "sent by a source that does not bill this product",
    "read_again": "counted by reports before its plan or source was known: counted anew",
    "no_subscription": "without a subscription's key",
    "too_old": "older than what is taken",
    "in_the_future": "dated in the future",
    "unknown_meter": "names a meter that the product does not have",
    "quantity_too_large": "larger than what is taken",
    "total_too_large": "would make its hour larger than what Stripe takes",
    "subscription_ended": "after the subscription had ended",
    "deleted": "deleted by a correction",
    "late": "came after its period was closed: kept for a person",
    "late_billed": "came after its period was closed: on a line of its own",
    "late_waived": "came after its period was closed: not charged",
    "too_old_to_bill": "older than Stripe takes: kept for a person",
    "below_zero": "a correction that would leave less than nothing",
    "no_property": "does not say what the meter counts",
    "missing_property": "lacks the property that the meter adds up",
}
