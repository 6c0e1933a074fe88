"""Stripe, for drafts that are held open: each call looks first whether it has been made."""

from datetime import datetime

import stripe

from checkout.stripe_gateway import StripeUnavailableError, once, stripe_errors


class StripeDrafts:
    """Switches off and on that Stripe makes a draft final by itself."""

    def __init__(self, client: stripe.StripeClient) -> None:
        self._v1 = client.v1

    async def hold(self, invoice_id: str, *, key: str) -> bool:
        """Keep a draft from becoming final; False where it is final already, which is left to be collected."""
        async with stripe_errors():
            found = await self._v1.invoices.retrieve_async(invoice_id)
            if found.status == "draft" and found.auto_advance:
                found = await self._v1.invoices.update_async(invoice_id, {"auto_advance": False}, once(key))
                if found.status != "draft":  # in this very moment: without this Stripe would not collect it
                    await self._v1.invoices.update_async(invoice_id, {"auto_advance": True}, once(f"{key}:back"))
        return found.status == "draft"

    async def release(self, invoice_id: str, *, at: datetime, key: str) -> None:
        """Have Stripe make a draft final at an instant. One that somebody has released or made final needs nothing."""
        async with stripe_errors():
            found = await self._v1.invoices.retrieve_async(invoice_id)
            if found.status != "draft" or found.auto_advance:
                return
            try:
                await self._v1.invoices.update_async(
                    invoice_id, {"auto_advance": True, "automatically_finalizes_at": int(at.timestamp())}, once(key)
                )
            except stripe.IdempotencyError as error:  # a try that failed named another instant
                raise StripeUnavailableError("the first try was not made", replayed=True) from error
