"""The thread that sends: oldest events first, removed only once the door has answered for each of them."""

import gzip
import json
import random
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import httpx

from turnpike_asgi import answers
from turnpike_asgi.answers import Verdict
from turnpike_asgi.options import Options
from turnpike_asgi.reports import Reports
from turnpike_asgi.spool import Leadership, Spool, Stored
from turnpike_asgi.stats import Stats

BATCH_TYPE = "application/cloudevents-batch+json"
STANDBY_SECONDS = 0.5
AHEAD_PROBLEM = "the door says that this machine's clock is ahead: such events wait, the others are sent"
GZIP_FROM_BYTES = 1024
EXPIRED = "expired_in_spool"


class Sender:
    """One per process; of those that share a spool one sends, the others stand by."""

    def __init__(self, options: Options, stats: Stats, reports: Reports) -> None:
        self._options, self._stats, self._reports = options, stats, reports
        self._changed = threading.Condition()
        self._stop_at: float | None = None
        self._attempt = 0
        self._thread = threading.Thread(target=self._run, name="turnpike-sender", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Send what is left, within a limit of time."""
        with self._changed:
            self._stop_at = time.monotonic() + seconds
            self._changed.notify()
        self._thread.join(seconds + 1)

    # --- in the thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        spool: Spool | None = None
        leadership: Leadership | None = None
        with httpx.Client(timeout=self._options.timeout_seconds, follow_redirects=False) as client:
            while self._stop_at is None or time.monotonic() < self._stop_at:
                try:
                    spool = self._opened(spool)
                    leadership = leadership or Leadership(self._options.folder)
                    if self._is_over(spool, leadership):
                        break
                    pause = self._turn(spool, leadership, client)
                except Exception as error:  # noqa: BLE001 - whatever happens here, the app goes on and the events stay
                    _closed(spool)
                    spool = None
                    self._reports.failed("sender", error)
                    pause = self._backoff(0)
                self._wait(pause)
        if leadership is not None:
            leadership.release()
        _closed(spool)

    def _opened(self, spool: Spool | None) -> Spool:
        """Return the spool; another one where it was set aside meanwhile."""
        if spool is not None and not spool.is_current():
            spool.close()
            spool = None
        return spool or Spool(self._options.folder)

    def _is_over(self, spool: Spool, leadership: Leadership) -> bool:
        if self._stop_at is None:
            return False
        return time.monotonic() >= self._stop_at or not leadership.take() or spool.is_empty()

    def _turn(self, spool: Spool, leadership: Leadership, client: httpx.Client) -> float:
        """Send one batch if it is this process's turn; returns the seconds to wait."""
        if not leadership.take():
            self._stats.state = "standby"
            return STANDBY_SECONDS
        spool.release(self._options.clock().timestamp(), answers.AHEAD_PAUSE_MAX_SECONDS)
        batch = self._take(spool)
        if not batch:
            self._stats.state, self._attempt = "clock_ahead" if spool.holds_ahead() else "idle", 0
            spool.shrink()
            self._stats.spool_bytes = spool.bytes_used()
            return self._options.flush_seconds
        self._stats.spool_bytes = spool.bytes_used()
        return self._send(spool, client, batch)

    def _take(self, spool: Spool) -> list[Stored]:
        """Return the next batch, without what is too old to be taken."""
        batch = spool.read(self._options.batch_events_max, self._options.batch_bytes_max)
        oldest = self._options.clock() - self._options.spool_age_max
        refused: list[tuple[Stored, str, str]] = []
        for stored in batch:
            try:
                if _time_of(stored) < oldest:
                    refused.append((stored, EXPIRED, "it waited in the spool for too long"))
            except (ValueError, KeyError, TypeError):
                refused.append((stored, "damaged", "the event in the spool is damaged"))
        if refused:
            gone = [stored for stored, _, _ in refused]
            self._set_aside(spool, gone, refused)
            batch = [stored for stored in batch if stored not in gone]
        return batch

    def _send(self, spool: Spool, client: httpx.Client, batch: list[Stored]) -> float:
        self._stats.state = "sending"
        verdict = self._post(client, batch)
        if verdict.action == "done":
            self._attempt = 0
            self._finish(spool, batch, verdict)
            return 0.0 if self._is_large(batch) else self._options.flush_seconds
        self._reports.error(verdict.action, verdict.problem)
        if verdict.action == "split":
            middle = len(batch) // 2
            pause = self._send(spool, client, batch[:middle])
            return pause if self._attempt else self._send(spool, client, batch[middle:])
        self._stats.retries += 1
        if verdict.action == "unauthorized":
            self._stats.state = "unauthorized"
            return self._backoff(self._options.unauthorized_pause_seconds)
        self._stats.state = "retrying"
        return self._backoff(verdict.wait_seconds)

    def _finish(self, spool: Spool, batch: list[Stored], verdict: Verdict) -> None:
        """Remove what was answered. What is ahead of the door's clock waits and stands in nobody's way."""
        refused = [(batch[one.place], one.reason, one.message) for one in verdict.refusals]
        now, waiting = self._options.clock(), []
        for one in verdict.ahead:
            stored = batch[one.place]
            pause = answers.ahead_pause(_time_of(stored), verdict.answered_at or now, self._options.spool_age_max)
            if pause is None:
                refused.append((stored, one.reason, one.message))
            else:
                waiting.append((stored, now.timestamp() + pause))
        self._set_aside(spool, batch, refused, waiting)
        self._stats.accepted += len(batch) - len(refused) - len(waiting)
        if waiting:
            self._stats.retries += 1
            self._reports.error("ahead", AHEAD_PROBLEM)

    def _is_large(self, batch: list[Stored]) -> bool:
        """Tell whether more is likely to wait, so that the next batch goes at once; a small one gathers for a moment."""
        half = self._options.batch_bytes_max // 2
        return len(batch) >= self._options.batch_events_max or sum(len(stored.body) for stored in batch) > half

    def _post(self, client: httpx.Client, batch: list[Stored]) -> Verdict:
        body = b"[" + b",".join(stored.body for stored in batch) + b"]"
        headers = {"authorization": f"Bearer {self._options.current_key()}", "content-type": BATCH_TYPE}
        if len(body) >= GZIP_FROM_BYTES:
            body = gzip.compress(body, 6)
            headers["content-encoding"] = "gzip"
        try:
            answer = client.post(self._options.address, content=body, headers=headers)
        except httpx.HTTPError as error:
            return Verdict("retry", problem=type(error).__name__)
        return answers.judge(answer.status_code, answer.headers, answer.content, events=len(batch), now=datetime.now(UTC))

    def _set_aside(
        self, spool: Spool, batch: list[Stored], refused: list[tuple[Stored, str, str]], ahead: Sequence[tuple[Stored, float]] = ()
    ) -> None:
        spool.remove(batch, refused, rejected_max=self._options.rejected_max, ahead=ahead)
        self._stats.rejected += len(refused)
        for stored, reason, message in refused:
            self._reports.rejected(stored.body, reason, message)

    def _backoff(self, at_least: float) -> float:
        pause = answers.backoff(
            self._attempt,
            first_seconds=self._options.backoff_seconds,
            longest_seconds=self._options.backoff_max_seconds,
            random=random.random(),  # noqa: S311 - jitter
        )
        self._attempt += 1
        return max(pause, at_least)

    def _wait(self, seconds: float) -> None:
        """Wait; when stopping only after failures, and not past the limit."""
        until = time.monotonic() + seconds
        with self._changed:
            while (left := self._until(until) - time.monotonic()) > 0:
                self._changed.wait(left)

    def _until(self, until: float) -> float:
        if self._stop_at is None:
            return until
        return min(until, self._stop_at) if self._attempt else 0.0


def _closed(spool: Spool | None) -> None:
    if spool is not None:
        spool.close()


def _time_of(stored: Stored) -> datetime:
    return datetime.fromisoformat(json.loads(stored.body)["time"])
