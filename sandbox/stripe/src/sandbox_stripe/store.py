"""Every table and query: objects as JSON rows, meter events, transitions, webhook deliveries, idempotency keys.

One process, one thread, one writer: a request is one transaction. WAL with synchronous=NORMAL survives SIGKILL.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from sandbox_stripe.errors import Json

SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, type TEXT NOT NULL, customer TEXT, parent TEXT, lookup TEXT,
    status TEXT, deleted INTEGER NOT NULL DEFAULT 0, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS objects_by_type ON objects (type, seq);
CREATE INDEX IF NOT EXISTS objects_by_customer ON objects (type, customer, seq);
CREATE INDEX IF NOT EXISTS objects_by_parent ON objects (type, parent, seq);
CREATE INDEX IF NOT EXISTS objects_by_lookup ON objects (type, lookup, seq);
CREATE TABLE IF NOT EXISTS meter_events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, identifier TEXT NOT NULL, event_name TEXT NOT NULL, customer TEXT NOT NULL,
    value INTEGER NOT NULL,
    timestamp INTEGER NOT NULL, received_wall INTEGER NOT NULL, canceled INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS meter_events_by_identifier ON meter_events (identifier, received_wall);
CREATE INDEX IF NOT EXISTS meter_events_by_time ON meter_events (event_name, customer, timestamp);
CREATE TABLE IF NOT EXISTS transitions (
    kind TEXT NOT NULL, object TEXT NOT NULL, due INTEGER NOT NULL, clock TEXT NOT NULL DEFAULT '', seq INTEGER,
    PRIMARY KEY (kind, object)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS transitions_by_due ON transitions (clock, due);
CREATE TABLE IF NOT EXISTS deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL, event_type TEXT NOT NULL, object TEXT NOT NULL, endpoint TEXT NOT NULL,
    state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, next_wall REAL NOT NULL, last_status INTEGER, last_error TEXT,
    delivered_wall REAL);
CREATE INDEX IF NOT EXISTS deliveries_by_state ON deliveries (state, next_wall);
CREATE INDEX IF NOT EXISTS deliveries_by_object ON deliveries (object, event_type);
CREATE INDEX IF NOT EXISTS deliveries_by_event ON deliveries (event);
CREATE TABLE IF NOT EXISTS idempotency (
    key TEXT PRIMARY KEY, request_hash TEXT NOT NULL, status INTEGER NOT NULL, body BLOB NOT NULL,
    created_wall INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""


class Store:
    """The database file. Objects read twice in one transaction are the same dict, so that changes are never lost."""

    def __init__(self, path: Path | str) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512)
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=5000", "temp_store=MEMORY", "cache_size=-32000"):
            self.connection.execute(f"PRAGMA {pragma}")
        self.connection.executescript(SCHEMA)
        self._loaded: dict[str, Json] = {}

    def close(self) -> None:
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. A transaction inside another is part of it."""
        if self.connection.in_transaction:
            yield
            return
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK")
            self._loaded.clear()
            raise
        self.bump("activity")
        self.connection.execute("COMMIT")
        self._loaded.clear()

    def forget(self) -> None:
        """Drop what was read, after a rollback to a savepoint."""
        self._loaded.clear()

    def rollback_partial(self) -> None:
        """Undo what was done so far and stay in a transaction, to keep the answer that says so."""
        self.connection.execute("ROLLBACK")
        self._loaded.clear()
        self.connection.execute("BEGIN IMMEDIATE")

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self.connection.execute(sql, values)

    # --- objects ---

    def insert(self, body: Json) -> Json:
        self._loaded[body["id"]] = body
        self.execute(
            "INSERT INTO objects (id, type, customer, parent, lookup, status, body) VALUES (?, ?, ?, ?, ?, ?, ?)",
            body["id"], body["object"], *_columns(body), orjson.dumps(body),
        )  # fmt: skip
        return body

    def save(self, body: Json) -> Json:
        self._loaded[body["id"]] = body
        self.execute(
            "UPDATE objects SET customer = ?, parent = ?, lookup = ?, status = ?, body = ? WHERE id = ?",
            *_columns(body), orjson.dumps(body), body["id"],
        )  # fmt: skip
        return body

    def delete(self, id_: str) -> None:
        self._loaded.pop(id_, None)
        self.execute("UPDATE objects SET deleted = 1 WHERE id = ?", id_)

    def erase(self, id_: str) -> None:
        self._loaded.pop(id_, None)
        self.execute("DELETE FROM objects WHERE id = ?", id_)

    def find(self, id_: str, type_: str | None = None, *, deleted: bool = False) -> Json | None:
        found = self._loaded.get(id_)
        if found is None:
            row = self.execute("SELECT body, deleted FROM objects WHERE id = ?", id_).fetchone()
            if row is None or (row[1] and not deleted):
                return None
            found = orjson.loads(row[0])
            if not row[1]:
                self._remember(id_, found)
        return found if type_ in {None, found["object"]} else None

    def is_deleted(self, id_: str) -> bool:
        row = self.execute("SELECT deleted FROM objects WHERE id = ?", id_).fetchone()
        return bool(row and row[0])

    def _remember(self, id_: str, body: Json) -> None:
        if self.connection.in_transaction:
            self._loaded[id_] = body

    def select(
        self, type_: str, *, newest_first: bool = False, after: str | None = None, before: str | None = None,
        keep: Callable[[Json], bool] | None = None, **columns: str,
    ) -> Iterator[Json]:  # fmt: skip
        """Yield objects of a type; `columns` are the indexed ones, `after` and `before` ids in the order of the answer."""
        sql, values = "SELECT id, body FROM objects WHERE type = ? AND deleted = 0", [type_]
        for column, value in columns.items():
            sql, values = f"{sql} AND {column} = ?", [*values, value]
        for id_, sign in ((after, "<" if newest_first else ">"), (before, ">" if newest_first else "<")):
            if id_:
                sql, values = f"{sql} AND seq {sign} (SELECT seq FROM objects WHERE id = ?)", [*values, id_]  # noqa: S608 - our own words
        descending = newest_first != bool(before)  # ending_before walks towards the newer ones
        for id_, body in self.connection.execute(f"{sql} ORDER BY seq {'DESC' if descending else ''}", values):
            found = self._loaded.get(id_)
            if found is None:
                found = orjson.loads(body)
                self._remember(id_, found)
            if keep is None or keep(found):
                yield found

    def count(self, type_: str, **columns: str) -> int:
        where = "".join(f" AND {column} = ?" for column in columns)
        sql = f"SELECT count(*) FROM objects WHERE type = ? AND deleted = 0{where}"  # noqa: S608 - column names are our own keywords
        return int(self.execute(sql, type_, *columns.values()).fetchone()[0])

    # --- numbers that are kept ---

    def number(self, key: str) -> int:
        row = self.execute("SELECT value FROM meta WHERE key = ?", key).fetchone()
        return int(row[0]) if row else 0

    def set_number(self, key: str, value: int) -> None:
        self.execute("INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, value)

    def bump(self, key: str) -> int:
        sql = "INSERT INTO meta VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET value = value + 1 RETURNING value"
        return int(self.execute(sql, key).fetchone()[0])

    # --- transitions ---

    def schedule(self, kind: str, object_: str, due: int, clock: str | None) -> None:
        self.execute(
            "INSERT INTO transitions VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (kind, object) DO UPDATE SET due = excluded.due, clock = excluded.clock",
            kind, object_, due, clock or "", self.bump("transition"),
        )  # fmt: skip

    def unschedule(self, object_: str, *kinds: str) -> None:
        for kind in kinds:
            self.execute("DELETE FROM transitions WHERE kind = ? AND object = ?", kind, object_)

    def next_transition(self, clock: str = "") -> tuple[str, str, int] | None:
        row = self.execute("SELECT kind, object, due FROM transitions WHERE clock = ? ORDER BY due, seq LIMIT 1", clock).fetchone()
        return (row[0], row[1], row[2]) if row else None

    # --- meter events ---

    def usage(self, event_name: str, customer: str, start: int, end: int, formula: str = "sum") -> int:
        """Aggregate the events with start <= timestamp < end."""
        where = "event_name = ? AND customer = ? AND timestamp >= ? AND timestamp < ? AND canceled = 0"
        what = {"sum": "coalesce(sum(value), 0)", "count": "count(*)", "last": "value"}[formula]
        order = "ORDER BY timestamp DESC, seq DESC LIMIT 1" if formula == "last" else ""
        row = self.execute(f"SELECT {what} FROM meter_events WHERE {where} {order}", event_name, customer, start, end).fetchone()  # noqa: S608
        return int(row[0]) if row else 0


def _columns(body: Json) -> tuple[str | None, str | None, str | None, str | None]:
    customer = body.get("customer")
    return customer if isinstance(customer, str) else None, body.get("_parent"), body.get("_lookup"), body.get("status")
