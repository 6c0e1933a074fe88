"""Asks all stations about subscriptions and puts the answers side by side. The rules stand in `reconciliation`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, Self

import asyncpg

from billing_common.catalogue import Catalogue
from billing_common.db import Connection
from stripe_reporter import explanation, invoice_store, reconciliation, reconciliation_store, unbilled_store
from stripe_reporter.collector_gateway import Collector
from stripe_reporter.explaining import catalogues_of, catalogues_of_plan
from stripe_reporter.explanation import Group
from stripe_reporter.invoice_store import HourOfMeter, Invoice
from stripe_reporter.reconciliation import Clocks, Difference, InvoicedUsage, MeterFigures
from stripe_reporter.reconciliation_store import Found
from stripe_reporter.stripe_gateway import StripeUnavailableError, full_minutes
from stripe_reporter.worth import worth

SUBSCRIPTIONS_MAX = 50
RANGE_MAX = timedelta(days=100)  # of one question
Key = tuple[str, str, datetime]  # product, meter, day


class Summaries(Protocol):
    """What is asked of Stripe."""

    async def sum(self, *, stripe_meter_id: str, stripe_customer_id: str, start: datetime, end: datetime) -> int: ...

    async def sums(
        self, *, stripe_meter_id: str, stripe_customer_id: str, start: datetime, end: datetime, by: Any
    ) -> dict[datetime, int]: ...


@dataclass(frozen=True)
class Stations:
    """Where the figures come from."""

    pool: asyncpg.Pool
    collector: Collector
    stripe: Summaries
    clocks: Clocks


@dataclass(frozen=True)
class Reconciled:
    """One subscription at all stations; `problems` are stations that did not answer.

    `kept_from`: events of earlier days of the range are no longer kept, so they are not compared; None: all are.
    """

    subscription_id: str
    account_id: str
    currency: str | None
    days: Sequence[Mapping[str, Any]]
    meters: Sequence[MeterFigures]
    invoices: Sequence[InvoicedUsage]
    found: Sequence[Found]
    problems: Sequence[str]
    kept_from: datetime | None = None
    left_out: Sequence[datetime] = ()  # hours whose events were not added up yet, so they were not compared
    known: bool = True  # False: neither the collector nor the reporter has heard of it


@dataclass(frozen=True)
class Span:
    """A range; events from `complete_until` on could not be added up in time, those of days before `kept_from` are gone."""

    since: datetime
    until: datetime
    complete_until: datetime | None
    kept_from: datetime | None
    left_out: Sequence[datetime] = ()

    @classmethod
    def of(cls, answer: Mapping[str, Any], since: datetime, until: datetime) -> Self:
        """Read it from the collector's answer."""
        complete_until = datetime.fromisoformat(answer["complete_until"]) if answer["complete_until"] else None
        kept_from = datetime.fromisoformat(answer["kept_from"])
        left_out = [datetime.fromisoformat(hour) for hour in answer["left_out"]]
        return cls(since, until, complete_until, kept_from if since < kept_from else None, left_out)

    def whole(self, day: datetime) -> bool:
        """Return whether all events of a day were added up."""
        return self.complete_until is None or day + timedelta(days=1) <= self.complete_until


async def reconcile(
    stations: Stations, subscription_ids: Sequence[str], since: datetime, until: datetime, *, rolled_up: bool = False
) -> list[Reconciled]:
    """Compare all stations in a range of full UTC days, at most 50 subscriptions at once. Raises CollectorUnavailableError.

    `rolled_up`: leave out the hours whose events are not added up yet, as each such question would read everybody's.
    """
    body = {"subscriptions": list(subscription_ids), "from": since.isoformat(), "to": until.isoformat(), "rolled_up": rolled_up}
    answer = await stations.collector.post("/v1/reconciliation/days", body)
    span = Span.of(answer, since, until)
    problems = [f"API Management did not answer: {answer['gateway_error']}"] if answer["gateway_error"] else []
    days: dict[str, list[dict[str, Any]]] = {}
    for day in answer["days"]:
        days.setdefault(day["subscription_id"], []).append(day)
    return [await _Subscription(stations, name, days.get(name, []), span, list(problems)).reconcile() for name in subscription_ids]


async def check_windows(
    stations: Stations, subscription_id: str, since: datetime, until: datetime
) -> tuple[set[datetime], datetime | None]:
    """Return the days of any range whose windows are not, or could not be seen to be, what their events add up to.

    And from when on its events are kept; None: all of them.
    """
    found, kept_from = set(), None
    while since < until:
        end = min(until, since + RANGE_MAX)
        body = {"subscriptions": [subscription_id], "from": since.isoformat(), "to": end.isoformat()}
        answer = await stations.collector.post("/v1/reconciliation/days", body)
        span = Span.of(answer, since, end)
        kept_from = span.kept_from or kept_from
        for day in answer["days"]:
            at = datetime.fromisoformat(day["day"])
            meters = [_figures((one["product_id"], one["meter_id"], at), one, None, counted_whole=span.whole(at)) for one in day["meters"]]
            if any(reconciliation.is_unsure(one) for one in meters):
                found.add(at)
        since = end
    return found, kept_from


@dataclass
class _Subscription:
    """One subscription while its stations are asked."""

    stations: Stations
    subscription_id: str
    days: Sequence[Mapping[str, Any]]
    span: Span
    problems: list[str]

    async def reconcile(self) -> Reconciled:
        since, until = self.span.since, self.span.until
        async with self.stations.pool.acquire() as connection:
            facts = (await reconciliation_store.facts(connection, [self.subscription_id])).get(self.subscription_id)
            invoices = await invoice_store.invoices_of(connection, self.subscription_id, since, until)
            first = min((line.period_start for invoice in invoices for line in invoice.lines), default=since)
            hours = await invoice_store.hours_of(connection, self.subscription_id, min(first, since), until)
            catalogues = await catalogues_of(connection, hours, invoices)
            plan = await self._add_plan(connection, facts, catalogues)
            closed = await reconciliation_store.closed_usage(connection, self.subscription_id, since, until)
        customer = facts["stripe_customer_id"] if facts else None
        currency = facts["currency"] if facts else None
        meters = await self._meters(customer)
        billed, differences = await self._invoiced(invoices, hours, catalogues)
        groups = [group for invoice in invoices for group in explanation.groups_of(invoice, catalogues)]
        covered = [(group.product_id, group.meter_id, group.start, group.end) for group in groups]
        differences += reconciliation.not_invoiced(closed, covered, self.stations.clocks)
        for day in self.days:
            differences += reconciliation.judge_events(day, self.stations.clocks)
        for figures in meters:
            differences += reconciliation.judge_meter(figures, self.stations.clocks)
        account = facts["account_id"] if facts else ""
        found = [
            Found(self.subscription_id, account, one, worth(one, hours, catalogues, plan=plan, currency=currency), currency)
            for one in reconciliation.combined(differences)
        ]
        span = self.span
        return Reconciled(
            self.subscription_id, account, currency, self.days, meters, billed, found, self.problems, span.kept_from, span.left_out,
            known=bool(facts or self.days or meters or invoices or closed),
        )  # fmt: skip

    async def _add_plan(self, connection: Connection, facts: Any, catalogues: dict[str, Catalogue]) -> str | None:
        """Return the product that the subscription has now, its catalogue added: a month may have no usage but lost usage."""
        if facts is None:
            return None
        if facts["product_id"] not in catalogues:
            catalogues |= await catalogues_of_plan(connection, facts["product_id"], facts["catalogue_version"])
        return str(facts["product_id"])

    async def _meters(self, customer: str | None) -> list[MeterFigures]:
        """Put the collector's, the ledger's and Stripe's figures of each meter and day side by side."""
        counted = {
            (meter["product_id"], meter["meter_id"], datetime.fromisoformat(day["day"])): meter
            for day in self.days
            for meter in day["meters"]
        }
        async with self.stations.pool.acquire() as connection:
            rows = await reconciliation_store.meter_days(connection, self.subscription_id, self.span.since, self.span.until)
            plan = await reconciliation_store.plan_meters(connection, self.subscription_id)
        kept = {(row["product_id"], row["meter_id"], row["day"].astimezone(UTC)): row for row in rows}
        places = {(row["product_id"], row["meter_id"]): row for row in [*plan, *rows] if row["event_name"] is not None}
        figures: dict[Key, MeterFigures] = {}
        for key in {*counted, *kept}:
            figures[key] = _figures(key, counted.get(key), kept.get(key), counted_whole=self.span.whole(key[2]))
        for meter, place in places.items():
            if customer is not None:
                await self._add_stripe(figures, meter, place, customer)
        return [figures[key] for key in sorted(figures, key=lambda key: (key[2], key[0], key[1]))]

    async def _add_stripe(self, figures: dict[Key, MeterFigures], meter: tuple[str, str], place: Mapping[str, Any], customer: str) -> None:
        """Add Stripe's own sums, also of days on which nothing was reported: somebody may have sent usage there."""
        since, until = self.span.since, self.span.until
        try:
            sums = await self.stations.stripe.sums(
                stripe_meter_id=place["stripe_meter_id"], stripe_customer_id=customer, start=since, end=until, by="day"
            )
        except StripeUnavailableError as error:
            self.problems.append(f"Stripe did not answer for {meter[1]}: {error}")
            return
        async with self.stations.pool.acquire() as connection:
            known = await reconciliation_store.customer_days(connection, customer, place["event_name"], since, until)
        ledger = {day.astimezone(UTC): row for day, row in known.items()}
        for day in {*sums, *ledger, *(key[2] for key in figures if key[:2] == meter)}:
            row = ledger.get(day)
            figures[*meter, day] = replace(
                figures.get((*meter, day)) or MeterFigures(*meter, day, windows=0),
                stripe=sums.get(day, 0),
                customer_acknowledged=row["acknowledged"] if row else 0,
                answered_at=row["answered_at"] if row else None,
                first_unanswered=row["first_unanswered"] if row else None,
            )

    async def _invoiced(
        self, invoices: Iterable[Invoice], hours: Sequence[HourOfMeter], catalogues: Mapping[str, Catalogue]
    ) -> tuple[list[InvoicedUsage], list[Difference]]:
        """Compare final invoices with the usage of their service periods; name lines that nobody here knows."""
        billed, found = [], []
        final = [one for one in invoices if one.status != "draft"]
        async with self.stations.pool.acquire() as connection:
            claims = await unbilled_store.claims(connection, [invoice.invoice_id for invoice in final])
        for invoice in final:
            name = invoice.number or invoice.invoice_id
            for group in explanation.groups_of(invoice, catalogues):
                if group.end <= self.span.until:
                    one = self._billed(group, hours, catalogues.get(group.product_id), name=name, currency=invoice.currency)
                    missed = unbilled_store.of_group(group, claims.get(invoice.invoice_id, ()))
                    one = replace(one, claimed=sum(claim.counted - claim.billed for claim in missed))
                    billed.append(await self._asked(one, group) if one.more else one)
                    found += reconciliation.judge_invoice(billed[-1])
            found += [
                reconciliation.foreign_line(invoice.created_at, name, line.description, line.amount_minor)
                for line in invoice.lines
                if explanation.kind_of(line) == "unknown" and line.amount_minor
            ]
        return billed, found

    def _billed(
        self, group: Group, hours: Sequence[HourOfMeter], catalogue: Catalogue | None, *, name: str, currency: str
    ) -> InvoicedUsage:
        counted = sum(hour.quantity for hour in explanation.hours_of_group(group, hours))
        rated = explanation.amount_of(group, catalogue, currency, counted) if catalogue is not None else None
        return InvoicedUsage(group.product_id, group.meter_id, group.start, name, group.quantity, counted, None, group.amount_minor, rated)

    async def _asked(self, one: InvoicedUsage, group: Group) -> InvoicedUsage:
        """Add what Stripe has of usage that its invoice bills otherwise, and whether that may still change."""
        start, end = full_minutes(group.start, group.end)
        async with self.stations.pool.acquire() as connection:
            known = await unbilled_store.stretch(connection, self.subscription_id, group, (start, end))
        clocks = self.stations.clocks
        found = replace(one, on_its_way=known.is_on_its_way(wall=clocks.wall, lag=clocks.summary_lag + reconciliation.ON_THE_WAY))
        if known.stripe_meter_id is None or known.stripe_customer_id is None:
            return found
        try:
            at_stripe = await self.stations.stripe.sum(
                stripe_meter_id=known.stripe_meter_id, stripe_customer_id=known.stripe_customer_id, start=start, end=end
            )
        except StripeUnavailableError:
            return found
        return replace(found, stripe=at_stripe)


def _figures(key: Key, seen: Mapping[str, Any] | None, kept: Mapping[str, Any] | None, *, counted_whole: bool) -> MeterFigures:
    named = ("told", "acknowledged", "in_flight", "rejected", "unsent", "due_at", "changed_at")
    return MeterFigures(
        *key,
        counted=seen["counted"] if seen is not None and counted_whole else None,
        windows=seen["windows"] if seen is not None else 0,
        left_out=seen["left_out"] if seen is not None else 0,
        unpublished=bool(seen and seen["unpublished"]),
        **({name: kept[name] for name in named} if kept is not None else {}),
    )
