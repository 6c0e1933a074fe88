"""Compares the invoices of random stories at a running sandbox with those of the rating function, and counts what they were about."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

from expected_invoices import WHOLE_ONLY, ExpectedInvoice, expected_invoices
from random_stories import STORIES_OF_A_SHOP, Story, story
from stripe_life import SeenInvoice, Stripe

from billing_common.catalogue import Product
from billing_common.money import exponent

Shape = list[tuple[int, int, int, list[tuple[object, ...]]]]
START_SECONDS_MAX = 120
ADDITIONS = {"Minimum spend": "minimum spend", "Maximum spend": "maximum spend", ", at least": "packages at least"}


@contextmanager
def sandbox() -> Iterator[str]:
    """Start a sandbox Stripe as a process of its own; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        settings = {"HTTP_PORT": str(port), "DATA_PATH": str(Path(folder) / "stripe.sqlite3"), "LOG_LEVEL": "ERROR"}
        environment = os.environ | {f"SANDBOX_STRIPE_{name}": value for name, value in settings.items()}
        with subprocess.Popen(
            [sys.executable, "-m", "sandbox_stripe"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                _wait(f"{address}/health/ready", process)
                yield address
            finally:
                process.terminate()


def _wait(address: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=2)
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(f"{address} does not answer (exit code {process.poll()})")


async def compare_shop(stripe: Stripe, shop: int) -> Counter[str]:
    """Live the stories of one catalogue; returns how many of them had which feature. An inequality raises and tells the story."""
    found: Counter[str] = Counter()
    for seed in range(shop * STORIES_OF_A_SHOP, (shop + 1) * STORIES_OF_A_SHOP):
        one = story(seed)
        expected, seen = expected_invoices(one), await stripe.live(one)
        if _shape(seen) != _shape(expected):
            raise AssertionError(_difference(one, seen, expected))
        assert all(invoice.status == "paid" for invoice in seen), one
        found.update(set(features(one, expected)))
        found.update({"stories": 1, "invoices": len(seen), "lines": sum(len(invoice.lines) for invoice in seen)})
    return found


def _shape(invoices: Iterable[SeenInvoice | ExpectedInvoice]) -> Shape:
    return [
        (
            invoice.total,
            invoice.due,
            invoice.ending_balance,
            [(line.amount, line.quantity, line.start.isoformat(), line.end.isoformat(), line.component) for line in invoice.lines],
        )
        for invoice in invoices
    ]


def _difference(one: Story, seen: list[SeenInvoice], expected: list[ExpectedInvoice]) -> str:
    rows = [f"story {one.seed}: {one.product.id} in {one.currency} from {one.started_at}, quantity {one.quantity}, {one.actions}"]
    for name, invoices in (("Stripe", _shape(seen)), ("rating", _shape(expected))):
        for number, (total, due, balance, lines) in enumerate(invoices):
            rows += [f"{name}, invoice {number}: total {total}, due {due}, balance {balance}", *(f"    {line}" for line in lines)]
    return "\n".join(rows)


# --- what a story was about -------------------------------------------------------------------------------------------------------


def features(one: Story, invoices: list[ExpectedInvoice]) -> Iterator[str]:
    """Name everything special about a story, so that a reader sees what was really compared."""
    plans = [one.catalogue.product(action.product_id) for _, action in one.plans()]
    yield from (f"model {product.model}" for product in (one.product, *plans))
    yield f"interval {one.product.interval}"
    yield f"anchor {one.product.billing_anchor}"
    yield f"currency with {exponent(one.currency)} decimals"
    yield f"proration {one.product.policies.proration}"
    if one.currency in WHOLE_ONLY:
        yield "currency in whole units"
    if one.currency != one.catalogue.currency_of(one.product):
        yield "second currency"
    if one.credit_minor:
        yield "credit"
    yield from _of_the_start(one)
    yield from _of_actions(one)
    if any(used.late for used in one.usage):
        yield "usage reported late"
    yield from _of_lines(invoices)


def _of_the_start(one: Story) -> Iterator[str]:
    if one.trial_end:
        yield "trial"
    if one.quantity > 1:
        yield "several seats from the start"
    if one.product.billing_anchor == "anniversary" and one.periods[-1].end.day != one.periods[0].end.day:
        yield "end of month"
    if (one.started_at.month, one.started_at.day) == (2, 29):
        yield "leap day"
    if one.started_at != one.periods[0].start:
        yield "start in mid-period"
    elif one.product.billing_anchor == "calendar":
        yield "start at a period's first second"


def _of_actions(one: Story) -> Iterator[str]:
    product, edges = one.product, {period.end for period in one.periods}
    for action in one.actions:
        yield action.kind
        if action.at in edges:
            yield "change at a period's first second" if action.kind in {"plan", "quantity"} else "end at a period's first second"
        if action.product_id:
            to = one.catalogue.product(action.product_id)
            more = _fee(to, one) - _fee(product, one)
            yield "upgrade" if more > 0 else "downgrade" if more < 0 else "change between plans with the same fee"
            product = to
    changes = [action.at for action in one.actions if action.kind in {"plan", "quantity"}]
    if any(sum(period.start <= at < period.end for at in changes) > 1 for period in one.periods):
        yield "several changes in one period"


def _fee(product: Product, one: Story) -> Decimal:
    price = one.catalogue.price_of(product, one.currency)
    return (price.base if price else None) or Decimal(0)


def _of_lines(invoices: list[ExpectedInvoice]) -> Iterator[str]:
    for invoice in invoices:
        if invoice.total < 0:
            yield "invoice that gives back"
        if invoice.total > 0 and invoice.due == 0 < invoice.ending_balance:
            yield "total too small to charge"
        for line in invoice.lines:
            yield from (name for text, name in ADDITIONS.items() if line.component is None and text in line.text)
            if line.component is None and ", rounded to " in line.text:
                yield f"blocks {line.text.split(', rounded to ')[1].split()[0]} beyond tiers or an allowance"
            if ", flat fee" in line.text:
                yield "flat fee of a tier"
            if ", per started" in line.text or ", per completed" in line.text:
                yield "packages" if line.component == "unit" else f"blocks {line.text.split(', per ')[1].split()[0]}"
            if line.component == "setup":
                yield "setup fee"
