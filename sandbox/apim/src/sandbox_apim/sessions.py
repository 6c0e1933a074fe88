"""Who is signed in at the developer portal. The cookie holds a random token; the database only its hash."""

import hashlib
import secrets
import sqlite3
import time

from sandbox_apim.store import Entity, Store

COOKIE = "apim_portal_session"
AGE_SECONDS = 8 * 3600


class Sessions:
    """Sessions live on wall time."""

    def __init__(self, database: sqlite3.Connection, store: Store) -> None:
        self._database = database
        self._store = store

    def open(self, user_id: str) -> str:
        """Return a new session's token; sessions that have ended are forgotten on the way."""
        token = secrets.token_urlsafe(32)
        now = time.time()
        self._database.execute("DELETE FROM sessions WHERE expires_at < ?", (now,))
        self._database.execute("INSERT INTO sessions VALUES (?, ?, ?)", (_hash(token), user_id, now + AGE_SECONDS))
        return token

    def user(self, token: str | None) -> Entity | None:
        """Return the signed-in user; a user who was blocked or deleted meanwhile is signed out."""
        if not token:
            return None
        row = self._database.execute(
            "SELECT user_id FROM sessions WHERE token_hash = ? AND expires_at > ?", (_hash(token), time.time())
        ).fetchone()
        user = self._store.get(f"users/{row[0]}") if row else None
        return user if user is not None and user.properties["state"] == "active" else None

    def close(self, token: str | None) -> None:
        if token:
            self._database.execute("DELETE FROM sessions WHERE token_hash = ?", (_hash(token),))


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
