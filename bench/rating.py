"""How fast a quote is priced, and what a price with 1,000 tiers costs; beside it the bare arithmetic of the same lines."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from bench import machine
from billing_common.catalogue import Catalogue
from billing_common.money import EXACT, round_half_up
from billing_common.rating import Facts, Period, Rated, as_quote, rate

FILE = Path(__file__).resolve().parent.parent / "monetizationModels.json"
MONTH = Period(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
FACTS = Facts(started_at=MONTH.start)
ROUNDS = 3000
TIERS = 1000


def _many_tiers() -> Catalogue:
    """Return a product with as many tiers as the catalogue takes: each 1,000 calls are a little cheaper."""
    tiers: list[dict[str, Any]] = [
        {"up_to": number * 1000 if number < TIERS else None, "amount": f"0.0{TIERS * 2 - number}"} for number in range(1, TIERS + 1)
    ]
    product = {"id": "deep", "name": "Deep", "model": "Graduated", "price": {"usage": [{"meter": "calls", "tiers": tiers}]}}
    return Catalogue.from_document({"version": 1, "meters": {"calls": {"name": "Calls"}}, "products": [product]})


def _timed(once: Callable[[int], Any], rounds: int) -> dict[str, float]:
    """Return how often it can be done in a second, by the clock and by the processor's own time."""
    once(0)
    wall, busy = time.perf_counter(), time.process_time()
    for number in range(rounds):
        once(number)
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    return {"per_second": round(rounds / wall), "per_cpu_second": round(rounds / busy), "cpu_microseconds": round(busy / rounds * 1e6, 1)}


def _rater(catalogue: Catalogue, product_id: str, calls: int) -> Callable[[int], Rated]:
    product = catalogue.product(product_id)
    return lambda number: rate(catalogue, product, period=MONTH, usage={"calls": calls + number}, facts=FACTS)


def _arithmetic(lines: int) -> Callable[[int], int]:
    amount = Decimal("0.1")
    return lambda number: sum(round_half_up(EXACT.multiply(amount, Decimal(number + line))) for line in range(lines))


def measure(runs: int | None) -> dict[str, Any]:
    """Measure `runs` quotes of each kind."""
    rounds = runs or ROUNDS
    found, seven, deep = machine.facts(), Catalogue.parse(FILE.read_text()), _many_tiers()
    whole = TIERS * 1000
    standard, document = _rater(seven, "standard", 250_000), deep.document()
    figures = {
        "quote_payg": _timed(_rater(seven, "payg", 12_345), rounds),
        "quote_standard": _timed(standard, rounds),
        "quote_standard_as_json": _timed(lambda number: as_quote(standard(number)), rounds),
        "quote_1000_tiers_in_the_first": _timed(_rater(deep, "deep", 5), max(rounds // 20, 1)),
        "quote_1000_tiers_through_all": _timed(_rater(deep, "deep", whole), max(rounds // 20, 1)),
        "read_1000_tiers_from_a_document": _timed(lambda _: Catalogue.from_document(document), max(rounds // 300, 1)),
    }
    limits = {
        f"arithmetic_of_{count}_lines_us": _timed(_arithmetic(count), max(rounds // count, 10))["cpu_microseconds"] for count in (3, TIERS)
    }
    return {"machine": found, "limits": limits, "figures": figures}
