"""What checkout says about a catalogue, as lines for a person. Pure functions of its answers."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

SYSTEM_NAMES = {"stripe": "Stripe", "apim": "API Management"}
KIND_NAMES = {"api": "API", "policy": "policy"}
GROUPS = ("created", "replaced", "changed", "archived")
LINKS = {"group": "group", "api": "API"}
WHOLE = (["a new product"], ["no longer sold"])  # lines that stand for all of a product
WIDTH = 11  # of the word before each line


def plan(answer: Mapping[str, Any]) -> list[str]:
    """Product by product, system by system: created, replaced, changed, archived, untouched; then the subscribers."""
    shown, untouched = [], []
    for product in answer["products"]:
        if product["file"] or any(system[group] for system in product["systems"].values() for group in GROUPS):
            shown += _product(product, answer["subscribers"].get(product["product_id"]))
        elif product["product_id"]:
            untouched.append(product["product_id"])
    if untouched:
        shown.append(f"untouched: {', '.join(untouched)}")
    return [*shown, _sum(answer)]


def _sum(answer: Mapping[str, Any]) -> str:
    version, count = answer["current_version"], len(answer["steps"])
    if not answer["changes"]:
        return f"Nothing to do: everything is as version {version} says ({answer['unchanged']} things looked at)."
    what = "1 change" if count == 1 else f"{count} changes" if count else "No change"
    kept = "1 thing stays as it is" if answer["unchanged"] == 1 else f"{answer['unchanged']} things stay as they are"
    number = "the first version" if version is None else f"after version {version}"
    return f"{what} at Stripe and API Management, {kept}; {number} (plan {answer['plan']})"


def _product(product: Mapping[str, Any], subscribers: Mapping[str, Any] | None) -> list[str]:
    title = f"{product['product_id']} ({product['name']})" if product["product_id"] else "All products"
    only, rest = (product["file"][0], []) if product["file"] in WHOLE else ("", product["file"])
    lines = [f"{title}: {only}" if only else title, *_section("File", [("changed", text) for text in rest])]
    for name, system in product["systems"].items():
        entries = [(group, text) for group in GROUPS for text in _joined(system[group])]
        kept = ", ".join(_counted(kind, count) for kind, count in system["untouched"].items())
        lines += _section(SYSTEM_NAMES[name], [*entries, *([("untouched", kept)] if kept else [])])
    return [*lines, *(_section("Subscribers", _subscribers(subscribers)) if subscribers else []), ""]


def _joined(entries: list[Mapping[str, Any]]) -> list[str]:
    """Return a line for each entry; links of one kind share a line."""
    lines = [entry["text"] for entry in entries if entry["kind"] not in LINKS]
    for kind, name in LINKS.items():
        names = [entry["name"] for entry in entries if entry["kind"] == kind]
        if names:
            lines.append(f"{name}{'s' if len(names) > 1 else ''} {', '.join(names)}")
    return lines


def _section(title: str, entries: list[tuple[str, str]]) -> list[str]:
    return [f"  {title}", *(f"    {word:<{WIDTH}}{text}" for word, text in entries)] if entries else []


def _counted(kind: str, count: int) -> str:
    name = KIND_NAMES.get(kind, kind)
    return f"1 {name}" if count == 1 else f"{count} {name}s"


def _subscribers(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not found["live"]:
        return [("none", "nobody is subscribed: the new price is for those who come")]
    versions = ", ".join(
        f"{entry['subscribers']:,} of version {entry['version']} ({entry['currency'].upper()})"
        for entry in found["by_version"]
        if entry["on_old_price"]
    )
    stay = f"{found['stay_on_old_price']:,} of them on an old price, which they keep: {versions}" if versions else "none on another price"
    lines = [("subscribed", f"{found['live']:,}, {stay}")]
    for source, count in found.get("counted_as_before", {}).items():
        lines.append(("counted", f"{count:,} by `{source}` as before, until they are moved (`apply --migrate now` or `next-period`)"))
    last = found.get("last_period")
    if last and "unknown" in last:
        lines.append(("cost", f"what the change would mean for them is not known: {last['unknown']}"))
    elif last:
        lines += _last_period(last)
    return lines


def _last_period(last: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    from billing_common.money import display

    for total in last["totals"]:
        before, after, currency = total["before_minor"], total["after_minor"], total["currency"]
        people = f"{total['subscribers']:,} subscriber{'' if total['subscribers'] == 1 else 's'}{_partly(last)}"
        amounts = f"{display(before, currency)} at the price they have, {display(after, currency)} at the new one"
        yield "cost", f"{_span(last)}, {people}: {amounts} ({signed(after - before, currency)})"
        yield "", f"{total['pay_more']:,} would pay more, {total['pay_less']:,} less, {total['pay_the_same']:,} the same"
    for one in last["most_changed"]:
        before, after, currency = one["before_minor"], one["after_minor"], one["currency"]
        if before != after:
            amounts = f"{display(before, currency)} -> {display(after, currency)} ({signed(after - before, currency)})"
            yield "most", f"{one['subscription_id']} (version {one['catalogue_version']}): {amounts}"
    for reason, count in last["not_compared"].items():
        yield "left out", f"{count:,}: {reason}"


def signed(minor: int, currency: str) -> str:
    """`signed(500, "usd")` is `+USD 5.00`."""
    from billing_common.money import display

    return f"{'-' if minor < 0 else '+' if minor else ''}{display(abs(minor), currency)}"


def _partly(last: Mapping[str, Any]) -> str:
    return f" ({last['began_within']:,} began within it)" if last["began_within"] else ""


def _span(last: Mapping[str, Any]) -> str:
    since, until = (datetime.fromisoformat(last[name]) for name in ("from", "to"))
    is_month = (since.day, until.day) == (1, 1) and (until.year * 12 + until.month) - (since.year * 12 + since.month) == 1
    return f"{since:%B %Y}" if is_month else f"last full period (within {since:%Y-%m-%d} to {until:%Y-%m-%d})"


def drift(answer: Mapping[str, Any]) -> list[str]:
    lines = [f"Compared with version {answer['version']}, applied by {answer['applied_by']} on {moment(answer['applied_at'])}"]
    lines += [f"  {found['text']}" for found in answer["findings"]]
    count = len(answer["findings"])
    if count:
        was = "1 thing is" if count == 1 else f"{count} things are"
        lines.append(
            f"{was} not as applied, {answer['unchanged']} are; `turnpike catalogue apply --repair` puts it back (plan {answer['plan']})"
        )
    else:
        lines.append(f"No drift: {answer['unchanged']} things are as applied.")
    return [*lines, *(_unfinished(answer["unfinished_apply"]) if answer["unfinished_apply"] else [])]


def _unfinished(apply: Mapping[str, Any]) -> list[str]:
    steps = f"{len(apply['done'])} steps done, {len(apply['remaining'])} left"
    return [
        f"An apply by {apply['requested_by']} on {moment(apply['started_at'])} ended half-way ({steps}): what it did shows as drift.",
        "`turnpike catalogue apply` with its file goes on; `turnpike catalogue apply --repair` goes back.",
    ]


def stopped(content: Mapping[str, Any]) -> list[str]:
    """Say what an apply has done and what is left, where the answer says so."""
    if "done" not in content or "remaining" not in content:
        return []
    done, left = content["done"], content["remaining"]
    return [f"Done ({len(done)}):", *(f"  {text}" for text in done), f"Left ({len(left)}):", *(f"  {text}" for text in left)]


def history(answer: Mapping[str, Any]) -> list[str]:
    lines = []
    for version in answer["versions"]:
        lines.append(f"version {version['version']}, applied by {version['applied_by']} on {moment(version['applied_at'])}")
        lines += [f"  {text}" for text in version["diff"]] or ["  the same file: ids at Stripe changed"]
        lines += [f"  created {name}: {stripe_id}" for stripe_id, name in version["created"].items()]
    return lines or ["Nothing has been applied yet."]


def show(answer: Mapping[str, Any]) -> list[str]:
    from billing_common.catalogue import Catalogue

    catalogue = Catalogue.from_document(answer["document"])
    lines = [f"Catalogue version {answer['version']}, applied by {answer['applied_by']} on {moment(answer['applied_at'])}"]
    for product in catalogue.products:
        lines += ["", f"{product.id} ({product.name}), {product.model}"]
        lines += [f"  {name:<22}{text}" for name, text in _facts(catalogue, product, answer["stripe_ids"].get(product.id, {}))]
    return lines


def _facts(catalogue: Any, product: Any, ids: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    from billing_common.catalogue_words import component_name, price_words

    prices = ids.get("prices_by_currency", {})
    for currency in dict.fromkeys((catalogue.currency_of(product), *product.currencies)):
        for component, words in price_words(catalogue, product, currency).items():
            stripe_id = prices.get(currency, {}).get(component, "")
            yield component_name(catalogue, component), f"{words}{f'  [{stripe_id}]' if stripe_id else ''}"
    if product.rate_limit:
        yield "rate limit", f"{product.rate_limit.calls:,} calls in {product.rate_limit.per_seconds} s"
    if product.quota:
        window = "a calendar month" if product.quota.window == "calendar_month" else "30 days"
        beyond = "then calls are refused" if product.quota.beyond == "stop" else "then overage"
        yield "quota", f"{product.quota.calls:,} in {window}, {beyond}"
    yield "APIs", ", ".join(product.apis) or "none"
    meters = "".join(f", meter {meter['event_name']} [{meter['id']}]" for meter in ids.get("meters", {}).values())
    yield "at Stripe", f"{ids.get('product', 'nothing')}{meters}"


def moment(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC"
