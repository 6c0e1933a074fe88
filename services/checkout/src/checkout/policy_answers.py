"""What a caller is told when the gateway refuses a call: JSON that names the plan, what is used up or missing, and where to upgrade."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from lxml import etree

from billing_common.catalogue import Product

THIRTY_DAYS = "30 days"
SECONDS_TO_NEXT_MONTH = (
    "@(((DateTime.DaysInMonth(context.Timestamp.Year, context.Timestamp.Month) - context.Timestamp.Day + 1) * 86400"
    " - context.Timestamp.Hour * 3600 - context.Timestamp.Minute * 60 - context.Timestamp.Second).ToString())"
)
RATE_LIMITED = '@(context.LastError?.Reason == "RateLimitExceeded")'
QUOTA_EXCEEDED = '@(context.LastError?.Reason == "QuotaExceeded")'
UNKNOWN_WAIT_SECONDS = 3600  # only where the gateway itself does not say when the quota begins anew

Element = etree._Element  # noqa: SLF001 - lxml has no public name for it


@dataclass(frozen=True)
class Plans:
    """Where a caller finds the plans: the address of the pricing page, where it is known."""

    pricing_url: str | None = None

    @property
    def words(self) -> str:
        return f"see {self.pricing_url}" if self.pricing_url else "see the plans in the developer portal"


def of_limits(product: Product, plans: Plans) -> list[Element]:
    """Return what on-error says of the limits that the product has; other refusals keep the gateway's own words."""
    branches = []
    if product.rate_limit:
        branches.append(_rate_limited(product, plans))
    if product.quota and product.quota.beyond == "stop":
        branches.append(_quota_used_up(product, plans))
    if not branches:
        return []
    choose = etree.Element("choose")
    choose.extend(branches)
    return [choose]


def _rate_limited(product: Product, plans: Plans) -> Element:
    assert product.rate_limit is not None
    calls, window = product.rate_limit.calls, f"{product.rate_limit.per_seconds} seconds"
    message = (
        f"The plan {product.name} takes {calls:,} calls in {window} with one key. "
        f"Call again after the seconds that Retry-After names; for a plan that takes more, {plans.words}."
    )
    wait = _seconds_of_the_gateway(product.rate_limit.per_seconds)
    return _when(RATE_LIMITED, _answer(429, wait, _body(429, "rate_limit_exceeded", message, product, plans, limit=calls, window=window)))


def _quota_used_up(product: Product, plans: Plans) -> Element:
    assert product.quota is not None
    calls = product.quota.calls
    if product.quota.window == "calendar_month":  # the gateway cannot know its end: the counter's key changes, never its period
        window, wait = "calendar month", SECONDS_TO_NEXT_MONTH
        begins = "The next month begins at 00:00 UTC on its first day"
    else:
        window, wait = THIRTY_DAYS, _seconds_of_the_gateway(UNKNOWN_WAIT_SECONDS)
        begins = "The next 30 days begin after the seconds that Retry-After names"
    message = f"The {calls:,} calls of the plan {product.name} in this {window} are used up. {begins}; for a plan with more, {plans.words}."
    body = _body(403, "quota_exceeded", message.replace("this 30", "these 30"), product, plans, limit=calls, window=window)
    return _when(QUOTA_EXCEEDED, _answer(403, wait, body))


def not_in_plan(product: Product, api: str, plans: Plans) -> Element:
    """Return the answer to a call of an operation that the plan does not have."""
    lacks = f"The plan {product.name} does not include the operation "
    said = {
        "statusCode": "403",
        "code": _csharp("operation_not_in_plan"),
        "message": f"{_csharp(lacks)} + context.Operation?.Id + {_csharp(f' of {api}: for a plan that does, {plans.words}.')}",
        "plan": _csharp(product.id),
        "api": _csharp(api),
        "operation": "context.Operation?.Id",
        **({"upgrade": _csharp(plans.pricing_url)} if plans.pricing_url else {}),
    }
    properties = ", ".join(f'new JProperty("{name}", {value})' for name, value in said.items())
    return _answer(403, None, f"@{{ return new JObject({properties}).ToString(Newtonsoft.Json.Formatting.None); }}")


def _when(condition: str, answer: Element) -> Element:
    when = etree.Element("when", {"condition": condition})
    when.append(answer)
    return when


def _answer(status: Literal[403, 429], retry_after: str | None, body: str) -> Element:
    answer = etree.Element("return-response")
    etree.SubElement(answer, "set-status", {"code": str(status), "reason": {403: "Forbidden", 429: "Too Many Requests"}[status]})
    for name, value in (("Retry-After", retry_after), ("Content-Type", "application/json")):
        if value is not None:
            header = etree.SubElement(answer, "set-header", {"name": name, "exists-action": "override"})
            etree.SubElement(header, "value").text = value
    etree.SubElement(answer, "set-body").text = body
    return answer


def _body(status: int, code: str, message: str, product: Product, plans: Plans, **said: Any) -> str:
    upgrade = {"upgrade": plans.pricing_url} if plans.pricing_url else {}
    return _literal({"statusCode": status, "message": message, "code": code, "plan": product.id, **said, **upgrade})


def _seconds_of_the_gateway(otherwise: int) -> str:
    """Return what the limit itself has set as Retry-After: return-response begins with a new response."""
    return f'@(context.Response?.Headers.GetValueOrDefault("Retry-After", "{otherwise}") ?? "{otherwise}")'


def _literal(value: Any) -> str:
    """Return JSON in which API Management finds neither an expression nor a named value."""
    return json.dumps(value).replace("{{", "{\\u007b").replace("@(", "\\u0040(").replace("@{", "\\u0040{")


def _csharp(text: str) -> str:
    """Return a C# string literal: JSON's escapes are C#'s as well."""
    return _literal(text)
