"""Usage that a final invoice does not bill: what it costs, what its plan's policy makes of it, and a person's word on it."""

from dataclasses import replace
from datetime import datetime
from uuid import UUID

from billing_common.catalogue import UnknownProductError
from billing_common.db import Connection
from billing_common.events import InvalidEventError, UsageUnbilled, derive_id
from billing_common.rating import RatingError, trial_end
from billing_common.rating_usage import price_of_usage
from checkout import correction_store, domain, store
from checkout.charging import intend_charge
from checkout.correction_store import Charge, Disposition
from checkout.domain import RefusedError
from checkout.store import Subscription
from checkout.store_catalogue import Version

BY_POLICY: dict[str, Disposition] = {"next_invoice": "bill", "waive": "waive", "hold": "keep"}
AMOUNT_MAX = 2**63 - 1  # what a column takes, and far more than Stripe does


def price_of_missing(event: UsageUnbilled, version: Version, currency: str) -> int:
    """Return what the invoice's own price asks for all of the usage, less what it asks for what was billed.

    Minimum, maximum and rounding are left out: those lines were made from all usage of the period.
    """

    def price(quantity: int) -> int:
        return price_of_usage(
            version.catalogue,
            event.product_id,
            meter_id=event.meter_id,
            component=event.component,
            since=event.period_start,
            currency=currency,
            quantity=quantity,
        )

    try:
        amount = price(event.counted) - price(event.billed)
    except (UnknownProductError, RatingError) as error:
        raise InvalidEventError(f"the missing usage cannot be priced: {error}") from error
    if abs(amount) > AMOUNT_MAX:
        raise InvalidEventError("the missing usage costs more than can be charged")
    return amount


def charge_of(event: UsageUnbilled, version: Version, subscription: Subscription) -> Charge:
    """Return what is charged, waived or kept, as the plan says. What costs nothing, as in free days, asks for no decision."""
    amount, currency = price_of_missing(event, version, subscription.currency), subscription.currency
    product = version.catalogue.product(event.product_id)
    free_until = trial_end(product, subscription.started_at or event.period_start)
    if free_until is not None and event.period_end <= free_until:
        amount = 0
    disposition = BY_POLICY[product.policies.late_usage] if amount else "bill"
    invoice, quantity = event.invoice_number or event.invoice_id, event.counted - event.billed
    return Charge(
        correction_id=event.unbilled_id,
        intent_id=_intent_id(event.unbilled_id) if amount and disposition == "bill" else None,
        subscription_id=event.subscription_id,
        kind="unbilled",
        segment_start=event.period_start,
        segment_end=event.period_end,
        totals_before={event.meter_id: event.billed},
        totals_after={event.meter_id: event.counted},
        amount_minor=amount,
        currency=currency,
        description=domain.words_of_unbilled(version.catalogue, meter_id=event.meter_id, quantity=quantity, invoice=invoice),
        made_at=event.occurred_at,
        disposition=disposition,
        of_invoice=invoice,
    )


async def decide(connection: Connection, unbilled_id: UUID, disposition: Disposition, *, by: str, now: datetime) -> Charge:
    """Bill or waive what is kept, in the caller's transaction. Raises RefusedError where nothing is."""
    account_id = await correction_store.account_of(connection, unbilled_id)
    customer = await store.lock_account(connection, account_id) if account_id else None
    charge = await correction_store.lock_kept(connection, unbilled_id)
    subscription = await store.get_subscription(connection, charge.subscription_id) if charge else None
    if charge is None or subscription is None or subscription.stripe_subscription_id is None or customer is None:
        raise RefusedError(404, "not_kept", "no such usage waits for a decision: `turnpike usage unbilled` lists what does")
    decided = replace(charge, disposition=disposition, intent_id=_intent_id(unbilled_id) if disposition == "bill" else None, made_at=now)
    await correction_store.decide(connection, decided, by)
    if disposition == "bill":
        await intend_charge(
            connection, decided, account_id=subscription.account_id, customer=customer,
            stripe_subscription_id=subscription.stripe_subscription_id, on_draft=False,
        )  # fmt: skip
    return decided


def _intent_id(unbilled_id: UUID) -> UUID:
    return derive_id("intent", "correction", str(unbilled_id))
