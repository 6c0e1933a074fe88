"""APIM product policies: rate limit, quota and the usage record, in marked blocks beside what a person has written."""

import json

from lxml import etree

from billing_common.catalogue import Product

LOGGER_ID = "turnpike-usage"
BEGIN, END = "turnpike:begin", "turnpike:end"
SECTIONS = ("inbound", "backend", "outbound", "on-error")
THIRTY_DAYS_SECONDS = 2_592_000
SKELETON = (
    "<policies><inbound><base /></inbound><backend><base /></backend><outbound><base /></outbound><on-error><base /></on-error></policies>"
)
MONTH_KEY = '@(context.Subscription.Id + "-" + context.Timestamp.ToString("yyyyMM"))'
PARTITION_KEY = '@(context.Subscription?.Id ?? "none")'
SECONDS_TO_NEXT_MONTH = (
    "@(((DateTime.DaysInMonth(context.Timestamp.Year, context.Timestamp.Month) - context.Timestamp.Day + 1) * 86400"
    " - context.Timestamp.Hour * 3600 - context.Timestamp.Minute * 60 - context.Timestamp.Second).ToString())"
)
QUOTA_EXCEEDED = '@(context.LastError?.Reason == "QuotaExceeded")'
# The fields of docs/architecture.md "Usage on the wire". Plain expressions only: gateways that know a closed list know these.
USAGE_RECORD = """@{
    return new JObject(
        new JProperty("v", 1),
        new JProperty("id", context.RequestId.ToString()),
        new JProperty("time", context.Timestamp.ToUniversalTime().ToString("o")),
        new JProperty("sid", context.Subscription?.Id),
        new JProperty("product", context.Product?.Id),
        new JProperty("api", context.Api?.Id),
        new JProperty("operation", context.Operation?.Id),
        new JProperty("method", context.Request.Method),
        new JProperty("template", context.Operation?.UrlTemplate),
        new JProperty("status", context.Response?.StatusCode ?? 0),
        new JProperty("requestBytes", long.Parse(context.Request.Headers.GetValueOrDefault("Content-Length", "0"))),
        new JProperty("responseBytes", long.Parse(context.Response?.Headers.GetValueOrDefault("Content-Length", "0") ?? "0"))
    ).ToString(Newtonsoft.Json.Formatting.None);
}"""

Element = etree._Element  # noqa: SLF001 - lxml has no public name for it
Comment = etree._Comment  # noqa: SLF001


class PolicyError(Exception):
    """The policy that stands at APIM is not one we can add to."""


def merge(existing: str | None, product: Product) -> str:
    """Return the product's policy as XML: our blocks replaced, everything else kept as it is."""
    root = _parse(existing or SKELETON)
    wanted = {"inbound": _limits(product), "outbound": _usage(product), "on-error": [*_usage(product), *_month_is_used_up(product)]}
    for name in SECTIONS:
        section = root.find(name)
        if section is None:
            section = etree.SubElement(root, name)
            etree.SubElement(section, "base")
        _remove_block(section)
        _insert_block(section, wanted.get(name, []))
    etree.indent(root, space="  ")
    return etree.tostring(root, encoding="unicode")


def same(left: str | None, right: str) -> bool:
    """Tell whether two policies mean the same: white space between elements does not count."""
    return left is not None and _canonical(left) == _canonical(right)


def _parse(xml: str) -> Element:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_blank_text=True, huge_tree=False)
    try:
        root = etree.fromstring(xml.encode(), parser)
    except etree.XMLSyntaxError as error:
        raise PolicyError(f"the policy at APIM is not XML: {error.msg}") from error
    if root.tag != "policies":
        raise PolicyError("the policy at APIM does not start with <policies>")
    return root


def _canonical(xml: str) -> bytes:
    try:
        return etree.tostring(_parse(xml), method="c14n", with_comments=True)
    except PolicyError:
        return b""


def _limits(product: Product) -> list[Element]:
    found: list[Element] = []
    if product.rate_limit:
        limit = {"calls": str(product.rate_limit.calls), "renewal-period": str(product.rate_limit.per_seconds)}
        found.append(etree.Element("rate-limit", limit))
    if product.quota and product.quota.beyond == "stop":
        calls = str(product.quota.calls)
        if product.quota.window == "30_days":
            found.append(etree.Element("quota", {"calls": calls, "renewal-period": str(THIRTY_DAYS_SECONDS)}))
        else:  # The key names the month, so its counter never has to be renewed: 0 is for ever.
            found.append(etree.Element("quota-by-key", {"calls": calls, "renewal-period": "0", "counter-key": MONTH_KEY}))
    return found


def _month_is_used_up(product: Product) -> list[Element]:
    """Say when the month's quota begins anew: the gateway cannot know, for the counter's key changes and never its period."""
    if not product.quota or product.quota.beyond != "stop" or product.quota.window != "calendar_month":
        return []
    choose = etree.Element("choose")
    answer = etree.SubElement(etree.SubElement(choose, "when", {"condition": QUOTA_EXCEEDED}), "return-response")
    etree.SubElement(answer, "set-status", {"code": "403", "reason": "Forbidden"})
    for name, value in (("Retry-After", SECONDS_TO_NEXT_MONTH), ("Content-Type", "application/json")):
        header = etree.SubElement(answer, "set-header", {"name": name, "exists-action": "override"})
        etree.SubElement(header, "value").text = value
    message = (
        f"The {product.quota.calls:,} calls of the plan {product.name} for this calendar month are used up. "
        "The next month begins at 00:00 UTC on its first day; a larger plan works at once."
    )
    etree.SubElement(answer, "set-body").text = json.dumps({"statusCode": 403, "message": message})
    return [choose]


def _usage(product: Product) -> list[Element]:
    """Write the record where the stream counts; a product that is counted elsewhere must not be counted twice."""
    if product.source != "stream":
        return []
    element = etree.Element("log-to-eventhub", {"logger-id": LOGGER_ID, "partition-key": PARTITION_KEY})
    element.text = USAGE_RECORD
    return [element]


def _remove_block(section: Element) -> None:
    inside = False
    for node in list(section):
        comment = (node.text or "").strip() if isinstance(node, Comment) else ""
        inside = inside or comment == BEGIN
        if inside:
            section.remove(node)
        inside = inside and comment != END
    if inside:
        raise PolicyError(f"the block that begins with <!-- {BEGIN} --> in <{section.tag}> has no end")


def _insert_block(section: Element, elements: list[Element]) -> None:
    if not elements:
        return
    base = section.find("base")
    at = section.index(base) + 1 if base is not None else 0
    for node in reversed([etree.Comment(f" {BEGIN} "), *elements, etree.Comment(f" {END} ")]):
        section.insert(at, node)
