"""The business clock: walks from one due transition to the next, and waits at each until everything is settled."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from turnpike_cli.errors import CommandError, DoorClosedError

MASTER = "sandbox_stripe"  # keeps the offset in its database, so it is moved last
SETTLE_SECONDS = 60.0
POLL_SECONDS = 0.03
BEHIND_MAX = timedelta(seconds=2)
STEPS_MAX = 100_000


class ClockDoors(Protocol):
    """What the walk needs of the doors."""

    @property
    def names(self) -> list[str]: ...
    async def status(self, name: str) -> dict[str, Any]: ...
    async def clock(self, name: str) -> dict[str, Any]: ...
    async def set_clock(self, name: str, offset_seconds: float) -> None: ...


@dataclass(frozen=True)
class Step:
    """One stop of the walk: the business time, who asked for it, and how long settling took."""

    at: datetime
    cause: str
    seconds: float


@dataclass(frozen=True)
class _Pass:
    statuses: Mapping[str, dict[str, Any]]

    @property
    def activity(self) -> tuple[tuple[str, int], ...]:
        return tuple((name, int(status["activity"])) for name, status in self.statuses.items())

    @property
    def unsettled(self) -> dict[str, str]:
        """Return who still has something to do, and what; work that is due by now counts, though nobody has begun it."""
        found = {}
        for name, status in self.statuses.items():
            due = _moment(status["next_due"])
            if not status["settled"]:
                found[name] = "; ".join(status.get("waiting_for") or ["it does not say for what"])
            elif due is not None and due <= datetime.fromisoformat(status["now"]):
                found[name] = f"something is due since {due:%Y-%m-%d %H:%M:%S} and has not happened"
        return found

    def next_due(self) -> tuple[datetime, str] | None:
        dues = [(due, name) for name, status in self.statuses.items() if (due := _moment(status["next_due"])) is not None]
        return min(dues) if dues else None


class BusinessTime:
    """Shows and moves the business clock of everything behind the doors."""

    def __init__(self, doors: ClockDoors, *, settle_seconds: float = SETTLE_SECONDS) -> None:
        self._doors = doors
        self._settle_seconds = settle_seconds
        self._pushed = timedelta(0)  # the offset that everybody was given last

    async def offset(self) -> timedelta:
        return timedelta(seconds=float((await self._doors.clock(MASTER))["offset_seconds"]))

    async def now(self) -> datetime:
        return datetime.now(UTC) + await self.offset()

    async def settle(self) -> None:
        """Return when two passes in a row found everything settled and nothing moved between them."""
        await self._settled_pass()

    async def _settled_pass(self) -> _Pass:
        end = time.monotonic() + self._settle_seconds
        before: _Pass | None = None
        while True:
            seen = await self._pass()
            if not seen.unsettled and before is not None and not before.unsettled and before.activity == seen.activity:
                return seen
            if time.monotonic() > end:
                raise CommandError(self._explain(before, seen))
            before = seen
            await asyncio.sleep(POLL_SECONDS)

    async def _pass(self) -> _Pass:
        names = self._doors.names
        statuses = await asyncio.gather(*(self._status(name) for name in names))
        return _Pass(dict(zip(names, statuses, strict=True)))

    async def _status(self, name: str) -> dict[str, Any]:
        """Ask one process. One that was restarted during the walk has read an older offset: it is brought up to the others."""
        try:
            status = await self._doors.status(name)
            if datetime.fromisoformat(status["now"]) < datetime.now(UTC) + self._pushed - BEHIND_MAX:
                await self._doors.set_clock(name, self._pushed.total_seconds())
                return status | {"settled": False, "waiting_for": ["its clock, which was behind"]}
        except CommandError as error:  # also a service that cannot say, because its own database is away
            return {"settled": False, "activity": -1, "next_due": None, "waiting_for": [str(error)], "now": ""}
        return status

    def _explain(self, before: _Pass | None, seen: _Pass) -> str:
        reasons = seen.unsettled
        if not reasons and before is not None:
            moving = [name for (name, was), (_, now) in zip(before.activity, seen.activity, strict=True) if was != now]
            reasons = dict.fromkeys(moving or ["the stack"], "it is never quiet")
        text = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        return f"Not settled within {self._settle_seconds:.0f} s, so the clock was not moved further. {text}."

    async def advance_by(self, duration: timedelta, *, on_step: Callable[[Step], None] | None = None) -> list[Step]:
        return await self.advance_to(await self.now() + duration, on_step=on_step)

    async def advance_to(self, target: datetime, *, on_step: Callable[[Step], None] | None = None) -> list[Step]:
        """Walk to `target` (aware UTC) and return the stops. Going back is refused."""
        if target < await self.now():
            raise CommandError(f"The clock only moves forward: it is {await self.now():%Y-%m-%d %H:%M:%S} UTC already.")
        steps: list[Step] = []
        seen = await self._settled_pass()
        while len(steps) < STEPS_MAX:
            due = seen.next_due()
            at, cause = due if due is not None and due[0] < target else (target, "the end")
            started = time.monotonic()
            await self._set_all(at)
            seen = await self._settled_pass()
            steps.append(Step(at, cause, time.monotonic() - started))
            if on_step is not None:
                on_step(steps[-1])
            if at == target:
                return steps
        raise CommandError(f"Gave up after {STEPS_MAX} stops: {seen.next_due()} is due again and again.")

    async def _set_all(self, at: datetime) -> None:
        """Move everybody to `at`: services first, the master copy last, so that a crash in between never leaves it ahead."""
        whole = timedelta(seconds=math.ceil((at - datetime.now(UTC)).total_seconds()))  # Stripe knows whole seconds
        offset = max(whole, await self.offset())
        others = [name for name in self._doors.names if name != MASTER]
        await asyncio.gather(*(self._set(name, offset) for name in others if not name.startswith("sandbox_")))
        for sandbox in [name for name in others if name.startswith("sandbox_")]:
            await self._set(sandbox, offset)
        await self._set(MASTER, offset)
        self._pushed = offset

    async def _set(self, name: str, offset: timedelta) -> None:
        """Set one clock; wait for a process that is being restarted."""
        end = time.monotonic() + self._settle_seconds
        while True:
            try:
                return await self._doors.set_clock(name, offset.total_seconds())
            except DoorClosedError:
                if time.monotonic() > end:
                    raise
            await asyncio.sleep(POLL_SECONDS * 5)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
