"""Everything that cannot be sold is refused at once, each with JSON path, line, what is wrong, what is allowed, and a hint."""

import json
from typing import Any

import pytest

from billing_common.catalogue import Catalogue, CatalogueError
from billing_common.catalogue_changes import StillSubscribedError, read_over
from billing_common.catalogue_problems import Problem

CALLS = {"calls": {"name": "API calls"}}
PRICE = {"meter": "calls", "amount": "0.15", "per": 100}
TIERS = [{"up_to": 10, "amount": "2"}, {"up_to": 20, "amount": "1"}, {"up_to": None, "amount": "0.5"}]


def plan(**fields: Any) -> dict[str, Any]:
    return {"id": "payg", "name": "Pay", "model": "Metered", "price": {"usage": [PRICE]}, **fields}


def usage(**fields: Any) -> dict[str, Any]:
    return {"usage": [PRICE | fields]}


def tiers(*entries: Any) -> dict[str, Any]:
    return plan(model="Graduated", price={"usage": [{"meter": "calls", "tiers": list(entries)}]})


def of(*products: Any, **fields: Any) -> dict[str, Any]:
    return {"version": 1, "meters": CALLS, "products": list(products), **fields}


def problems_of(document: Any) -> tuple[list[str], list[Problem]]:
    text = json.dumps(document, indent=1)
    with pytest.raises(CatalogueError) as refused:
        Catalogue.parse(text)
    return text.splitlines(), refused.value.problems


def meter(source: str = "ingest", quota: Any = None, **fields: Any) -> dict[str, Any]:
    extra = {"quota": quota} if quota else {}
    return of(plan(source=source, price=usage(meter="m"), **extra), meters={"m": {"name": "M"} | fields})


LONG = "p" * 60
# what is wrong -> the file, the JSON path, words of the message, words of what is allowed, a part of the line that is named
KINDS: dict[str, tuple[dict[str, Any], str, str, str, str]] = {
    "overlapping tiers": (
        of(tiers(TIERS[0], {"up_to": 10, "amount": "1"}, TIERS[2])),
        "$.products[0].price.usage[0].tiers[1].up_to",
        "inside the one before",
        "more than 10",
        '"up_to": 10',
    ),
    "tiers in the wrong order": (
        of(tiers(TIERS[1], TIERS[0], TIERS[2])),
        "$.products[0].price.usage[0].tiers[1].up_to",
        "ends at 10, inside the one before",
        "more than 20",
        '"up_to": 10',
    ),
    "no tier without an end": (of(tiers(*TIERS[:2])), "$.products[0].price.usage[0].tiers[1].up_to", "has an end", "null", '"up_to": 20'),
    "a tier without an end": (
        of(tiers({"amount": "1"}, TIERS[2])),
        "$.products[0].price.usage[0].tiers[0].up_to",
        '"up_to" is missing',
        "last unit of the tier",
        "{",
    ),
    "an endless tier in the middle": (
        of(tiers({"up_to": None, "amount": "1"}, TIERS[2])),
        "$.products[0].price.usage[0].tiers[0].up_to",
        "only the last tier",
        "a number",
        '"up_to": null',
    ),
    "a negative amount": (
        of(plan(price=usage(amount="-0.15"))),
        "$.products[0].price.usage[0].amount",
        "out of range",
        "0 or more",
        "-0.15",
    ),
    "a too precise amount": (
        of(plan(price={"setup": "1.005"} | usage())),
        "$.products[0].price.setup",
        "too precise",
        "2 decimals",
        "1.005",
    ),
    "a too precise amount in yen": (
        of(plan(currency="jpy", price={"setup": "1.5"} | usage())),
        "$.products[0].price.setup",
        "1.5 JPY is too precise",
        "0 decimals",
        "1.5",
    ),
    "a rate without an exact unit price": (
        of(plan(price=usage(amount="0.1", per=3))),
        "$.products[0].price.usage[0].amount",
        "12 decimals",
        "divides exactly",
        '"0.1"',
    ),
    "an unknown currency": (of(plan(), currency="usdd"), "$.currency", 'Did you mean "usd"', "ISO 4217", "usdd"),
    "an unknown further currency": (
        of(plan(currencies={"eurr": usage()})),
        "$.products[0].currencies.eurr",
        'Did you mean "eur"',
        "ISO",
        "eurr",
    ),
    "a currency twice": (of(plan(currencies={"usd": usage()})), "$.products[0].currencies.usd", "already", "further", '"usd"'),
    "a duplicate id": (of(plan(), plan(id="PayG")), "$.products[1].id", "used by two products", "an id of its own", "PayG"),
    "a meter without use": (
        of(plan(), meters=CALLS | {"bytes": {"name": "B"}}),
        "$.meters.bytes",
        "no product uses",
        "a price or a quota",
        "bytes",
    ),
    "an unknown meter": (
        of(plan(price=usage(meter="cals"))),
        "$.products[0].price.usage[0].meter",
        'Did you mean "calls"?',
        "calls",
        '"cals"',
    ),
    "a quota below the included amount": (
        of(plan(model="Freemium", price=usage(included=100), quota={"calls": 50})),
        "$.products[0].quota.calls",
        "below the included amount",
        "at least 100",
        '"calls": 50',
    ),
    "different values of nothing": (
        meter(aggregation="unique"),
        "$.meters.m",
        'the aggregation "unique" needs "property": the one whose different values are counted',
        "sid, method, template or status of the call",
        '"m": {',
    ),
    "the highest of nothing": (
        meter(aggregation="max"),
        "$.meters.m",
        'the aggregation "max" needs "property": the one whose highest value is taken',
        "a whole number, or quantity",
        '"m": {',
    ),
    "the highest of a text": (
        meter(aggregation="max", property="template"),
        "$.meters.m.property",
        '"template" is not a number',
        "whole number",
        '"template"',
    ),
    "different quantities": (
        meter(aggregation="unique", property="quantity"),
        "$.meters.m.property",
        "a quantity is no value",
        "a property of the usage event",
        '"quantity"',
    ),
    "a count of a property": (
        meter(aggregation="count", property="tokens"),
        "$.meters.m.property",
        "looks at no property",
        '"sum"',
        '"tokens"',
    ),
    "a weighted count": (meter(aggregation="count", weight=3), "$.meters.m.weight", "looks at no weight", '"sum"', '"weight": 3'),
    "a property that the stream has not": (
        meter("stream", aggregation="unique", property="user"),
        "$.products[0].source",
        'needs the property "user", which API Management\'s stream does not carry',
        '"ingest", or a meter of method',
        '"source": "stream"',
    ),
    "a quota of 30 days on different values": (
        meter(aggregation="unique", property="user", quota={"calls": 9, "meter": "m", "window": "30_days"}),
        "$.products[0].quota.window",
        "one number for each billing period",
        "calendar_month with monthly calendar billing",
        '"30_days"',
    ),
    "an operation of an API that the plan does not have": (
        of(plan(apis=["orders"], operations={"order": ["get"]})),
        "$.products[0].operations.order",
        'is not in "apis": its keys open no operation of it. Did you mean "orders"?',
        "orders",
        '"order": [',
    ),
    "an operation twice": (
        of(plan(apis=["orders"], operations={"orders": ["get", "put", "get"]})),
        "$.products[0].operations.orders[2]",
        '"get" is named twice',
        "each operation once",
        '"get"',
    ),
    "an API without operations": (
        of(plan(apis=["orders"], operations={"orders": []})),
        "$.products[0].operations.orders",
        "the list is empty",
        "at least one entry",
        '"orders": []',
    ),
    "an id that APIM would refuse": (of(plan(id="pay&go")), "$.products[0].id", "not allowed", "letters, digits, - and _", "pay&go"),
    "a meter name that Stripe would refuse": (
        of(plan(id=LONG, price=usage(meter="m" * 32)), meters={"m" * 32: {"name": "M"}}),
        "$.products[0].id",
        "Stripe refuses the meter name",
        "58 characters",
        LONG,
    ),
    "more tiers than Stripe takes": (
        of(tiers(*({"up_to": end, "amount": "1"} for end in range(1, 1002)))),
        "$.products[0].price.usage[0].tiers",
        "1001 entries, more than Stripe takes",
        "at most 1000",
        '"tiers"',
    ),
    "more line items than Stripe takes": (
        of(plan(price={"usage": [PRICE] * 19})),
        "$.products[0].price.usage",
        "19 entries, more than Stripe takes",
        "at most 18",
        '"usage"',
    ),
    "mixed intervals": (
        of(plan(price=usage(interval="year"))),
        "$.products[0].price.usage[0].interval",
        "mixed intervals",
        'one "interval" in each product',
        '"interval"',
    ),
    "an unknown interval": (of(plan(interval="monthly")), "$.products[0].interval", 'Did you mean "month"', "month, year", "monthly"),
    "an unknown model": (of(plan(model="Meterd")), "$.products[0].model", 'Did you mean "Metered"?', "Free, Freemium", "Meterd"),
    "an unknown field": (of(plan(fetures=[])), "$.products[0].fetures", 'Did you mean "features"?', "rate_limit", "fetures"),
    "a missing field": (of({"id": "x", "model": "Free"}, plan()), "$.products[0].name", "is missing", "as shown in the portal", "{"),
    "the wrong type": (of(plan(keys="many")), "$.products[0].keys", '"many" is not a whole number', "a whole number: keys", "many"),
    "a rounded number": (
        of(plan(price=usage(amount=True))),
        "$.products[0].price.usage[0].amount",
        "true is not a number",
        "written as text",
        "true",
    ),
    "parts of another model": (of(plan(price={"base": "1"} | usage())), "$.products[0].price.base", 'has no "base"', "usage", '"base"'),
    "a part that is missing": (of(plan(model="TierWithOverage")), "$.products[0].price", 'needs "base"', "base, ", '"price"'),
    "volume discounts not understood": (
        of(plan(model="VolumeDiscount", price=usage(discounts="0-100k standard, later 5 % off"))),
        "$.products[0].price.usage[0].discounts",
        "is not understood",
        "volume discounts on `amount`",
        '"discounts"',
    ),
    "volume discounts with a gap": (
        of(plan(model="VolumeDiscount", price=usage(discounts="0-100k standard, 200k-1M 5 % off, above 6 % off"))),
        "$.products[0].price.usage[0].discounts",
        "begins at 200,000, but the part before it ends at 100,000",
        "volume discounts",
        '"discounts"',
    ),
    "volume discounts with a gap of one": (
        of(plan(model="VolumeDiscount", price=usage(discounts="0-100k standard, 100002-1M 5 % off, above 6 % off"))),
        "$.products[0].price.usage[0].discounts",
        "begins at 100,002, but the part before it ends at 100,000",
        "volume discounts",
        '"discounts"',
    ),
    "a least spend above the most": (
        of(plan(price={"minimum": "9", "maximum": "5"} | usage())),
        "$.products[0].price.minimum",
        "above the most spend",
        "at most 5",
        '"minimum"',
    ),
    "a spend cap that the fee alone reaches": (
        of(plan(model="TierWithOverage", price={"base": "9", "spend_cap": "9"} | usage(included=5))),
        "$.products[0].price.spend_cap",
        "not above the base fee",
        "more than 9",
        '"spend_cap"',
    ),
    "a spend cap of nothing": (
        of(plan(price={"spend_cap": "0"} | usage())),
        "$.products[0].price.spend_cap",
        "not above",
        "more than 0",
        '"spend_cap"',
    ),
    "a spend cap above the most spend": (
        of(plan(price={"maximum": "5", "spend_cap": "5.01"} | usage())),
        "$.products[0].price.spend_cap",
        "never be reached",
        "at most 5",
        '"spend_cap"',
    ),
    "a spend cap of a part of a cent": (
        of(plan(price={"spend_cap": "5.001"} | usage())),
        "$.products[0].price.spend_cap",
        "too precise",
        "at most 2 decimals",
        '"spend_cap"',
    ),
    "a spend cap in one of two currencies": (
        of(plan(price={"spend_cap": "5"} | usage(), currencies={"eur": usage()})),
        "$.products[0].currencies.eur",
        "same parts in every currency",
        "spend_cap",
        '"eur"',
    ),
    "a free product with a spend cap": (
        of(plan(), {"id": "free", "name": "Free", "model": "Free", "price": {"spend_cap": "5"}}),
        "$.products[1].price.spend_cap",
        'the model Free has no "spend_cap"',
        "no price at all",
        '"spend_cap"',
    ),
    "nothing but a spend cap": (
        of(plan(), {"id": "mixed", "name": "Mixed", "model": "Hybrid", "price": {"spend_cap": "5"}}),
        "$.products[1].price",
        "at least one part",
        "usage",
        '"price"',
    ),
    "a trial on calendar billing": (of(plan(trial_days=7)), "$.products[0].trial_days", "calendar billing", "anniversary", "trial_days"),
    "filters with Azure's reports": (
        of(plan(source="reports"), meters={"calls": {"name": "C", "weight": 2}}),
        "$.products[0].source",
        "filters or weights",
        '"stream" and "ingest"',
        "reports",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_mistake_is_told_with_path_line_remedy(kind: str) -> None:
    document, path, words, allowed, on_line = KINDS[kind]
    lines, problems = problems_of(document)
    hits = [problem for problem in problems if problem.path == path and words in problem.message]
    assert len(hits) == 1, [str(problem) for problem in problems]
    assert allowed in hits[0].allowed
    assert on_line in lines[hits[0].line - 1]


def test_every_problem_says_what_is_allowed() -> None:
    for document, *_ in KINDS.values():
        assert all(problem.allowed for problem in problems_of(document)[1])


def test_broken_fields_do_not_hide_what_else_is_wrong() -> None:
    """Fields of the wrong kind, and rules across other fields: one go names them all, and nothing that only follows from them."""
    document = of(
        plan(keys=0, price=usage(amount="0.1", per=3)),
        plan(id="b", model="Meterd", trial_days=7, quota={"calls": 5, "colour": "red"}),
        tiers(TIERS[0], {"up_to": 10, "amount": "x"}, TIERS[2]) | {"id": "c", "on_end": "free"},
        plan(id="d", price={"usage": [PRICE, {"meter": "bites", "amount": "1"}]}),
        meters=CALLS | {"bytes": {"name": "", "unit": "byte"}},
    )
    assert {(problem.path, problem.message.split(".")[0][:40]) for problem in problems_of(document)[1]} == {
        ("$.meters.bytes.name", "the text is empty"),
        ("$.meters.bytes", 'no product uses the meter "bytes"'),
        ("$.products[0].keys", "0 is out of range"),
        ("$.products[0].price.usage[0].amount", "the price of one unit has more than 12 d"),
        ("$.products[1].model", '"Meterd" is not allowed'),
        ("$.products[1].trial_days", "a trial cannot be combined with calendar"),
        ("$.products[1].quota.colour", '"colour" is not a known field'),
        ("$.products[2].price.usage[0].tiers[1].amount", '"x" is not a number'),
        ("$.products[2].price.usage[0].tiers[1].up_to", "the tier ends at 10, inside the one befo"),
        ("$.products[2].on_end", 'on_end is "free" but the catalogue has n'),
        ("$.products[3].price.usage[1].meter", 'there is no meter "bites"'),
    }


@pytest.mark.parametrize("document", [1, "x", None, {}, {"products": 5}, {"products": [1], "meters": 3}, {"version": 1, "products": [[]]}])
def test_any_json_is_refused_in_words(document: Any) -> None:
    assert problems_of(document)[1]


OLDER = {"id": "a", "pricingModelType": "Tier", "prices": {"unit": {"currency": "usd", "unitAmount": 5, "quota": 1}}}


@pytest.mark.parametrize(
    ("entry", "path", "words"),
    [
        (OLDER | {"pricingModelType": "Tiers"}, "$[0].pricingModelType", 'Did you mean "Tier"'),
        (OLDER | {"prices": {"unit": {"unitAmont": 5, "quota": 1}}}, "$[0].prices.unit.unitAmont", 'Did you mean "unitAmount"?'),
        (OLDER | {"prices": {"unit": {"quota": 1}}}, "$[0].prices.unit.unitAmount", "has no fee"),
        (OLDER | {"prices": {"unit": {"unitAmount": 5}}}, "$[0].prices.unit.quota", "the model Tier has no quota"),
        (OLDER | {"prices": {"unit": {"unitAmount": 5.5, "quota": 1}}}, "$[0].prices.unit.unitAmount", "too precise"),
        (OLDER | {"prices": {"unit": {"unitAmount": 5, "quota": 10**14}}}, "$[0].prices.unit.quota", "out of range"),
        (OLDER | {"prices": {"unit": {"unitAmount": 10**15, "quota": 1}}}, "$[0].prices.unit.unitAmount", "out of range"),
        (OLDER | {"pricingModelType": "Free"}, "$[0].prices.unit.unitAmount", "would be lost"),
        (OLDER | {"prices": {"unit": {"currency": "usx", "unitAmount": 5}}}, "$[0].prices.unit.currency", "not a currency"),
        (
            OLDER | {"pricingModelType": "Metered", "prices": {"metered": {"currency": "usx", "unitAmount": 5}}},
            "$[0].prices.metered.currency",
            "not a currency",
        ),
        (OLDER | {"recurring": {"interval": "month", "intervalCount": 3}}, "$[0].recurring.intervalCount", "out of range"),
        (OLDER | {"id": "a b"}, "$[0].id", "not allowed"),
    ],
)
def test_mistakes_in_the_older_form_are_named_by_their_place_in_it(entry: dict[str, Any], path: str, words: str) -> None:
    _, problems = problems_of([entry])
    assert [problem for problem in problems if problem.path == path and words in problem.message], [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("live", "expected"),
    [
        ({("payg", "usd"): 3, ("world", "eur"): 1, ("free", "gbp"): 9}, []),
        ({("pay", "usd"): 3}, [("$.products", 'Did you mean "payg"?')]),
        ({("payg", "eur"): 2}, [("$.products[0].price", "2 live subscriptions in eur and no price in it; it has usd")]),
        ({("gone", "usd"): 1, ("world", "jpy"): 1}, [("$.products", "1 live"), ("$.products[1].currencies", "it has usd, eur")]),
    ],
)
def test_what_people_are_subscribed_to_is_neither_removed_nor_moved_to_another_currency(
    live: dict[tuple[str, str], int], expected: list[tuple[str, str]]
) -> None:
    free = {"id": "free", "name": "Free", "model": "Free"}
    text = json.dumps(of(plan(), plan(id="world", currencies={"eur": usage()}), free), indent=1)
    reading = read_over(text, live)
    if not expected:
        assert reading.result() == Catalogue.parse(text)
        return
    with pytest.raises(StillSubscribedError) as refused:
        reading.result()
    problems = refused.value.problems
    assert [problem.path for problem in problems] == [path for path, _ in expected]
    assert all(words in problem.message and problem.allowed for problem, (_, words) in zip(problems, expected, strict=True))


def test_what_is_wrong_with_the_file_and_with_its_subscribers_is_told_at_once_in_either_form() -> None:
    broken = json.dumps(of(plan(keys=0), plan(id="world", currencies={"eur": usage()})), indent=1)
    with pytest.raises(CatalogueError) as refused:
        read_over(broken, {("gone", "usd"): 1, ("world", "jpy"): 2, ("payg", "eur"): 1}).result()
    assert not isinstance(refused.value, StillSubscribedError)
    assert [problem.path for problem in refused.value.problems] == [
        "$.products",
        "$.products[0].price",
        "$.products[0].keys",
        "$.products[1].currencies",
    ]
    unreadable = json.dumps(of(plan(), plan(id="world", price={"usage": [{"meter": "calls", "amount": "x"}]})))
    with pytest.raises(CatalogueError) as refused:
        read_over(unreadable, {("world", "eur"): 1}).result()
    assert len(refused.value.problems) == 1  # which currencies it has cannot be said of a broken price
    older = json.dumps([OLDER | {"prices": {"unit": {"currency": "usd", "unitAmount": 5, "quota": 1}}}], indent=1)
    with pytest.raises(StillSubscribedError) as still:
        read_over(older, {("a", "eur"): 1}).result()
    assert (still.value.problems[0].path, still.value.problems[0].line) == ("$[0].prices.unit.currency", 7)


@pytest.mark.parametrize(
    ("top", "fields", "path"),
    [
        ({"currency": "eur"}, {}, "$.currency"),
        ({"currency": "usd"}, {"currency": "eur"}, "$.products[1].currency"),
        ({"currency": "eur"}, {"currencies": {"gbp": usage()}}, "$.products[1].currencies"),
        ({}, {}, "$.products[1].price"),
    ],
)
def test_a_currency_that_people_pay_in_is_missed_on_the_line_that_says_another(
    top: dict[str, Any], fields: dict[str, Any], path: str
) -> None:
    text = json.dumps({**top, **of(plan(id="one"), plan(**fields))}, indent=1)
    with pytest.raises(StillSubscribedError) as refused:
        read_over(text, {("payg", "jpy"): 1}).result()
    (problem,) = refused.value.problems
    said = text.splitlines()[problem.line - 1].strip()
    assert (problem.path, said.split(":")[0]) == (path, f'"{path.rpartition(".")[2]}"')


@pytest.mark.parametrize("text", ["{", '{"version": 1, "products": [{"id": 5}]}', "[]", "5"])
def test_a_file_that_cannot_be_read_is_refused_for_that_and_for_nothing_else(text: str) -> None:
    with pytest.raises(CatalogueError) as refused:
        read_over(text, {("payg", "usd"): 1}).result()
    assert not [problem for problem in refused.value.problems if "live subscription" in problem.message]


def test_what_is_broken_beside_a_broken_part_of_a_price_is_told_in_the_same_go() -> None:
    broken_tiers = [{"up_to": 10, "amount": "-2"}, {"up_to": 5, "amount": "0.0000000000000001"}, {"up_to": 20, "amunt": "1"}]
    document = of(
        tiers(*broken_tiers),
        plan(id="two", price={"base": "x", "setup": "1.005", "usage": [PRICE | {"included": "many", "meter": "cals"}]}),
        plan(id="three", model="Freemium", quota={"calls": 5}, price=usage(included=10, amount="-1")),
        plan(id="four", price={"base": "x"} | usage(), currencies={"eur": {"base": "1"} | usage()}, model="Hybrid"),
        meters=CALLS | {"Bad!": {"name": ""}, "tokens": {"name": "Tokens", "weight": 0}},
    )
    _, problems = problems_of(document)
    at = "$.products[0].price.usage[0].tiers"
    assert {problem.path for problem in problems} == {
        f"{at}[0].amount", f"{at}[1].up_to", f"{at}[1].amount", f"{at}[2].amunt", f"{at}[2].amount", f"{at}[2].up_to",
        "$.products[1].price.base", "$.products[1].price.setup", "$.products[1].price.usage[0].included",
        "$.products[1].price.usage[0].meter", "$.products[2].price.usage[0].amount", "$.products[2].quota.calls",
        "$.products[3].price.base", "$.meters['Bad!'].name", "$.meters['Bad!']", "$.meters.tokens.weight", "$.meters.tokens",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (of(plan(), currency="usb"), 'Did you mean "usd"?'),
        (of(plan(apis=["orders", "Orders"])), '$.products[0].apis[1]: the API "Orders" is named twice'),
        (of(plan(), version="1"), '"1" is not allowed. (allowed: 1, a number without quotes)'),
        (of(plan(id="p" * 65)), "is too long: 65 characters"),
        (of(plan(id="")), "the text is empty"),
        (of(plan(id="a/b")), '"a/b" has characters that are not allowed'),
        (of(plan(name="  ")), "the text is empty"),
        (of(plan(price=usage(amount="1_0"))), '"1_0" is not a number'),
        (of(plan(price=usage(amount="1e3"))), '"1e3" is not a number'),
        (of(plan(price=usage(amount="\u0661"))), '"\u0661" is not a number'),
        (of(plan(price=usage(amount=" 1"))), '" 1" is not a number'),
        (of(plan(price=usage(amount="-1"))), '"-1" is out of range (allowed: 0 or more)'),
    ],
)
def test_a_near_miss_is_explained(document: dict[str, Any], words: str) -> None:
    _, problems = problems_of(document)
    assert words in str(problems[0])


@pytest.mark.parametrize("text", ["", " \n", "\ufeff"])
def test_an_empty_file_is_called_empty(text: str) -> None:
    with pytest.raises(CatalogueError, match="the file is empty"):
        Catalogue.parse(text)


def test_an_empty_list_is_one_mistake() -> None:
    with pytest.raises(CatalogueError) as refused:
        Catalogue.parse("[]")
    assert [problem.message for problem in refused.value.problems] == ["the list is empty"]
