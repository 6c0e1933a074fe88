"""Carries a plan out, step by step: repeatable after any interruption, and says what is done and what is left."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from billing_common.catalogue import Catalogue
from billing_common.catalogue_changes import refused_changes
from billing_common.catalogue_stripe import DesiredPrice, meter_event_name
from billing_common.events import CatalogueApplied, derive_id
from billing_common.outbox import announce
from checkout import store, store_catalogue
from checkout.apim_gateway import ApimGateway, ApimRefusedError, ApimUnavailableError, SeenApimProduct
from checkout.gates import refuse_unknown_operations
from checkout.plan import ApimWorld, Plan, Step, digest, make_plan, stripe_ids
from checkout.policy import NOWHERE, PolicyError
from checkout.policy_answers import Plans
from checkout.store_catalogue import Version
from checkout.stripe_catalogue import StripeCatalogue, StripeWorld
from checkout.stripe_gateway import StripeRefusedError, StripeUnavailableError

OUTSIDE_ERRORS = (ApimRefusedError, ApimUnavailableError, PolicyError, StripeRefusedError, StripeUnavailableError)
READS_AT_ONCE = 4  # ARM lets 25 reads a second through

log = structlog.get_logger(__name__)


class StillSubscribedError(Exception):
    """A product or a currency that is to be removed still has subscribers."""


class PlanMovedError(Exception):
    """The world is no longer as the plan showed it."""


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


@dataclass(frozen=True)
class Applied:
    """How an apply ended."""

    version: Version
    plan: Plan
    is_new: bool


@dataclass
class _Run:
    outside: Outside
    apply_id: UUID
    meters: dict[str, str]
    prices: dict[str, str]
    done: list[str] = field(default_factory=list)

    def key(self, step: Step) -> str:
        return f"turnpike:{derive_id('apply', str(self.apply_id), step.text())}"


async def look(outside: Outside, catalogue: Catalogue, previous: Version | None) -> tuple[Plan, StripeWorld]:
    """Read both systems and return the plan. Raises `CatalogueError` for operations that API Management does not have."""
    await refuse_unknown_operations(outside.apim, catalogue)
    stripe = await outside.stripe.read()
    ids = [product.id for product in catalogue.products]
    ids += [product["id"] for product in previous.document["products"] if product["id"] not in ids] if previous else []
    reads_at_once = asyncio.Semaphore(READS_AT_ONCE)

    async def read(product_id: str) -> SeenApimProduct | None:
        async with reads_at_once:
            return await outside.apim.read_product(product_id)

    seen = await asyncio.gather(*(read(product_id) for product_id in ids))
    apim = ApimWorld(await outside.apim.logger_is_right(), dict(zip(ids, seen, strict=True)))
    return make_plan(catalogue, stripe=stripe, apim=apim, plans=outside.plans), stripe


async def refuse_changes_under_subscribers(pool: asyncpg.Pool, catalogue: Catalogue) -> None:
    """Raise `StillSubscribedError` when a product or a currency that people are subscribed in is missing."""
    async with pool.acquire() as connection:
        problems = refused_changes(catalogue, await store.count_live(connection))
    if problems:
        raise StillSubscribedError("\n".join(f"{problem.path}: {problem.message} (allowed: {problem.allowed})" for problem in problems))


async def apply(
    pool: asyncpg.Pool, outside: Outside, catalogue: Catalogue, *, by: str, now: datetime, expected: str | None = None
) -> Applied:
    """Bring both systems to the catalogue and publish it as a new version, unless it is the latest already."""
    async with store_catalogue.apply_lock(pool):
        previous = await store_catalogue.latest(pool)
        await refuse_changes_under_subscribers(pool, catalogue)
        plan, world = await look(outside, catalogue, previous)
        if expected is not None and expected != plan.fingerprint:
            raise PlanMovedError("APIM, Stripe or the file changed since the plan was made: plan again")
        if plan.steps:
            apply_id = derive_id("catalogue", digest(catalogue), plan.fingerprint, now.isoformat())
            await _carry_out(pool, _Run(outside, apply_id, *_known(world)), catalogue, plan, by=by, now=now)
            world = await outside.stripe.read()
        return await _publish(pool, catalogue, plan, stripe_ids(catalogue, world), previous, by=by, now=now)


async def _carry_out(pool: asyncpg.Pool, run: _Run, catalogue: Catalogue, plan: Plan, *, by: str, now: datetime) -> None:
    texts = [step.text() for step in plan.steps]
    await store_catalogue.start_apply(pool, run.apply_id, digest=digest(catalogue), by=by, at=now, remaining=texts)
    for number, step in enumerate(plan.steps):
        try:
            await _step(run, step)
        except OUTSIDE_ERRORS as error:
            reason = f"{step.text()}: {error}"
            await store_catalogue.end_apply(pool, run.apply_id, state="failed", at=now, error=reason[:1000])
            log.warning("catalogue apply stopped", apply_id=str(run.apply_id), step=step.text(), error=type(error).__name__)
            raise ApplyStoppedError(reason, run.done, texts[number:]) from error
        run.done.append(texts[number])
        await store_catalogue.note_progress(pool, run.apply_id, done=run.done, remaining=texts[number + 1 :])
    await store_catalogue.end_apply(pool, run.apply_id, state="done", at=now)
    log.info("catalogue applied outside", apply_id=str(run.apply_id), steps=len(texts))


async def _step(run: _Run, step: Step) -> None:
    if step.system == "stripe":
        await _stripe_step(run, step)
    else:
        await _apim_step(run.outside.apim, step)


async def _stripe_step(run: _Run, step: Step) -> None:
    stripe, key = run.outside.stripe, run.key(step)
    match (step.kind, step.action):
        case ("product", "create"):
            await stripe.create_product(step.subject, key=key)
        case ("product", "update"):
            await stripe.update_product(step.subject, key=key)
        case ("product", "archive"):
            await stripe.archive_product(step.name, key=key)
        case ("meter", "create"):
            run.meters[step.name] = await stripe.create_meter(step.subject, key=key)
        case ("meter", "reactivate"):
            await stripe.reactivate_meter(run.meters[step.name], key=key)
        case ("price", "create"):
            await stripe.create_price(step.subject, _meter_of(run, step.subject), key=key)
        case ("price", action):
            await stripe.set_price_active(run.prices[step.name], active=action == "reactivate", key=key)


def _meter_of(run: _Run, price: DesiredPrice) -> str | None:
    return run.meters[meter_event_name(price.product_id, price.meter_id)] if price.meter_id else None


async def _apim_step(apim: ApimGateway, step: Step) -> None:
    writes: dict[tuple[str, str], Callable[[], Awaitable[Any]]] = {
        ("logger", "update"): apim.put_logger,
        ("product", "create"): lambda: apim.put_product(step.subject),
        ("product", "update"): lambda: apim.put_product(step.subject),
        ("product", "unpublish"): lambda: apim.unpublish(step.product_id),
        ("group", "link"): lambda: apim.add_group(step.product_id, step.name),
        ("api", "link"): lambda: apim.add_api(step.product_id, step.name),
        ("api", "unlink"): lambda: apim.remove_api(step.product_id, step.name),
        ("policy", "create"): lambda: apim.put_policy(step.product_id, step.subject),
        ("policy", "update"): lambda: apim.put_policy(step.product_id, step.subject),
    }
    await writes[step.kind, step.action]()


def _known(world: StripeWorld) -> tuple[dict[str, str], dict[str, str]]:
    meters = {name: meter.stripe_id for name, meter in world.meters.items()}
    return meters, {key: price.stripe_id for key, price in world.prices.items()}


async def _publish(
    pool: asyncpg.Pool, catalogue: Catalogue, plan: Plan, ids: dict[str, Any], previous: Version | None, *, by: str, now: datetime
) -> Applied:
    """Number the version and announce it, in one transaction; nothing new gives no new version."""
    document = catalogue.document()
    if previous is not None and (previous.document, previous.stripe_ids) == (document, ids):
        return Applied(previous, plan, is_new=False)
    number = previous.version + 1 if previous else 1
    version = Version(number, document, ids, [step.public() for step in plan.steps], by, now)
    event = CatalogueApplied(
        cause_id=f"catalogue:{version.version}", occurred_at=now, version=version.version, document=document, stripe_ids=ids
    )
    async with pool.acquire() as connection, connection.transaction():
        await store_catalogue.add(connection, version)
        await announce(connection, event)
    return Applied(version, plan, is_new=True)
