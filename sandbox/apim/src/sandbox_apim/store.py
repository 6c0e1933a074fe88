"""What the service holds: entities in memory, written through to SQLite, so that a restart or a kill loses nothing."""

import base64
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

SCHEMA = """
CREATE TABLE IF NOT EXISTS entities (path TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sessions (
  token_hash BLOB PRIMARY KEY, user_id TEXT NOT NULL, expires_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS calls (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL, time_us INTEGER NOT NULL, sid TEXT NOT NULL, user_id TEXT NOT NULL, product TEXT NOT NULL,
  api TEXT NOT NULL, operation TEXT NOT NULL, method TEXT NOT NULL, url TEXT NOT NULL, ip TEXT NOT NULL, status INTEGER NOT NULL,
  backend_status INTEGER NOT NULL, request_bytes INTEGER NOT NULL, response_bytes INTEGER NOT NULL,
  api_ms REAL NOT NULL, backend_ms REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS calls_by_time ON calls (time_us);
CREATE INDEX IF NOT EXISTS calls_by_sid ON calls (sid, time_us);
CREATE TABLE IF NOT EXISTS outbox (
  number INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, key BLOB, value BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS quota_counters (
  counter TEXT NOT NULL, period_start_us INTEGER NOT NULL, calls INTEGER NOT NULL, kilobytes REAL NOT NULL,
  PRIMARY KEY (counter, period_start_us)
) WITHOUT ROWID;
"""


def open_database(path: Path) -> sqlite3.Connection:
    """Open the one database file. A killed process loses nothing (WAL); `synchronous=OFF` gives up only on a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=OFF")
    database.executescript(SCHEMA)
    return database


@dataclass(slots=True)
class Entity:
    """One entity. `path` is relative to the service and spelled as the client did; `secrets` never stand in an answer."""

    path: str
    properties: dict[str, Any]
    etag: str
    secrets: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


def _key(path: str) -> str:
    return path.lower()


def _parent(key: str) -> str:
    return key.rsplit("/", 1)[0]


class Store:
    """All entities of one service. Paths are matched without regard to case, as ARM does."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database
        self.version = 0  # grows with every write: caches compare it
        self.listeners: list[Callable[[str], None]] = []
        self._entities: dict[str, Entity] = {}
        self._collections: dict[str, dict[str, Entity]] = {}
        for path, body in database.execute("SELECT path, body FROM entities ORDER BY path"):
            self._keep(path, Entity(**orjson.loads(body)))

    def get(self, path: str) -> Entity | None:
        return self._entities.get(_key(path))

    def children(self, collection: str) -> list[Entity]:
        """Return what lies directly in a collection such as `products` or `products/pro/apis`, by name."""
        found = self._collections.get(_key(collection), {})
        return [found[name] for name in sorted(found)]

    def put(self, path: str, properties: dict[str, Any], secrets: dict[str, Any] | None = None) -> Entity:
        """Write one entity under a new ETag; without `secrets` the ones it has stay."""
        key = _key(path)
        old = self._entities.get(key)
        kept = secrets if secrets is not None else (old.secrets if old else {})
        entity = Entity(old.path if old else path, properties, self._next_etag(), kept)
        body = orjson.dumps({"path": entity.path, "properties": properties, "etag": entity.etag, "secrets": kept})
        self.database.execute("INSERT INTO entities VALUES (?, ?) ON CONFLICT (path) DO UPDATE SET body = excluded.body", (key, body))
        self._keep(key, entity)
        self._changed(key)
        return entity

    def delete(self, path: str) -> bool:
        """Remove an entity and everything below it. False: there was none."""
        key = _key(path)
        if key not in self._entities:
            return False
        doomed = [other for other in self._entities if other == key or other.startswith(key + "/")]
        self.database.execute("BEGIN IMMEDIATE")
        self.database.executemany("DELETE FROM entities WHERE path = ?", [(other,) for other in doomed])
        self.database.execute("COMMIT")
        for other in doomed:
            del self._entities[other]
            self._collections.get(_parent(other), {}).pop(other, None)
        self._changed(key)
        return True

    def fact(self, name: str, make: Callable[[], bytes]) -> bytes:
        """Return a value that is made once and kept, e.g. the key of the sign-in tokens."""
        row = self.database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        if row is not None:
            return bytes(row[0])
        value = make()
        self.database.execute("INSERT INTO facts VALUES (?, ?)", (name, value))
        return value

    def _keep(self, key: str, entity: Entity) -> None:
        self._entities[key] = entity
        self._collections.setdefault(_parent(key), {})[key] = entity

    def _changed(self, key: str) -> None:
        self.version += 1
        for listener in self.listeners:
            listener(key)

    def _next_etag(self) -> str:
        stamp = (time.time_ns() // 100 << 8 | self.version & 0xFF) & (1 << 64) - 1
        return '"' + base64.b64encode(stamp.to_bytes(8, "big")).decode() + '"'
