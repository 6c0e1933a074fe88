"""What somebody changed by hand at APIM or Stripe since the applied version: told on demand, and looked for every hour."""

import asyncio
from collections import Counter
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import asyncpg
import structlog
from prometheus_client import Gauge

from checkout import store_catalogue, store_drift
from checkout.applying import Looked, NothingAppliedError, look
from checkout.carrying import OUTSIDE_ERRORS, Outside
from checkout.steps import KINDS, Step

REFRESH = timedelta(seconds=60)  # how often the figures of a look by another replica are taken over
DRIFT = Gauge("turnpike_catalogue_drift", "Things at APIM or Stripe that are not as the applied catalogue says", ["system", "kind"])
CHECKED = Gauge("turnpike_catalogue_drift_checked_timestamp_seconds", "When the last look for drift came to an end; 0 before the first")
SYSTEM_NAMES = {"stripe": "Stripe", "apim": "API Management"}

log = structlog.get_logger(__name__)


def finding(step: Step) -> dict[str, Any]:
    """Tell a step that would repair something as what is wrong."""
    place = f"{SYSTEM_NAMES[step.system]}{f', product {step.product_id}' if step.product_id else ''}"
    return {
        "system": step.system,
        "kind": step.kind,
        "product_id": step.product_id,
        "name": step.name,
        "text": f"{place}: {step.kind} {step.name}{_what_is_wrong(step)}",
        "changes": [asdict(change) for change in step.changes],
        "repair": step.text(),
    }


def _what_is_wrong(step: Step) -> str:
    detail = f" ({step.detail})" if step.detail else ""
    if step.changes:
        about = detail if step.kind == "price" else ""
        return f"{about}: " + "; ".join(f"{change.what} is {change.found}, applied was {change.wanted}" for change in step.changes)
    if step.action in {"archive", "unpublish"}:
        return f" is active, but the applied catalogue has no such {step.kind}{detail}"
    fixed = {
        "link": " is no longer linked to the product",
        "unlink": " was linked to the product by hand",
        "update": " is not Turnpike's own",
    }
    return fixed.get(step.action, f" is gone{detail}")


def publish(findings: list[dict[str, Any]]) -> None:
    """Set the figures: every kind has one, also when it is zero."""
    counted = Counter((found["system"], found["kind"]) for found in findings)
    for system, kinds in KINDS:
        for kind in kinds:
            DRIFT.labels(system, kind).set(counted[system, kind])


async def find(pool: asyncpg.Pool, outside: Outside) -> tuple[Looked, list[dict[str, Any]]]:
    """Look now and note what was found. While an apply is at work nothing can be said: raises `ApplyRunningError`."""
    await _refuse_while_applying(pool)
    before = await store_catalogue.last_apply(pool)
    looked = await look(pool, outside, None)
    await _refuse_while_applying(pool)
    assert looked.previous is not None
    findings = [finding(step) for step in looked.plan.steps]
    after = await store_catalogue.last_apply(pool)
    if (before and before.apply_id) == (after and after.apply_id):  # an apply in between knows better
        await store_drift.note(pool, looked.previous.version, findings)
        publish(findings)
        CHECKED.set_to_current_time()
    return looked, findings


async def _refuse_while_applying(pool: asyncpg.Pool) -> None:
    if await store_catalogue.is_apply_running(pool):
        raise store_catalogue.ApplyRunningError("an apply is at work, so nothing can be said about drift: ask again when it has ended")


class Watch:
    """Looks once an interval, whichever replica comes first, and shows what the last look found."""

    def __init__(self, pool: asyncpg.Pool, outside: Outside, *, interval: timedelta) -> None:
        self._pool = pool
        self._outside = outside
        self._interval = interval

    async def run(self) -> None:
        while True:
            await self.once()
            await asyncio.sleep(min(REFRESH, self._interval).total_seconds())

    async def once(self) -> None:
        """Look if it is time, and take over the figures of the last look."""
        if await store_drift.claim(self._pool, self._interval):
            try:
                _, findings = await find(self._pool, self._outside)
            except (*OUTSIDE_ERRORS, store_catalogue.ApplyRunningError, NothingAppliedError) as error:
                log.warning("no look for catalogue drift", error=type(error).__name__, detail=str(error)[:300])
            else:
                log.info("looked for catalogue drift", found=len(findings))
        last = await store_drift.last(self._pool)
        if last is not None:
            publish(last.findings)
            CHECKED.set(last.checked_at.timestamp())
