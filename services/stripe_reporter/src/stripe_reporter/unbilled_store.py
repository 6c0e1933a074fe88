"""Final invoices that are still looked at, and what was found missing on them: every query on them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from billing_common.db import Connection
from stripe_reporter.explanation import Group

AT_ONCE = 100


@dataclass(frozen=True)
class Claim:
    """A quantity of one meter and service period that an invoice does not bill and that was announced."""

    unbilled_id: UUID
    product_id: str
    component: str
    meter_id: str
    period_start: datetime
    billed: int
    counted: int


@dataclass(frozen=True)
class Stretch:
    """What the windows and the ledger say of one meter and service period.

    `open`: something of it is not sent, not answered or not closed yet. `whole`: the period's end is settled and nothing was refused, so
    no more will come. From `stripe_customer_id` on it is of all subscriptions of the customer, in the minutes around.
    """

    acknowledged: int
    open: bool
    whole: bool
    versions: tuple[int, ...] = ()  # of the catalogue, that it was counted under
    stripe_customer_id: str | None = None
    stripe_meter_id: str | None = None
    customer_acknowledged: int = 0
    customer_open: bool = False
    answered_at: datetime | None = None  # wall time

    def is_on_its_way(self, *, wall: datetime, lag: timedelta) -> bool:
        """Return whether something has no answer yet, or Stripe's sums may trail behind what it acknowledged."""
        return self.open or self.customer_open or (self.answered_at is not None and wall - self.answered_at < lag)


def of_group(group: Group, claims: Iterable[Claim]) -> list[Claim]:
    """Return what was found missing of a group."""
    key = (group.product_id, group.component, group.start)
    return [claim for claim in claims if (claim.product_id, claim.component, claim.period_start) == key]


async def take(connection: Connection, *, wall: datetime, pause: timedelta) -> list[str]:
    """Take invoices that are due for a look, so that no other replica does. Each is due again after a pause that grows with its looks."""
    rows = await connection.fetch(
        "with due as (select invoice_id from invoice where look_at <= $1 order by look_at limit $3 for update skip locked) "
        "update invoice i set looks = looks + 1, look_at = $1 + least($2::interval * (1 + looks / 4), interval '1 day') "
        "from due where i.invoice_id = due.invoice_id returning i.invoice_id",
        wall,
        pause,
        AT_ONCE,
    )
    return [row["invoice_id"] for row in rows]


async def look_no_more(connection: Connection, invoice_id: str) -> None:
    await connection.execute("update invoice set look_at = null where invoice_id = $1", invoice_id)


async def stretch(connection: Connection, subscription_id: str, group: Group, minutes: tuple[datetime, datetime]) -> Stretch:
    """Read what is known of a group's usage; `minutes` are the full ones around it."""
    row = await connection.fetchrow(
        "select coalesce(sum(w.acknowledged), 0) as acknowledged, array_agg(distinct w.catalogue_version) as versions, "
        "coalesce(bool_or(w.billable is distinct from true or w.total <> w.recorded or w.recorded <> w.acknowledged + w.rejected "
        "or coalesce(g.state, 'waiting') = 'waiting'), false) as open, coalesce(sum(w.rejected), 0) = 0 and exists (select from segment e "
        "where e.subscription_id = $1 and e.state = 'settled' and e.segment_start < $5 and e.segment_end > $5 - interval '1 minute') "
        "as whole from usage_window w left join segment g "
        "on g.subscription_id = w.subscription_id and g.segment_start = w.segment_start "
        "where w.subscription_id = $1 and w.product_id = $2 and w.meter_id = $3 and w.event_time >= $4 and w.event_time < $5",
        subscription_id,
        group.product_id,
        group.meter_id,
        group.start,
        group.end,
    )
    assert row is not None  # an aggregate always has a row
    known = Stretch(int(row["acknowledged"]), row["open"], row["whole"], tuple(version for version in row["versions"] or () if version))
    place = await connection.fetchrow(
        "select s.stripe_customer_id, m.stripe_meter_id, coalesce(sum(l.credited) filter (where l.state = 'acknowledged'), 0) "
        "as customer_acknowledged, coalesce(bool_or(l.state in ('intent', 'sent', 'unknown')), false) as customer_open, "
        "max(l.answered_at) as answered_at from subscription s "
        "join stripe_meter m on m.catalogue_version = coalesce($2::integer, s.catalogue_version) and m.product_id = $3 and m.meter_id = $4 "
        "left join ledger l on l.stripe_customer_id = s.stripe_customer_id and l.event_name = m.event_name "
        "and l.event_time >= $5 and l.event_time < $6 where s.subscription_id = $1 group by 1, 2",
        subscription_id,
        max(known.versions, default=None),
        group.product_id,
        group.meter_id,
        *minutes,
    )
    return known if place is None else replace(known, **dict(place))


async def claims(connection: Connection, invoice_ids: Iterable[str]) -> dict[str, list[Claim]]:
    """Return invoice -> what was found missing on it, in the order of its quantities."""
    rows = await connection.fetch(
        "select invoice_id, unbilled_id, product_id, component, meter_id, period_start, billed, counted from unbilled "
        "where invoice_id = any($1::text[]) order by billed",
        list(invoice_ids),
    )
    found: dict[str, list[Claim]] = {}
    for row in rows:
        found.setdefault(row["invoice_id"], []).append(Claim(**{name: row[name] for name in Claim.__dataclass_fields__}))
    return found


async def add(connection: Connection, invoice_id: str, claim: Claim, now: datetime) -> bool:
    """Keep a claim; False when it is known, whoever found it."""
    return bool(
        await connection.fetchval(
            "insert into unbilled (unbilled_id, invoice_id, product_id, component, meter_id, period_start, billed, counted, found_at) "
            "values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing returning true",
            claim.unbilled_id,
            invoice_id,
            claim.product_id,
            claim.component,
            claim.meter_id,
            claim.period_start,
            claim.billed,
            claim.counted,
            now,
        )
    )
