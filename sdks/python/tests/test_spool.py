"""The spool and who sends from it."""

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from turnpike_asgi import disk
from turnpike_asgi.answers import Refusal, Verdict
from turnpike_asgi.events import Call
from turnpike_asgi.options import Options
from turnpike_asgi.reports import Reports
from turnpike_asgi.sender import Sender
from turnpike_asgi.spool import Leadership, Spool, SpoolFullError, Stored
from turnpike_asgi.stats import Stats

from .conftest import MakeRecorder

CALL = Call(
    scope={"headers": [(b"x-subject", b"sub-1")]}, method="GET", template="/", status=200, request_bytes=0, response_bytes=0, duration_ms=1
)


def test_what_is_stored_is_read_in_order_and_removed_only_by_name(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append([b"a", b"b", b"c"])
    first = spool.read(2, 1000)
    assert [stored.body for stored in first] == [b"a", b"b"]
    spool.append([b"d"])
    spool.remove(first)
    assert [stored.body for stored in Spool(tmp_path).read(10, 1000)] == [b"c", b"d"]
    assert not spool.is_empty()


def test_a_batch_ends_at_its_size_but_holds_at_least_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append([b"x" * 600] * 3)
    assert len(spool.read(10, 1250)) == 2
    assert len(spool.read(10, 100)) == 1


def test_a_full_spool_says_so_stores_nothing_of_the_group_and_takes_again_after_removal(tmp_path: Path) -> None:
    spool = Spool(tmp_path, bytes_max=65536)
    stored = 0
    while spool.bytes_used() < 60_000:
        spool.append([b"x" * 500] * 10)
        stored += 10
    with pytest.raises(SpoolFullError):
        spool.append([b"x" * 500] * 30)
    assert stored > 50
    assert len(spool.read(1000, 1 << 30)) == stored
    assert spool.bytes_used() <= 65536
    spool.remove(spool.read(1000, 1 << 30))
    spool.append([b"y" * 500] * 10)
    assert len(spool.read(1000, 1 << 30)) == 10


def test_the_last_of_a_disk_is_left_for_taking_out_what_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 1 << 30
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: SimpleNamespace(total=1 << 30, free=free))
    spool = Spool(tmp_path)
    spool.append([b"x" * 3000] * 1000)
    free = disk.RESERVE_BYTES - 1
    with pytest.raises(SpoolFullError):
        spool.append([b"y"])
    sent = spool.read(1000, 1 << 30)
    spool.remove(sent)
    spool.append([b"y"])  # into the room that the file has inside
    spool.shrink()
    assert (tmp_path / "spool.db-wal").stat().st_size == 0
    assert [stored.body for stored in spool.read(10, 1000)] == [b"y"]


def test_of_a_small_disk_half_is_left_and_one_that_says_nothing_is_not_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: SimpleNamespace(total=1000, free=499))
    assert disk.is_short(tmp_path)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: SimpleNamespace(total=1000, free=500))
    assert not disk.is_short(tmp_path)
    monkeypatch.undo()
    assert not disk.is_short(tmp_path / "gone")


def test_refused_events_are_kept_aside_up_to_a_number(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append([b'{"n":1}', b'{"n":2}', b'{"n":3}'])
    batch = spool.read(10, 1000)
    spool.remove(batch, [(stored, "unknown_meter", "m") for stored in batch], rejected_max=2)
    assert [one["event"]["n"] for one in spool.rejected()] == [2, 1]
    assert spool.is_empty()


LEAD = """
import pathlib, sys, time, turnpike_asgi.spool
print(turnpike_asgi.spool.Leadership(pathlib.Path(sys.argv[1])).take(), flush=True)
time.sleep(60)
"""


def test_one_process_leads_and_the_kernel_frees_its_place(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", LEAD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "True"
        mine = Leadership(tmp_path)
        assert not mine.take()
        other.kill()
        other.wait()
        assert mine.take()
        mine.release()


FORK = """
import asyncio, os, sys
from turnpike_asgi import Call, Options, Recorder
call = Call({}, "GET", "/", 200, 0, 0, 1)
folder = sys.argv[1]
options = {"url": "http://127.0.0.1:9", "key": "k", "source": "/s", "spool_folder": folder}
options |= {"wait_seconds": 30, "shutdown_seconds": 0.2}
recorder = Recorder(Options(subject=lambda _: "sub-1", **options))
asyncio.run(recorder.record(call))
child = os.fork()
asyncio.run(recorder.record(call))
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


def test_a_process_that_is_forked_off_writes_through_threads_of_its_own(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK, str(tmp_path)], check=True, timeout=60)
    assert len(Spool(tmp_path).read(10, 10_000)) == 3


FORK_INSIDE = """
import os, pathlib, sys
from turnpike_asgi.spool import Leadership, Spool
folder = pathlib.Path(sys.argv[1])
spool, leadership = Spool(folder), Leadership(folder)
spool._db.execute("begin immediate")
assert leadership.take()
child = os.fork()
if not child:
    spool.append([b"of the child"])
    assert Leadership(folder).take()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
spool.append([b"of the parent"])
"""


def test_a_fork_in_the_middle_of_a_transaction_locks_nobody_out(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK_INSIDE, str(tmp_path)], check=True, timeout=60)
    assert [stored.body for stored in Spool(tmp_path).read(10, 10_000)] == [b"of the child", b"of the parent"]


async def test_events_that_waited_for_too_long_are_set_aside_not_lost(make_recorder: MakeRecorder, tmp_path: Path) -> None:
    old = datetime.now(UTC) - timedelta(days=35)
    recorder = make_recorder(clock=lambda: old)
    await recorder.record(CALL)
    recorder.close()
    told: list[tuple[str, str]] = []
    options = Options(
        url="http://127.0.0.1:9",
        key="k",
        source="/s",
        subject=lambda _: None,
        spool_folder=tmp_path / "spool",
        on_rejected=lambda event, reason, _: told.append((event["subject"], reason)),
    )
    stats = Stats()
    spool = Spool(options.folder)
    assert Sender(options, stats, Reports(options, stats))._take(spool) == []
    assert told == [("sub-1", "expired_in_spool")]
    assert (stats.rejected, len(spool.rejected())) == (1, 1)


async def test_a_recorder_can_be_closed_and_used_again(make_recorder: MakeRecorder, tmp_path: Path) -> None:
    recorder = make_recorder()
    for _ in range(2):
        await recorder.record(CALL)
        await asyncio.to_thread(recorder.close)
    assert len(Spool(tmp_path / "spool").read(10, 10_000)) == 2


async def test_a_spool_that_cannot_be_written_delays_an_answer_by_the_limit_and_no_more(
    make_recorder: MakeRecorder, tmp_path: Path
) -> None:
    problems: list[str] = []
    recorder = make_recorder(wait_seconds=0.1, on_error=lambda kind, _: problems.append(kind))
    recorder.start()
    with sqlite3.connect(tmp_path / "spool" / "spool.db", isolation_level=None) as other:
        other.execute("begin immediate")  # somebody holds the file
        started = time.monotonic()
        await recorder.record(CALL)
        assert 0.09 < time.monotonic() - started < 3
        assert recorder.stats().in_memory == 1
        other.execute("rollback")
    for _ in range(300):
        if recorder.stats().spooled:
            break
        await asyncio.sleep(0.02)
    assert (recorder.stats().spooled, recorder.stats().in_memory) == (1, 0)
    assert "late" in problems


async def test_what_requests_record_at_once_is_stored_together(make_recorder: MakeRecorder, tmp_path: Path) -> None:
    commits: list[int] = []
    recorder = make_recorder()
    recorder.start()
    running = recorder._running
    assert running is not None
    spool: Any = running[1]._opened()
    append = spool.append
    spool.append = lambda bodies: (commits.append(len(bodies)), append(bodies))
    await asyncio.gather(*(recorder.record(CALL) for _ in range(200)))
    assert sum(commits) == 200
    assert len(commits) < 100
    ids = {json.loads(stored.body)["id"] for stored in Spool(tmp_path / "spool").read(1000, 1 << 30)}
    assert len(ids) == 200


async def test_a_sender_that_is_stopped_before_its_first_turn_still_sends(make_recorder: MakeRecorder, tmp_path: Path) -> None:
    recorder = make_recorder()
    await recorder.record(CALL)
    recorder.close()
    stats = Stats()
    sender = Sender(recorder.options, stats, Reports(recorder.options, stats))
    sender._post = lambda _client, _batch: Verdict("done")  # type: ignore[method-assign]
    sender._stop_at = time.monotonic() + 5
    sender.start()
    sender.stop(5)
    assert (stats.accepted, Spool(tmp_path / "spool").is_empty()) == (1, True)


def refuse_ahead(now: datetime) -> Callable[[object, list[Stored]], Verdict]:
    """A door whose clock says `now`."""

    def post(_client: object, batch: list[Stored]) -> Verdict:
        ahead = [datetime.fromisoformat(json.loads(stored.body)["time"]) > now + timedelta(minutes=5) for stored in batch]
        refusals = tuple(Refusal(place, "in_the_future", "m") for place, is_ahead in enumerate(ahead) if is_ahead)
        return Verdict("done", ahead=refusals, answered_at=now)

    return post


async def test_one_event_with_a_time_ahead_waits_and_stands_in_nobodys_way(make_recorder: MakeRecorder, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    clock, told = [now], list[str]()
    recorder = make_recorder(clock=lambda: clock[0], batch_events_max=5, on_rejected=lambda _, reason, __: told.append(reason))
    for days in (30, 400, *[0] * 40):
        clock[0] = now + timedelta(days=days)
        await recorder.record(CALL)
    recorder.close()
    stats = Stats()
    sender, spool = Sender(recorder.options, stats, Reports(recorder.options, stats)), Spool(tmp_path / "spool")
    sender._post = refuse_ahead(now)  # type: ignore[method-assign,assignment]

    def turns(count: int) -> tuple[int, int, str]:
        for _ in range(count):
            sender._turn(spool, Leads(), None)  # type: ignore[arg-type]
        return stats.accepted, stats.rejected, stats.state

    assert turns(10) == (40, 1, "clock_ahead")
    assert (told, spool.is_empty(), spool.holds_ahead(), stats.retries) == (["in_the_future"], True, True, 1)
    spool = Spool(tmp_path / "spool")  # another process finds it too
    assert turns(3) == (40, 1, "clock_ahead")
    assert stats.retries == 1, "it is not sent again before it is due"
    clock[0] = now + timedelta(minutes=61)
    assert turns(3) == (40, 1, "clock_ahead")
    assert stats.retries == 2
    clock[0] -= timedelta(days=3)  # the clock is put right: what is due by the wrong one does not wait for it
    sender._post = refuse_ahead(now + timedelta(days=30))  # type: ignore[method-assign,assignment]
    assert turns(3) == (41, 1, "idle")


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(300):
        if holds():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("waited in vain")


GARBAGE = b"\0garbage after a power cut" * 500


async def test_a_damaged_spool_is_set_aside_and_told_and_nothing_new_is_lost(make_recorder: MakeRecorder, tmp_path: Path) -> None:
    folder, told = tmp_path / "spool", list[tuple[str, str]]()
    folder.mkdir()
    for name in ("spool.db", "sender.db"):
        (folder / name).write_bytes(GARBAGE)
    recorder = make_recorder(on_error=lambda kind, problem: told.append((kind, problem)), backoff_seconds=0.05)
    for _ in range(5):
        await recorder.record(CALL)
    stats = recorder.stats()
    assert (stats.recorded, stats.spooled, stats.dropped, stats.in_memory) == (5, 5, 0, 0)
    (aside,) = folder.glob("spool.db.damaged-*Z")
    assert aside.read_bytes() == GARBAGE
    assert [aside.name in problem for kind, problem in told if kind == "damaged"] == [True]
    await until(lambda: recorder.stats().retries > 0)  # the sending thread lives, and finds the new one
    assert len(Spool(folder).read(10, 10_000)) == 5


async def test_a_spool_that_is_damaged_while_it_is_used_is_set_aside_once_by_all(make_recorder: MakeRecorder, tmp_path: Path) -> None:
    folder, told = tmp_path / "spool", list[str]()
    recorders = [make_recorder(on_error=lambda kind, _: told.append(kind), backoff_seconds=0.05) for _ in range(2)]
    for _ in range(200):
        await recorders[0].record(CALL)
    await recorders[1].record(CALL)
    for suffix in ("", "-wal"):
        size = (folder / f"spool.db{suffix}").stat().st_size
        with (folder / f"spool.db{suffix}").open("r+b") as file:
            file.write(b"\xff" * size)
    for _ in range(5):
        await recorders[0].record(CALL)
        await recorders[1].record(CALL)
    assert [(one.stats().spooled, one.stats().dropped) for one in recorders] == [(205, 0), (6, 0)]
    assert len(list(folder.glob("spool.db.damaged-*Z"))) == told.count("damaged") == 1
    assert len(Spool(folder).read(100, 100_000)) == 10


async def test_a_spool_that_was_deleted_is_begun_anew(make_recorder: MakeRecorder, tmp_path: Path) -> None:
    recorder = make_recorder()
    await recorder.record(CALL)
    shutil.rmtree(tmp_path / "spool")
    await recorder.record(CALL)
    assert (recorder.stats().spooled, len(Spool(tmp_path / "spool").read(10, 10_000))) == (2, 1)


async def test_what_no_thread_can_take_is_dropped_counted_and_told(make_recorder: MakeRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[int] = []
    recorder = make_recorder(on_dropped=dropped.append)

    def fails() -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(recorder, "_writer", fails)
    await recorder.record(CALL)
    assert (recorder.stats().recorded, recorder.stats().dropped, dropped) == (1, 1, [1])


async def test_a_sender_outlives_a_spool_that_cannot_be_opened(make_recorder: MakeRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    class Locked(Spool):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            tries.append(1)
            if len(tries) < 3:
                raise sqlite3.OperationalError("database is locked")
            super().__init__(*arguments, **more)

    monkeypatch.setattr("turnpike_asgi.sender.Spool", Locked)
    recorder = make_recorder(backoff_seconds=0.02)
    await recorder.record(CALL)
    await until(lambda: recorder.stats().retries > 0)


def test_an_event_that_is_damaged_in_the_spool_is_set_aside_and_the_others_are_sent(make_recorder: MakeRecorder, tmp_path: Path) -> None:
    told: list[tuple[Any, str]] = []
    options = make_recorder(on_rejected=lambda event, reason, _: told.append((event, reason))).options
    spool, stats = Spool(tmp_path / "spool"), Stats()
    good = json.dumps({"time": datetime.now(UTC).isoformat()}).encode()
    spool.append([b"\xff{", b"[]", b"{}", good])
    assert [stored.body for stored in Sender(options, stats, Reports(options, stats))._take(spool)] == [good]
    assert told == [("\xff{", "damaged"), ([], "damaged"), ({}, "damaged")]
    assert [one["event"] for one in spool.rejected()] == [{}, [], "\xff{"]


class Leads:
    """Nobody else is there."""

    def take(self) -> bool:
        return True
