"""Who is at the public door: keys, what they allow, and a short memory of them."""

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg

from usage_collector import sender_store, subscription_store

KEY_PREFIX = "tps"  # makes a leaked key recognisable
UNKNOWN_PAUSE_SECONDS = 0.5  # forged keys make at most two look-ups a second


@dataclass(frozen=True, slots=True)
class Sender:
    """`subscriptions` and `meters` are None for all."""

    id: str
    key_sha256: bytes
    source_prefix: str
    subscriptions: frozenset[str] | None
    meters: frozenset[str] | None = None
    _below: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_below", f"{self.source_prefix}/")

    def speaks_for(self, source: str) -> bool:
        return source == self.source_prefix or source.startswith(self._below)


def new_key() -> tuple[str, str, bytes]:
    """Return a sender's id, its key (shown once) and the key's hash (kept)."""
    sender_id = secrets.token_hex(8)
    key = f"{KEY_PREFIX}_{sender_id}_{secrets.token_urlsafe(32)}"
    return sender_id, key, hash_of(key)


def hash_of(key: str) -> bytes:
    """A plain hash is enough: the key has 256 random bits."""
    return hashlib.sha256(key.encode()).digest()


def _scope(names: Sequence[str] | None) -> frozenset[str] | None:
    return frozenset(names) if names is not None else None


class Senders:
    """All senders and all meter ids, read again every few seconds."""

    def __init__(self, pool: asyncpg.Pool, *, refresh_seconds: float) -> None:
        self._pool, self._refresh_seconds = pool, refresh_seconds
        self._known: dict[str, Sender] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        self.meters: frozenset[str] = frozenset()
        self.values: frozenset[str] = frozenset()  # properties whose different values some meter counts

    async def find(self, authorization: str) -> Sender | None:
        """Return who holds the key of an Authorization header."""
        kind, _, key = authorization.partition(" ")
        parts = key.strip().split("_", 2)
        if kind.lower() != "bearer" or len(parts) != 3 or parts[0] != KEY_PREFIX or len(key) > 200:
            return None
        if self._is_stale(parts[1]):
            async with self._reading:  # the others wait for the answer of the first
                if self._is_stale(parts[1]):
                    await self.refresh()
        sender = self._known.get(parts[1])
        right = hmac.compare_digest(sender.key_sha256 if sender else bytes(32), hash_of(key.strip()))
        return sender if right else None

    async def refresh_when_old(self) -> None:
        """Read again what is older than the refresh time."""
        async with self._reading:
            if time.monotonic() - self._read_at > self._refresh_seconds:
                await self.refresh()

    def _is_stale(self, sender_id: str) -> bool:
        age = time.monotonic() - self._read_at
        return age > self._refresh_seconds or (sender_id not in self._known and age > UNKNOWN_PAUSE_SECONDS)

    async def refresh(self) -> None:
        rows = await sender_store.senders(self._pool)
        self._known = {
            row["id"]: Sender(
                row["id"],
                row["key_sha256"],
                row["source_prefix"],
                _scope(row["subscriptions"]),
                _scope(row["meters"]),
            )
            for row in rows
        }
        self.meters, self.values = await subscription_store.known_meters(self._pool)
        self._read_at = time.monotonic()
