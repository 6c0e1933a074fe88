"""APIM product policies: rate limit, quota and the usage record, in marked blocks beside what a person has written."""

import hashlib
from collections.abc import Iterable

from lxml import etree

from billing_common.catalogue import Product
from billing_common.key_sids import SEPARATOR
from billing_common.quotas import THIRTY_DAYS, is_by_key
from checkout import policy_answers
from checkout.policy_answers import Plans

LOGGER_ID = "turnpike-usage"
BEGIN, END = "turnpike:begin", "turnpike:end"
SECTIONS = ("inbound", "backend", "outbound", "on-error")
BLOCK_SHOWN_MAX = 200
SKELETON = (
    "<policies><inbound><base /></inbound><backend><base /></backend><outbound><base /></outbound><on-error><base /></on-error></policies>"
)
# The sids of one subscription's keys differ behind "_" (billing_common.key_sids): one allowance over all of them.
OF_THE_SUBSCRIPTION = f"context.Subscription.Id.Split('{SEPARATOR}')[0]"
MONTH_KEY = f'@({OF_THE_SUBSCRIPTION} + "-" + context.Timestamp.ToString("yyyyMM"))'
PARTITION_KEY = '@(context.Subscription?.Id ?? "none")'
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

STATUS = "context.Response?.StatusCode ?? 0"  # as the record reads it
NOWHERE = Plans()

Element = etree._Element  # noqa: SLF001 - lxml has no public name for it
Comment = etree._Comment  # noqa: SLF001


class PolicyError(Exception):
    """The policy that stands at APIM is not one we can add to."""


def merge(existing: str | None, product: Product, plans: Plans = NOWHERE, *, records: bool = False) -> str:
    """Return the product's policy as XML: our blocks replaced, everything else kept as it is.

    `records`: calls are recorded whatever the product's source is; the collector counts each for those only whom the stream bills.
    """
    root = _parse(existing or SKELETON)
    recorded = product.model_copy(update={"source": "stream"}) if records else product
    blocks = {
        "inbound": _inbound(recorded, plans),
        "outbound": _usage(recorded),
        "on-error": [*_usage(recorded), *policy_answers.of_limits(product, plans)],
    }
    wanted = {name: elements for name, elements in blocks.items() if elements}
    for name in SECTIONS:
        section = root.find(name)
        if section is None:
            if name not in wanted:
                continue
            section = etree.SubElement(root, name)
            etree.SubElement(section, "base")
        _remove_block(section)
        _insert_block(section, wanted.get(name, []))
    etree.indent(root, space="  ")
    return etree.tostring(root, encoding="unicode")


def same(left: str | None, right: str) -> bool:
    """Tell whether two policies mean the same: white space between elements does not count."""
    return left is not None and _canonical(left) == _canonical(right)


def differences(existing: str | None, wanted: str) -> Iterable[tuple[str, str, str]]:
    """Return (section, found, wanted) for each section whose block is not as it should be, each block as one line."""
    if existing is None:
        return
    before, after = _parse(existing), _parse(wanted)
    told = False
    for name in SECTIONS:
        found, right = (_block_texts(root.find(name)) for root in (before, after))
        if found != right:
            told = True
            yield f"our block in {name}", _but_not(found, right), _but_not(right, found)
    if not told and not same(existing, wanted):
        yield "our blocks", "at another place", "after <base />"


def _but_not(some: list[str], others: list[str]) -> str:
    """Return the elements that only one side has, as one line; without any it is their order that differs."""
    rest = [text for text in some if text not in others]
    return " ".join(rest) if rest else "nothing" if len(some) < len(others) else "the same in another order"


def _block_texts(section: Element | None) -> list[str]:
    nodes = [] if section is None else [node for node in _block(section) if not isinstance(node, Comment)]
    lines = [" ".join(etree.tostring(node, encoding="unicode", with_tail=False).split()) for node in nodes]
    return [line if len(line) <= BLOCK_SHOWN_MAX else f"{line[:BLOCK_SHOWN_MAX]}... ({_mark(line)})" for line in lines]


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _parse(xml: str) -> Element:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_blank_text=True, huge_tree=False, strip_cdata=False)
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


def _inbound(product: Product, plans: Plans) -> list[Element]:
    """The gate stands behind the rate limit, which shields it, and before the quota, which a refused call must not use up."""
    found: list[Element] = []
    if product.rate_limit:
        limit = {"calls": str(product.rate_limit.calls), "renewal-period": str(product.rate_limit.per_seconds)}
        found.append(etree.Element("rate-limit", limit))
    found += _gate(product, plans)
    if product.quota and product.quota.beyond == "stop":
        calls = str(product.quota.calls)
        thirty_days = {"calls": calls, "renewal-period": str(int(THIRTY_DAYS.total_seconds()))}
        if product.quota.window == "30_days" and is_by_key(product):
            found.append(etree.Element("quota-by-key", {**thirty_days, "counter-key": f"@({OF_THE_SUBSCRIPTION})"}))
        elif product.quota.window == "30_days":
            found.append(etree.Element("quota", thirty_days))
        else:  # The key names the month, so its counter never has to be renewed: 0 is for ever.
            found.append(etree.Element("quota-by-key", {"calls": calls, "renewal-period": "0", "counter-key": MONTH_KEY}))
    return found


def _gate(product: Product, plans: Plans) -> list[Element]:
    """Answer calls of operations that the plan does not have. Such an answer skips outbound, so its record is written here, as refused."""
    choose = etree.Element("choose")
    for api, operations in product.operations.items():
        included = " || ".join(f'context.Operation?.Id == "{operation}"' for operation in operations)
        when = etree.SubElement(choose, "when", {"condition": f'@(context.Api?.Id == "{api}" && !({included}))'})
        when.extend(_usage(product, USAGE_RECORD.replace(STATUS, "403")))
        when.append(policy_answers.not_in_plan(product, api, plans))
    return [choose] if len(choose) else []


def _usage(product: Product, record: str = USAGE_RECORD) -> list[Element]:
    """Write the record where the stream counts; a product that is counted elsewhere must not be counted twice."""
    if product.source != "stream":
        return []
    element = etree.Element("log-to-eventhub", {"logger-id": LOGGER_ID, "partition-key": PARTITION_KEY})
    element.text = record
    return [element]


def _remove_block(section: Element) -> None:
    for node in list(_block(section)):
        section.remove(node)


def _block(section: Element) -> Iterable[Element]:
    """Return the nodes of our block, its two marks included; a mark without the other cannot be understood."""
    inside = False
    for node in section:
        comment = (node.text or "").strip() if isinstance(node, Comment) else ""
        if comment == END and not inside:
            raise _half_a_block(section, END, BEGIN)
        inside = inside or comment == BEGIN
        if inside:
            yield node
        inside = inside and comment != END
    if inside:
        raise _half_a_block(section, BEGIN, END)


def _half_a_block(section: Element, has: str, lacks: str) -> PolicyError:
    return PolicyError(
        f"<{section.tag}> of its policy has <!-- {has} --> without <!-- {lacks} -->: in the portal, put the other mark back, "
        "or take out the mark with the elements that Turnpike wrote"
    )


def _insert_block(section: Element, elements: list[Element]) -> None:
    if not elements:
        return
    base = section.find("base")
    at = section.index(base) + 1 if base is not None else 0
    for node in reversed([etree.Comment(f" {BEGIN} "), *elements, etree.Comment(f" {END} ")]):
        section.insert(at, node)
