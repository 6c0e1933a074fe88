"""Works out prices beside the event loop, a few at once, so that a stranger's questions cannot hold up who pays."""

import asyncio

from delegation_gateway.price_book import PriceBook
from delegation_gateway.pricing_page import Prices, prices_of
from delegation_gateway.pricing_questions import Reading

AT_ONCE = 1  # the interpreter works out one at a time anyway
WAITING_MAX = 24


class BusyError(Exception):
    """More people ask for prices than can be answered within a second."""


class PricingDesk:
    def __init__(self) -> None:
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._inside = 0

    async def prices(self, book: PriceBook, reading: Reading) -> Prices:
        """Return what `prices_of` says; raise `BusyError` instead of making a long queue longer."""
        if self._inside >= AT_ONCE + WAITING_MAX:
            raise BusyError
        self._inside += 1
        try:
            async with self._gate:
                return await asyncio.to_thread(prices_of, book, reading)
        finally:
            self._inside -= 1
