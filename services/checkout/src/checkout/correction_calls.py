"""Puts a line that is no price's on an invoice: the draft of its period, else the next one, else, after the end, one of its own."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from checkout.stripe_gateway import StripeGateway, StripeRefusedError, StripeUnavailableError

Where = Literal["draft", "next_invoice", "own_invoice"]


async def is_awaited(gateway: StripeGateway, stripe_subscription_id: str, period_end: datetime) -> bool:
    """Tell whether Stripe has made no invoice of a period and will make one: a subscription that has ended without one gets none."""
    return await gateway.invoice_of_period(stripe_subscription_id, period_end) is None and not await gateway.has_ended(
        stripe_subscription_id
    )


async def find(gateway: StripeGateway, stripe_subscription_id: str, draft_of_period_end: datetime | None) -> tuple[Where, str | None]:
    """Return where an amount would go now, and the draft's id."""
    if draft_of_period_end is not None:
        found = await gateway.invoice_of_period(stripe_subscription_id, draft_of_period_end)
        if found is not None and found[1]:
            return "draft", found[0]
    return ("own_invoice", None) if await gateway.has_ended(stripe_subscription_id) else ("next_invoice", None)


async def put(gateway: StripeGateway, parameters: Mapping[str, Any], *, intent_id: str, key: str) -> tuple[Where, str | None]:
    """Add the line, once. A draft that becomes final in between raises StripeUnavailableError: the next try goes elsewhere."""
    item: dict[str, Any] = dict(parameters["item"])
    known = await gateway.find_item(item["customer"], intent_id)
    if known is not None and not known.alone:
        return ("draft" if known.invoice_id else "next_invoice"), known.invoice_id
    ends = parameters.get("draft_of_period_end")
    where, invoice_id = await find(gateway, item["subscription"], datetime.fromisoformat(ends) if ends else None)
    if where == "own_invoice":
        return where, await gateway.bill_alone(item, parameters.get("owner", {}), intent_id=intent_id, key=key)
    draft = {"invoice": invoice_id} if invoice_id else {}
    try:
        await gateway.add_invoice_item({**item, **draft}, intent_id=intent_id, key=f"{key}:{where}")
    except StripeRefusedError as error:
        if where == "draft" and error.code == "invoice_not_editable":
            raise StripeUnavailableError("the draft became final in this moment") from error
        raise
    return where, invoice_id
