"""Makes a charge for usage of a closed period an intent: one line of money, put on an invoice once."""

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
from prometheus_client import Gauge

from billing_common.db import Connection
from checkout import correction_store
from checkout.correction_store import Charge
from checkout.intents import intend

DRAFT_KEPT = timedelta(days=4)  # Stripe keeps a draft for 72 hours at most: later it is not looked for
LOOK_SECONDS = 15.0

KEPT = Gauge("turnpike_checkout_unbilled_kept", "Usage missing on final invoices that waits for a person, as its plan says")


async def add_charge(
    connection: Connection, charge: Charge, *, account_id: str, customer: str, stripe_subscription_id: str, on_draft: bool
) -> None:
    """Keep a charge, and intend its line where it has one."""
    await correction_store.add(connection, charge)
    if charge.intent_id is not None:
        await intend_charge(
            connection, charge, account_id=account_id, customer=customer, stripe_subscription_id=stripe_subscription_id, on_draft=on_draft
        )


async def intend_charge(
    connection: Connection, charge: Charge, *, account_id: str, customer: str, stripe_subscription_id: str, on_draft: bool
) -> None:
    """Intend the line. `on_draft`: the invoice of its period may still be a draft, and then it belongs there."""
    parameters: dict[str, Any] = {
        "item": {
            "customer": customer,
            "subscription": stripe_subscription_id,
            "currency": charge.currency,
            "amount": charge.amount_minor,
            "description": charge.description,
            "period": {"start": int(charge.segment_start.timestamp()), "end": int(charge.segment_end.timestamp())},
            "metadata": {
                "turnpike_component": "unbilled" if charge.kind == "unbilled" else "correction",
                "turnpike_correction_id": str(charge.correction_id),
            },
        },
        "owner": {"turnpike_subscription_id": charge.subscription_id, "turnpike_account_id": account_id},
    }
    if on_draft and charge.made_at - charge.segment_end < DRAFT_KEPT:
        parameters["draft_of_period_end"] = charge.segment_end.isoformat()
    await intend(connection, "correction", key=account_id, cause=str(charge.correction_id), parameters=parameters)


async def show_kept(pool: asyncpg.Pool) -> None:
    """Keep the gauge true, at every replica."""
    while True:
        KEPT.set(await correction_store.kept(pool))
        await asyncio.sleep(LOOK_SECONDS)
