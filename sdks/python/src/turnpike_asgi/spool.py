"""The spool: one SQLite file in WAL mode that all processes of an app share. What is in it outlives them."""

import contextlib
import functools
import json
import os
import sqlite3
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from turnpike_asgi import disk

PAGE_BYTES = 4096
BUSY_SECONDS = 5.0
FULL_CODES = frozenset({sqlite3.SQLITE_FULL})
DAMAGED_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
FREE_PAGES_MIN = 256  # with so many, what is added lets the file grow no more
FILE = "spool.db"
SCHEMA = """
create table if not exists event (id integer primary key autoincrement, body blob not null) strict;
create table if not exists ahead (id integer primary key, due real not null, body blob not null) strict;
create table if not exists rejected (
    id integer primary key, at text not null, reason text not null, message text not null, event blob not null
) strict;
"""


P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound="_File")
_at_work = threading.RLock()  # held while SQLite works: a fork waits for it
_files: "weakref.WeakSet[_File]" = weakref.WeakSet()


class _File(ABC):
    """A connection that is opened when it is needed, and that no fork inherits.

    SQLite keeps what is locked in the memory of a process too (https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_):
    a child that begins with a copy in which something is locked could never write.
    """

    def __init__(self) -> None:
        self._connection: sqlite3.Connection | None = None
        _files.add(self)

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    @abstractmethod
    def _connect(self) -> sqlite3.Connection: ...

    def close(self) -> None:
        with _at_work:
            if self._connection is not None:
                self._connection.close()
            self._connection = None


def _undivided(method: Callable[Concatenate[F, P], R]) -> Callable[Concatenate[F, P], R]:
    @functools.wraps(method)
    def done(self: F, /, *arguments: P.args, **named: P.kwargs) -> R:
        with _at_work:
            return method(self, *arguments, **named)

    return done


def _before_fork() -> None:
    _at_work.acquire()
    for one in list(_files):
        one.close()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(before=_before_fork, after_in_parent=_at_work.release, after_in_child=_at_work.release)


class SpoolFullError(Exception):
    """The spool has reached its size, or the disk has no room."""


class DamagedError(sqlite3.DatabaseError):
    """A check of the whole file says so."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


class SpoolReplacedError(sqlite3.Error):
    """The file is no longer the spool: somebody set it aside. What was just written has to be written again, to the new one."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One event in the spool. Ids grow in the order of commits."""

    id: int
    body: bytes


class Spool(_File):
    """One connection. Each thread opens its own."""

    def __init__(self, folder: Path, *, bytes_max: int | None = None, durability: Literal["disk", "process"] = "disk") -> None:
        """`bytes_max` bounds what this connection may add; process: a commit is in the page cache, not yet on the disk."""
        super().__init__()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path, self._bytes_max, self._durability = folder / FILE, bytes_max, durability
        self._number: int | None = None
        with _at_work:
            self._connection = self._connect()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        self._number = _number(self._path)
        try:
            db.execute("pragma auto_vacuum = incremental")
            db.execute("pragma journal_mode = wal")
            db.execute(f"pragma synchronous = {'full' if self._durability == 'disk' else 'normal'}")
            db.execute("pragma journal_size_limit = 8388608")
            db.executescript(SCHEMA)
            if self._bytes_max is not None:
                db.execute(f"pragma max_page_count = {self._bytes_max // PAGE_BYTES}")
        except sqlite3.Error:
            db.close()
            raise
        return db

    def is_current(self) -> bool:
        """Tell whether the file is still the spool, and not set aside or deleted."""
        return _number(self._path) == self._number

    @_undivided
    def append(self, bodies: Sequence[bytes]) -> None:
        """Store all or none, durably. Raises SpoolFullError; sqlite3.Error while the file cannot be written."""
        if self._is_short():
            raise SpoolFullError
        try:
            with self._transaction():
                self._db.executemany("insert into event (body) values (?)", [(body,) for body in bodies])
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) in FULL_CODES:
                raise SpoolFullError from error
            raise
        if not self.is_current():
            raise SpoolReplacedError(f"{FILE} was set aside or deleted")

    @_undivided
    def read(self, events_max: int, bytes_max: int) -> list[Stored]:
        """Return the oldest events, at least one where there is any."""
        found: list[Stored] = []
        size = 0
        for row in self._db.execute("select id, body from event order by id limit ?", (events_max,)):
            size += len(row[1]) + 1
            if found and size > bytes_max:
                break
            found.append(Stored(*row))
        return found

    def remove(
        self,
        events: Sequence[Stored],
        rejected: Sequence[tuple[Stored, str, str]] = (),
        *,
        rejected_max: int = 0,
        ahead: Sequence[tuple[Stored, float]] = (),
    ) -> None:
        """Remove what was answered. What was refused is kept aside up to a number, what is `ahead` until it is due (Unix time)."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        with self._transaction():
            for stored, reason, message in rejected:
                self._db.execute(
                    "insert into rejected (at, reason, message, event) select ?, ?, ?, ? where (select count(*) from rejected) < ?",
                    (at, reason, message, stored.body, rejected_max),
                )
            self._db.executemany("insert into ahead (due, body) values (?, ?)", [(due, stored.body) for stored, due in ahead])
            self._db.executemany("delete from event where id = ?", [(stored.id,) for stored in events])

    @_undivided
    def release(self, now: float, longest_seconds: float) -> None:
        """Have events that were ahead sent again once they are due. One due later than anything may be is of a clock put right since."""
        times = now, now + longest_seconds
        if self._db.execute("select 1 from ahead where due <= ? or due > ? limit 1", times).fetchone() is None:
            return
        with self._transaction():
            self._db.execute("insert into event (body) select body from ahead where due <= ? or due > ? order by id", times)
            self._db.execute("delete from ahead where due <= ? or due > ?", times)

    @_undivided
    def holds_ahead(self) -> bool:
        return self._db.execute("select 1 from ahead limit 1").fetchone() is not None

    @_undivided
    def rejected(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return refused events with their reasons, newest first."""
        rows = self._db.execute("select at, reason, message, event from rejected order by id desc limit ?", (limit,))
        return [{"at": at, "reason": reason, "message": message, "event": readable(event)} for at, reason, message, event in rows]

    @_undivided
    def is_empty(self) -> bool:
        return self._db.execute("select 1 from event limit 1").fetchone() is None

    @_undivided
    def bytes_used(self) -> int:
        """Return the bytes of pages in use."""
        pages, free = (self._db.execute(f"pragma {name}").fetchone()[0] for name in ("page_count", "freelist_count"))
        return int(pages - free) * PAGE_BYTES

    @_undivided
    def check(self) -> None:
        """Raise sqlite3.DatabaseError where the file is damaged; closes it."""
        try:
            (found,) = self._db.execute("pragma quick_check(1)").fetchone()
        finally:
            self.close()
        if found != "ok":
            raise DamagedError(f"{FILE}: {found}")

    def _is_short(self) -> bool:
        """Tell whether the disk has no room but what taking events out needs, and the file none inside."""
        if not disk.is_short(self._path.parent):
            return False
        return int(self._db.execute("pragma freelist_count").fetchone()[0]) < FREE_PAGES_MIN

    @_undivided
    def shrink(self) -> None:
        """Give some of the free pages back to the file system, and the log where the disk is short."""
        self._db.execute("pragma incremental_vacuum(256)").fetchall()
        if disk.is_short(self._path.parent):
            self._db.execute("pragma wal_checkpoint(truncate)").fetchall()

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._db)


class _Transaction:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("begin immediate")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            try:
                self._db.execute("commit")
            except sqlite3.Error:
                self._rollback()
                raise
        else:
            self._rollback()

    def _rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("rollback")


def readable(body: bytes) -> Any:
    """Return an event, or the text of one that is damaged."""
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("latin-1")


def is_damaged(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED_CODES


def set_damaged_aside(folder: Path, now: datetime) -> str | None:
    """Rename a spool that cannot be read, so that a new one can begin; returns its new name, None where somebody else did it."""
    with _at_work:
        return _set_damaged_aside(folder, now)


def _set_damaged_aside(folder: Path, now: datetime) -> str | None:
    lock = sqlite3.connect(folder / "repair.db", timeout=BUSY_SECONDS, isolation_level=None)
    try:
        lock.execute("begin exclusive")
        try:
            Spool(folder).check()
        except sqlite3.Error as error:
            if not is_damaged(error):
                raise
        else:
            return None
        name = f"{FILE}.damaged-{now:%Y%m%dT%H%M%S.%fZ}"
        for suffix in ("-wal", "-shm", ""):  # a new spool must never find the log of the old one
            with contextlib.suppress(FileNotFoundError):
                (folder / f"{FILE}{suffix}").rename(folder / f"{name}{suffix}")
        return name
    finally:
        lock.close()


def _number(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


class Leadership(_File):
    """Who sends: of all processes of a spool, the one that holds the lock of a second file. The kernel frees it with the process."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = folder / "sender.db"

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)

    @property
    def held(self) -> bool:
        return self._connection is not None and self._connection.in_transaction

    @_undivided
    def take(self) -> bool:
        """Try to become the sender, or stay it; returns whether this process is it."""
        if not self.held:
            try:
                self._db.execute("begin exclusive")
            except sqlite3.OperationalError:
                return False
            except sqlite3.DatabaseError as error:
                if is_damaged(error):  # nothing is ever in it: the next try makes it anew
                    self.close()
                    self._path.unlink(missing_ok=True)
                raise
        return True

    def release(self) -> None:
        self.close()
