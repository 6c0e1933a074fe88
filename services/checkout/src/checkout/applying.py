"""Plans and applies a catalogue, or puts back the one that is applied. One at a time, in all replicas."""

import asyncio
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from billing_common.catalogue import Catalogue
from billing_common.events import CatalogueApplied, derive_id
from billing_common.outbox import announce
from checkout import store_catalogue, store_drift, store_subscribers
from checkout.apim_gateway import ApimGateway, SeenApimProduct
from checkout.carrying import Outside, Run, carry_out, meters_of
from checkout.plan import Plan, known_of, make_plan, names_of_ids, stripe_ids
from checkout.plan_apim import ApimWorld
from checkout.steps import Known
from checkout.store_catalogue import Version
from checkout.stripe_catalogue import StripeWorld

READS_AT_ONCE = 4  # ARM lets 25 reads a second through
VERSIONS_KNOWN = 50  # how far back a price is recognised by its id; older ones by their lookup key


class PlanMovedError(Exception):
    """The world is no longer as the plan showed it."""


class NothingAppliedError(Exception):
    """There is no applied catalogue to compare with."""


@dataclass(frozen=True)
class Looked:
    """What was seen outside, and what follows from it for a catalogue."""

    catalogue: Catalogue
    previous: Version | None
    plan: Plan
    world: StripeWorld
    known: Known

    @property
    def changes(self) -> bool:
        return bool(self.plan.steps) or self.previous is None or self.previous.document != self.catalogue.document()


@dataclass(frozen=True)
class Applied:
    """How an apply ended."""

    version: Version
    plan: Plan
    is_new: bool


async def look(pool: asyncpg.Pool, outside: Outside, catalogue: Catalogue | None) -> Looked:
    """Read both systems and compare with a catalogue; with the applied version when none is given."""
    versions = await store_catalogue.latest_versions(pool, VERSIONS_KNOWN)
    is_applied = catalogue is None
    if catalogue is None:
        if not versions:
            raise NothingAppliedError("no catalogue has been applied yet: `turnpike catalogue apply` applies the first")
        catalogue = versions[0].catalogue
    known = known_of(versions)
    ids = [product.id for product in catalogue.products]
    ids += [product_id for product_id in await store_catalogue.product_ids(pool) if product_id not in ids]
    world = await outside.stripe.read()
    seen = await _read_products(outside.apim, ids)
    recorded = await store_subscribers.products_of_source(pool, "stream")
    apim = ApimWorld(await outside.apim.logger_is_right(), seen, recorded, takes_records=is_applied)
    plan = make_plan(catalogue, stripe=world, apim=apim, known=known, plans=outside.plans)
    return Looked(catalogue, versions[0] if versions else None, plan, world, known)


async def _read_products(apim: ApimGateway, product_ids: list[str]) -> dict[str, SeenApimProduct | None]:
    reads_at_once = asyncio.Semaphore(READS_AT_ONCE)

    async def read(product_id: str) -> SeenApimProduct | None:
        async with reads_at_once:
            return await apim.read_product(product_id)

    seen = await asyncio.gather(*(read(product_id) for product_id in product_ids))
    return dict(zip(product_ids, seen, strict=True))


async def apply(
    pool: asyncpg.Pool, outside: Outside, catalogue: Catalogue | None, *, by: str, now: datetime, expected: str | None = None
) -> Applied:
    """Bring both systems to the catalogue and publish it as a new version, unless it is the latest already.

    Without a catalogue the applied version is put back where somebody changed it by hand, and nothing else is done.
    """
    async with store_catalogue.apply_lock(pool) as connection:
        looked = await look(pool, outside, catalogue)
        if expected is not None and expected != looked.plan.fingerprint:
            raise PlanMovedError("API Management, Stripe or the file is not as it was when the plan was made: plan again")
        world = looked.world
        if looked.plan.steps:
            apply_id = derive_id("catalogue", looked.plan.fingerprint, now.isoformat())
            run = Run(connection, outside, apply_id, now, meters_of(world, looked.known))
            await carry_out(run, looked.plan, by=by)
            world = await outside.stripe.read()
        return await _publish(pool, looked, world, by=by, now=now)


async def _publish(pool: asyncpg.Pool, looked: Looked, world: StripeWorld, *, by: str, now: datetime) -> Applied:
    """Number the version and announce it, in one transaction; nothing new gives no new version."""
    document, previous = looked.catalogue.document(), looked.previous
    ids = stripe_ids(looked.catalogue, world, looked.known)
    async with pool.acquire() as connection, connection.transaction():
        if previous is not None and (previous.document, previous.stripe_ids) == (document, ids):
            version = previous
        else:
            steps = [step.public() for step in looked.plan.steps]
            names = names_of_ids(ids)
            before = await store_catalogue.known_ids(connection, list(names))
            created = {stripe_id: name for stripe_id, name in names.items() if stripe_id not in before}
            version = Version(previous.version + 1 if previous else 1, document, ids, steps, by, now, created)
            await store_catalogue.add(connection, version)
            await announce(connection, _applied(version))
        await store_catalogue.settle_applies(connection)
        await store_drift.note(connection, version.version, [])  # what was just brought there stands there
    return Applied(version, looked.plan, is_new=version is not previous)


def _applied(version: Version) -> CatalogueApplied:
    return CatalogueApplied(
        cause_id=f"catalogue:{version.version}",
        occurred_at=version.applied_at,
        version=version.version,
        document=version.document,
        stripe_ids=version.stripe_ids,
    )
