"""The chapter of a provider's own API: no API Management, a middleware counts the calls, and the count is what is invoiced."""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import httpx

from turnpike_cli.clock import BusinessTime
from turnpike_cli.doors import Doors
from turnpike_cli.story.browser import StoryError
from turnpike_cli.story.checks import Checks
from turnpike_cli.story.example_apps import GoExample, MissingError, Wiring, call_many, express_command, python_command, running, stop
from turnpike_cli.story.figures import Station, check_invoice, check_reported, check_usage
from turnpike_cli.story.people import Consumer, Places
from turnpike_cli.story.stripe_view import StripeView

PRODUCT = "enterprise"
CALLS = {"Python": (200, 10), "Express": (60, 2), "Go": (60, 2)}  # calls, and how many of them fail


class Stage(Protocol):
    """What the chapter needs of the story."""

    places: Places
    doors: Doors
    clock: BusinessTime
    stripe: StripeView
    checks: Checks
    http: httpx.AsyncClient


@dataclass(frozen=True)
class Outcome:
    """How the calls through one app were answered, those of a forged key too, and whether the app ended by itself."""

    statuses: list[int]
    refused: list[int]
    ended: bool


@dataclass
class OwnApi:
    """One consumer, whose calls go to the example apps. `answered` are the calls that count as events, `good` those that bill."""

    stage: Stage
    folder: Path
    consumer: Consumer = field(init=False)
    stripe_id: str = ""
    started: datetime = field(init=False)
    answered: int = 0
    good: int = 0

    def __post_init__(self) -> None:
        self._go = GoExample(self.folder / "go")

    async def prepare(self) -> None:
        await self._go.begin()

    async def end(self) -> None:
        await self._go.end()

    async def use(self, number: int) -> None:
        """Play the chapter: sign up, start the apps, call them, end them."""
        self.stage.checks.chapter(number, "An API without API Management: a middleware counts the calls")
        await self._join()
        wiring = await self._wiring()
        began = time.monotonic()
        found = await asyncio.gather(*(self._through(name, wiring) for name in CALLS))
        self.stage.checks.step(f"[dim]{', '.join(CALLS)}: started, called and stopped[/dim]", seconds=time.monotonic() - began)
        for name, outcome in zip(CALLS, found, strict=True):
            self._tell(name, outcome)

    async def check(self, month_end: datetime) -> None:
        """Check at the month's end: answered = counted = reported = invoiced."""
        checks = self.stage.checks
        checks.step(f"the {self.answered} calls that the middleware saw:")
        station = Station(self.stage.doors, self.stage.stripe, self.consumer, self.started, month_end)
        counted = await check_usage(station, checks, sent=self.answered, through_gateway=False)
        checks.equal("middleware: what succeeded is what bills", answered_with_200=self.good, counted=counted.get("calls", 0))
        await check_reported(station, checks, counted)
        await check_invoice(station, checks, counted, self.stripe_id, self.started)

    async def _join(self) -> None:
        stage = self.stage
        run = f"{int((await stage.clock.now()).timestamp()):x}"
        self.consumer = Consumer(f"middleware-{run}", PRODUCT, stage.places)
        await self.consumer.sign_up()
        await self.consumer.pay(await self.consumer.order(await self.consumer.choose()))
        await self.consumer.wait_for_key()
        found = await stage.stripe.subscription(self.consumer.subscription_id)
        self.stripe_id = found.id
        self.started = datetime.fromtimestamp(found.start_date, (await stage.clock.now()).tzinfo)

    async def _wiring(self) -> Wiring:
        consumer, stage = self.consumer, self.stage
        source = f"/gateways/{consumer.name}"
        body = {"name": consumer.name, "source": source, "subscriptions": [consumer.subscription_id]}
        sender: dict[str, Any] = await stage.doors.ask("usage_collector", "POST", "/v1/senders", body=body)
        clock = await stage.doors.clock("sandbox_stripe")
        return Wiring(stage.places.ingest, sender["key"], source, {consumer.key: consumer.subscription_id}, float(clock["offset_seconds"]))

    async def _command(self, name: str) -> list[str]:
        if name == "Go":
            return await self._go.command()
        return python_command() if name == "Python" else express_command()

    async def _through(self, name: str, wiring: Wiring) -> Outcome | MissingError:
        calls, failing = CALLS[name]
        paths = ["/orders/none/such"] * failing + ["/orders", "/orders/7"] * ((calls - failing) // 2)
        try:
            async with running(await self._command(name), self.folder / name.lower(), wiring) as (base, process):
                statuses = await call_many(self.stage.http, base, self.consumer.key, paths)
                refused = await call_many(self.stage.http, base, "a forged key", ["/orders"], parallel=1)
                return Outcome(statuses, refused, ended=await stop(process))
        except MissingError as missing:
            if name == "Python":
                raise StoryError(f"the Python example: {missing}") from None
            return missing

    def _tell(self, name: str, outcome: Outcome | MissingError) -> None:
        if isinstance(outcome, MissingError):
            self.stage.checks.step(f"[dim]skipped: the {name} example: {outcome}[/dim]")
            return
        calls, failing = CALLS[name]
        good = outcome.statuses.count(200)
        held = good == calls - failing and outcome.statuses.count(404) == failing and outcome.refused == [401] and outcome.ended
        detail = f"{calls} calls, {good} answered with 200"
        self.stage.checks.check(f"middleware: the {name} example answers, counts and sends before it ends", held=held, detail=detail)
        self.answered, self.good = self.answered + len(outcome.statuses), self.good + good
