"""Carries the steps of a plan out, one by one: written down before and after each, so that it is always known what is done and left."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog

from billing_common.catalogue_stripe import DesiredPrice, meter_event_name
from billing_common.db import Connection
from billing_common.events import derive_id
from checkout import store_catalogue
from checkout.apim_gateway import ApimGateway, ApimRefusedError, ApimUnavailableError
from checkout.plan import Plan
from checkout.policy import NOWHERE, PolicyError
from checkout.policy_answers import Plans
from checkout.steps import Known, Step
from checkout.stripe_catalogue import StripeCatalogue, StripeWorld
from checkout.stripe_gateway import StripeRefusedError, StripeUnavailableError

OUTSIDE_ERRORS = (ApimRefusedError, ApimUnavailableError, PolicyError, StripeRefusedError, StripeUnavailableError)

log = structlog.get_logger(__name__)


class ApplyStoppedError(Exception):
    """An outside system stopped the apply half-way; applying again goes on from there."""

    def __init__(self, reason: str, done: list[str], remaining: list[str]) -> None:
        super().__init__(reason)
        self.done = done
        self.remaining = remaining


@dataclass(frozen=True)
class Outside:
    """The two systems the catalogue lives in, and where people find the plans."""

    stripe: StripeCatalogue
    apim: ApimGateway
    plans: Plans = NOWHERE


@dataclass
class Run:
    """One apply: who does what, and the ids at Stripe as they become known. `connection` holds the lock: without it no step is made."""

    connection: Connection
    outside: Outside
    apply_id: UUID
    now: datetime
    meters: dict[str, str] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    def key(self, step: Step) -> str:
        return f"turnpike:{derive_id('apply', str(self.apply_id), step.text())}"


def meters_of(world: StripeWorld, known: Known) -> dict[str, str]:
    """Return event name -> id of the meters that are there."""
    names = {meter.event_name for meter in world.meters.values()}
    return {name: meter.stripe_id for name in names if (meter := world.meter(name, known.meters)) is not None}


async def carry_out(run: Run, plan: Plan, *, by: str) -> None:
    """Make all steps; raise `ApplyStoppedError` at the first that an outside system does not let through."""
    texts = [step.text() for step in plan.steps]
    await store_catalogue.start_apply(
        run.connection, run.apply_id, digest=plan.content, plan=plan.fingerprint, by=by, at=run.now, remaining=texts
    )
    for number, step in enumerate(plan.steps):
        try:
            await _step(run, step)
        except OUTSIDE_ERRORS as error:
            reason = f"{step.text()}: {error}"
            await store_catalogue.end_apply(run.connection, run.apply_id, state="failed", at=run.now, error=reason[:1000])
            log.warning("catalogue apply stopped", apply_id=str(run.apply_id), step=step.text(), error=type(error).__name__)
            raise ApplyStoppedError(reason, run.done, texts[number:]) from error
        run.done.append(texts[number])
        await store_catalogue.note_progress(run.connection, run.apply_id, done=run.done, remaining=texts[number + 1 :])
    await store_catalogue.end_apply(run.connection, run.apply_id, state="done", at=run.now)
    log.info("catalogue applied outside", apply_id=str(run.apply_id), steps=len(texts))


async def _step(run: Run, step: Step) -> None:
    if step.system == "stripe":
        await _stripe_step(run, step)
    else:
        await _apim_step(run.outside.apim, step)


async def _stripe_step(run: Run, step: Step) -> None:
    stripe, key, subject = run.outside.stripe, run.key(step), step.subject
    match (step.kind, step.action):
        case ("product", "create"):
            await stripe.create_product(subject, key=key)
        case ("product", "update"):
            product, clear_default_price = subject
            await stripe.update_product(product, clear_default_price=clear_default_price, key=key)
        case ("product", "archive"):
            await stripe.archive_product(step.name, key=key)
        case ("meter", "create"):
            run.meters[step.name] = await stripe.create_meter(subject, key=key)
        case ("meter", "archive"):
            await stripe.archive_meter(step.name, key=key)
        case ("meter", action):
            await stripe.restore_meter(*subject, inactive=action == "reactivate", key=key)
        case ("price", "create"):
            await stripe.create_price(subject, _meter_of(run, subject), key=key)
        case ("price", "archive"):
            await stripe.archive_price(subject, key=key)
        case ("price", _):
            await stripe.restore_price(*subject, key=key)


def _meter_of(run: Run, price: DesiredPrice) -> str | None:
    return run.meters[meter_event_name(price.product_id, price.meter_id)] if price.meter_id else None


async def _apim_step(apim: ApimGateway, step: Step) -> None:
    writes: dict[tuple[str, str], Callable[[], Awaitable[Any]]] = {
        ("logger", "update"): apim.put_logger,
        ("product", "create"): lambda: apim.put_product(step.subject),
        ("product", "update"): lambda: apim.put_product(step.subject),
        ("product", "unpublish"): lambda: apim.unpublish(step.product_id),
        ("group", "link"): lambda: apim.add_group(step.product_id, step.name),
        ("group", "unlink"): lambda: apim.remove_group(step.product_id, step.name),
        ("api", "link"): lambda: apim.add_api(step.product_id, step.name),
        ("api", "unlink"): lambda: apim.remove_api(step.product_id, step.name),
        ("policy", "create"): lambda: apim.put_policy(step.product_id, step.subject),
        ("policy", "update"): lambda: apim.put_policy(step.product_id, step.subject),
    }
    await writes[step.kind, step.action]()
