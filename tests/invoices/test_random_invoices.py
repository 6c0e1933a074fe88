"""The sandbox's invoices of random subscriptions are those of the rating function, line by line; `make test-deep` lives 2,000 of them."""

from collections.abc import AsyncIterator

import pytest
from comparing import compare_shop, sandbox
from stripe_life import Stripe, connected

SHOPS = 12  # of four subscriptions each


@pytest.fixture(scope="module")
async def stripe_() -> AsyncIterator[Stripe]:
    with sandbox() as address:
        async with connected(address) as found:
            yield found


@pytest.mark.parametrize("shop", range(SHOPS))
async def test_invoices_are_those_of_the_rating_function(stripe_: Stripe, shop: int) -> None:
    """Any model, month and year, trial, seats, changes of plan and of quantity, ends, credit, currencies with 0, 2 and 3 decimals."""
    assert (await compare_shop(stripe_, shop))["stories"] == 4
