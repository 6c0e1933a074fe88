"""The names of a subscription's keys at API Management: each key is an APIM subscription, the first has the subscription's own id."""

SEPARATOR = "_"  # stands in no id of a subscription; the policies cut the name there


def sid_of(subscription_id: str, number: int) -> str:
    """Return the sid of a subscription's key; the first is number 1."""
    return subscription_id if number == 1 else f"{subscription_id}{SEPARATOR}{number}"


def subscription_of(sid: str) -> str:
    """Return the subscription that a key belongs to."""
    return sid.split(SEPARATOR, 1)[0]
