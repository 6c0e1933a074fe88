"""How long something took that another part does: both ends are watched every few milliseconds."""

import asyncio
import time
from collections.abc import Awaitable, Callable


async def moment(holds: Callable[[], Awaitable[bool]], *, seconds: float = 30, pause: float = 0.01) -> float:
    """Return the monotonic time at which `holds` was first seen to hold. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            if await holds():
                return time.monotonic()
            await asyncio.sleep(pause)


def median(values: list[float]) -> float:
    """Return the middle value (the upper one of two)."""
    return sorted(values)[len(values) // 2]
