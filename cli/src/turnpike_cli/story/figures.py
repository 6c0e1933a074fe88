"""From the gateway's own count to the invoice's lines: the same figures at every station, for one consumer and one period."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from turnpike_cli.doors import Doors
from turnpike_cli.story.checks import Checks
from turnpike_cli.story.people import Consumer
from turnpike_cli.story.stripe_view import StripeView


@dataclass(frozen=True)
class Station:
    """Asks every station of the money path about one subscription."""

    doors: Doors
    stripe: StripeView
    consumer: Consumer
    start: datetime
    end: datetime

    def _range(self, **more: str) -> dict[str, Any]:
        """Full hours: what the collector's windows are made of."""
        start, end = self.start.replace(minute=0, second=0), self.end + timedelta(minutes=59, seconds=59)
        return {"from": start.isoformat(), "to": end.replace(minute=0, second=0).isoformat(), **more}

    async def gateway_calls(self) -> int:
        """Calls with this subscription's key, as the gateway counted them."""
        answer = await self.doors.ask("sandbox_apim", "GET", "/_sandbox/calls", params=self._range(sid=self.consumer.subscription_id))
        return int(answer["total"])

    async def collected(self) -> dict[str, Any]:
        path = "/v1/reconciliation"
        answer: dict[str, Any] = await self.doors.ask(
            "usage_collector", "GET", path, params=self._range(subscription_id=self.consumer.subscription_id)
        )
        return answer

    async def reported(self) -> list[dict[str, Any]]:
        path = "/v1/reconciliation"
        answer = await self.doors.ask("stripe_reporter", "GET", path, params=self._range(subscription_id=self.consumer.subscription_id))
        meters: list[dict[str, Any]] = answer["meters"]
        return meters

    async def quote(self, usage: dict[str, int], started_at: datetime) -> dict[str, Any]:
        body = {"product": self.consumer.product, "usage": usage, "from": started_at.isoformat()}
        answer: dict[str, Any] = await self.doors.ask("checkout", "POST", "/v1/quotes", body=body)
        return answer


async def check_usage(station: Station, checks: Checks, *, sent: int, through_gateway: bool) -> dict[str, int]:
    """Check: sent = gateway's count = received = counted + filtered + rejected + held. Returns what was counted per meter."""
    name = station.consumer.product
    seen = await station.collected()
    events = seen["events"]
    binned = {kind: int(events[kind]) for kind in ("counted", "filtered", "rejected", "held")}
    at_gateway = await station.gateway_calls() if through_gateway else sent
    checks.equal(
        f"{name}: no call lost, none twice",
        calls_made=sent,
        **({"at_the_gateway": at_gateway} if through_gateway else {}),
        received=int(events["received"]),
        in_its_bin=sum(binned.values()),
    )
    checks.step(f"[dim]{name}: {', '.join(f'{count} {kind}' for kind, count in binned.items())}, {events['duplicates']} duplicates[/dim]")
    checks.check(f"{name}: what was counted is what the windows hold", held=bool(seen["balanced"]))
    return {meter: int(figures["counted"]) for meter, figures in seen["meters"].items()}


async def check_reported(station: Station, checks: Checks, counted: dict[str, int]) -> None:
    """Check: counted = acknowledged in the ledger = Stripe's meter summary."""
    for row in await station.reported():
        if row["event_name"] is not None:
            checks.equal(
                f"{station.consumer.product}: counted is what Stripe has",
                counted=counted.get(row["meter"], 0),
                reported=row["acknowledged"],
                at_Stripe=row["stripe"],
            )


async def check_invoice(station: Station, checks: Checks, counted: dict[str, int], stripe_id: str, started_at: datetime) -> None:
    """Check: the invoice lines of this service period are the quote's lines, to the cent."""
    lines = await station.stripe.lines(stripe_id, station.start, station.end)
    quote = await station.quote(counted, started_at)
    billed, quoted = sorted(line.amount_minor for line in lines), sorted(int(line["amount_minor"]) for line in quote["lines"])
    checks.equal(
        f"{station.consumer.product}: the invoice is the quote", invoiced=_money(sum(billed)), quoted=_money(int(quote["total_minor"]))
    )
    checks.check(
        f"{station.consumer.product}: line by line",
        held=[amount for amount in billed if amount] == [amount for amount in quoted if amount],
        detail="; ".join(f"{line.description} {_money(line.amount_minor)}" for line in lines),
    )


def _money(minor: int) -> str:
    return f"${minor / 100:,.2f}"
