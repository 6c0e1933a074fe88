"""`turnpike simulate`: a month of usage per customer, priced under two catalogues side by side."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnpike_cli.errors import CommandError

if TYPE_CHECKING:
    from billing_common.catalogue import Catalogue

ROWS_MAX = 1_000_000
PROBLEMS_SHOWN_MAX = 20
DIGITS_MAX = 15
CUSTOMER, PRODUCT, CURRENCY = "customer", "product", "currency"


@dataclass(frozen=True)
class Row:
    """One customer's usage: one line of the file."""

    line: int
    customer: str
    product: str
    currency: str | None
    usage: Mapping[str, int]


@dataclass(frozen=True)
class Outcome:
    """What a customer pays now and then, in minor units; None and a reason where the other catalogue cannot say."""

    row: Row
    currency: str
    before_minor: int
    after_minor: int | None
    reason: str = ""

    def public(self) -> dict[str, Any]:
        """Return the outcome as plain JSON."""
        return {
            "customer": self.row.customer,
            "product": self.row.product,
            "currency": self.currency,
            "usage": dict(self.row.usage),
            "before_minor": self.before_minor,
            "after_minor": self.after_minor,
            "difference_minor": None if self.after_minor is None else self.after_minor - self.before_minor,
            **({"reason": self.reason} if self.reason else {}),
        }


def read_rows(path: Path) -> list[Row]:
    """Read the file: columns customer and product, currency where wanted, and one column for each meter. All mistakes at once."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            meters = _meters(path, list(reader.fieldnames or []))
            rows, problems = [], []
            for entry in reader:
                try:
                    rows.append(_row(reader.line_num, entry, meters))
                except ValueError as error:
                    problems.append(f"line {reader.line_num}: {error}")
                if len(rows) > ROWS_MAX:
                    raise CommandError(f"{path} has more than {ROWS_MAX:,} lines.")
    except FileNotFoundError as error:
        raise CommandError(f"There is no {path}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CommandError(f"{path} is not a CSV file in UTF-8: {error}") from error
    if problems:
        rest = f"\n... and {len(problems) - PROBLEMS_SHOWN_MAX} more" if len(problems) > PROBLEMS_SHOWN_MAX else ""
        raise CommandError(f"{path} cannot be read:\n" + "\n".join(problems[:PROBLEMS_SHOWN_MAX]) + rest)
    return rows


def _meters(path: Path, columns: list[str]) -> list[str]:
    missing = [name for name in (CUSTOMER, PRODUCT) if name not in columns]
    meters = [name for name in columns if name not in {CUSTOMER, PRODUCT, CURRENCY}]
    if missing or not meters or len(set(columns)) != len(columns):
        wanted = f"{CUSTOMER},{PRODUCT}[,{CURRENCY}],METER[,METER ...]"
        raise CommandError(f"The first line of {path} must name the columns {wanted}, for example: customer,product,calls")
    return meters


def _row(line: int, entry: dict[str, Any], meters: list[str]) -> Row:
    if None in entry or None in entry.values():
        raise ValueError("another number of columns than in the first line")
    customer, product = entry[CUSTOMER].strip(), entry[PRODUCT].strip()
    if not customer or not product:
        raise ValueError("the customer or the product is missing")
    usage = {}
    for meter in meters:
        text = entry[meter].strip().replace("_", "")
        if text and not (text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX):
            raise ValueError(f'"{entry[meter][:40]}" is not a whole number of {meter}')
        if text:
            usage[meter] = int(text)
    return Row(line, customer, product, (entry.get(CURRENCY) or "").strip().lower() or None, usage)


def simulate(rows: Iterable[Row], *, catalogue: "Catalogue", against: "Catalogue", month: datetime) -> list[Outcome]:
    """Price each row's full period under both catalogues. What the first cannot price is a mistake of the file."""
    from billing_common.catalogue import UnknownProductError
    from billing_common.rating import RatingError

    outcomes, problems = [], []
    for row in rows:
        try:
            currency, before = _price(catalogue, row, month)
        except (UnknownProductError, RatingError) as error:
            problems.append(f"line {row.line}: {error}")
            continue
        try:
            other, after = _price(against, row, month)
        except (UnknownProductError, RatingError) as error:
            outcomes.append(Outcome(row, currency, before, None, str(error)))
            continue
        reason = "" if other == currency else f"the other catalogue charges in {other.upper()}"
        outcomes.append(Outcome(row, currency, before, None if reason else after, reason))
    if problems:
        rest = f"\n... and {len(problems) - PROBLEMS_SHOWN_MAX} more" if len(problems) > PROBLEMS_SHOWN_MAX else ""
        told = "\n".join(problems[:PROBLEMS_SHOWN_MAX])
        raise CommandError(f"The usage cannot be priced by the catalogue as it is (--catalogue names it):\n{told}{rest}")
    return outcomes


def _price(catalogue: "Catalogue", row: Row, month: datetime) -> tuple[str, int]:
    """A one-off setup fee belongs to no month: it is left out on both sides."""
    from billing_common.rating import Facts, period_at, rate

    product = catalogue.product(row.product)
    period = period_at(product.model_copy(update={"trial_days": 0}), started_at=month, at=month)
    usage = {meter: quantity for meter, quantity in row.usage.items() if quantity or meter in product.meter_ids()}
    if product.is_free:  # what is counted for a free product without a quota is charged nothing
        usage = {meter: quantity for meter, quantity in usage.items() if meter in product.meter_ids()}
    rated = rate(catalogue, product, period=period, usage=usage, facts=Facts(started_at=period.start, currency=row.currency))
    return rated.currency, sum(line.amount_minor for line in rated.lines if line.component != "setup")


def totals(outcomes: Iterable[Outcome]) -> dict[str, dict[str, int]]:
    """Return the sums of each currency over the customers that both catalogues can price."""
    found: dict[str, dict[str, int]] = {}
    for outcome in outcomes:
        sums = found.setdefault(
            outcome.currency, dict.fromkeys(("customers", "before_minor", "after_minor", "pay_more", "pay_less", "unpriced"), 0)
        )
        if outcome.after_minor is None:
            sums["unpriced"] += 1
            continue
        sums["customers"] += 1
        sums["before_minor"] += outcome.before_minor
        sums["after_minor"] += outcome.after_minor
        sums["pay_more"] += outcome.after_minor > outcome.before_minor
        sums["pay_less"] += outcome.after_minor < outcome.before_minor
    return found
