"""Passwords: argon2id, made and checked in a thread because each takes tens of milliseconds of computing."""

import asyncio

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

AT_ONCE = 4  # each hash takes 19 MiB: more at once would let a crowd of sign-ins exhaust the memory


class Passwords:
    """Hashes and checks. Settings follow OWASP: argon2id, 19 MiB, two passes."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1, type=Type.ID)
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._nobody = self._hasher.hash("the password of nobody")

    async def hash(self, password: str) -> str:
        async with self._turns:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Check a password. Without a hash it takes the same time and is wrong: an answer must not tell who has an account."""
        async with self._turns:
            matches = await asyncio.to_thread(self._matches, password_hash or self._nobody, password)
        return matches and password_hash is not None

    def is_outdated(self, password_hash: str) -> bool:
        return self._hasher.check_needs_rehash(password_hash)

    def _matches(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False
