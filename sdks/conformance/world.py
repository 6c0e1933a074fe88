"""One scenario's world: the fake door, the app's processes and the clients that call them."""

import http.client
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from fake_ingest import Ingest, Server

HERE = Path(__file__).parent
SOURCE = "/gateways/conformance"
START_SECONDS = 20.0
SETTLE_SECONDS = 20.0
KEY = "tps_0123456789abcdef_conformance"


class ScenarioError(Exception):
    """Something did not hold."""


class World:
    """`started` are the calls that were made, by subject; `answered` those whose answer arrived whole."""

    def __init__(self, app: list[str], folder: Path, options: dict[str, Any], scenario: dict[str, Any]) -> None:
        self._app, self._folder, self._options = app, folder, options
        self.ingest = Ingest(scenario.get("key", KEY), SOURCE, poison=set(scenario.get("poison", ())), reject=scenario.get("reject", {}))
        self._server = Server(self.ingest)
        self._server.start()
        self._processes: list[tuple[subprocess.Popen[str], int]] = []
        self._ended: list[dict[str, Any]] = []
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in close()
        self._numbers = count()
        self._threads: list[threading.Thread] = []
        self._broken: list[str] = []
        self._lock = threading.Lock()
        self.started: set[str] = set()
        self.answered: set[str] = set()
        self.longest = 0.0

    # --- steps -------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start another process of the app, with the same spool."""
        environment = {
            **os.environ,
            "TURNPIKE_URL": f"http://127.0.0.1:{self._server.port}",
            "TURNPIKE_KEY": KEY,
            "TURNPIKE_SOURCE": SOURCE,
            "TURNPIKE_SPOOL_DIR": str(self._folder / "spool"),
            "TURNPIKE_OPTIONS": json.dumps(self._options),
        }
        process = subprocess.Popen(self._app, env=environment, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert process.stdout is not None
        line = process.stdout.readline().split()
        if line[:1] != ["listening"]:
            process.kill()
            raise ScenarioError(f"the app did not start: {line}")
        self._processes.append((process, int(line[1])))

    def calls(self, count: int, clients: int, process: int | None = None, *, background: bool = False) -> None:
        """Make calls, each with a subject of its own, spread over the processes that run."""
        numbers = iter(range(count))

        ports = [port for _, port in self._processes] if process is None else [self._processes[process][1]]

        def work(port: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            try:
                while self._next(numbers):
                    self._call(connection)
            except (OSError, http.client.HTTPException) as error:
                self._broken.append(f"a call broke: {error!r}")
            connection.close()

        self._threads = [threading.Thread(target=work, args=(ports[place % len(ports)],)) for place in range(clients)]
        for thread in self._threads:
            thread.start()
        if not background:
            self.join()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
        if self._broken:
            raise ScenarioError(self._broken[0])

    def traffic(self, clients: int, kill_after: float, process: int = -1) -> None:
        """Call without a pause, and kill the process in the middle of it."""
        victim, port = self._processes[process]

        def work() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            try:
                while True:
                    self._call(connection)
            except (OSError, http.client.HTTPException):
                connection.close()

        threads = [threading.Thread(target=work) for _ in range(clients)]
        for thread in threads:
            thread.start()
        time.sleep(kill_after)
        victim.kill()
        for thread in threads:
            thread.join(30)
        victim.wait(10)
        del self._processes[process]

    def named(self, subjects: list[str]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._processes[-1][1], timeout=30)
        for subject in subjects:
            self._call(connection, subject=subject)
        connection.close()

    def shapes(self) -> None:
        """Make the calls of shapes.json and compare what arrives."""
        shapes = json.loads((HERE / "shapes.json").read_text())
        expected = {}
        for shape in shapes:
            connection = http.client.HTTPConnection("127.0.0.1", self._processes[-1][1], timeout=30)
            subject = f"shape {shape['name']}"
            counted = shape.get("counted", True)
            status = self._call(
                connection,
                method=shape["method"],
                path=shape["path"],
                body=shape.get("body"),
                subject=subject,
                anonymous=shape.get("anonymous", False),
                counts=counted,
            )
            connection.close()
            if status != shape["status"]:
                raise ScenarioError(f"{shape['name']}: answered with {status}")
            if counted:
                expected[subject] = shape
        self.settle()
        _compare({event["subject"]: event["data"] for event in self.ingest.identities.values()}, expected)

    def down(self) -> None:
        self._server.stop()

    def up(self) -> None:
        self._server.start()

    def heal(self) -> None:
        self.ingest.fault = None

    def accept_key(self) -> None:
        self.ingest.key = KEY

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def state(self, **expected: str) -> None:
        """Wait until the first process says so."""
        self._until(lambda: self._stats()[0]["state"] == expected["is"], f"the state is not {expected['is']}")

    def stop(self) -> None:
        """End the last process as an orchestrator does."""
        process, port = self._processes.pop()
        self._ended.append(_get(port, "/_stats"))
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(10)
        except subprocess.TimeoutExpired:
            raise ScenarioError("the process did not end after SIGTERM") from None
        if code not in {0, -signal.SIGTERM}:
            raise ScenarioError(f"the process ended with {code}")

    def settle(self) -> None:
        """Wait until the door has, or has refused, all that was answered."""
        self._until(lambda: self.answered <= set(self.ingest.subjects) | self._refused())

    def settle_all_but_dropped(self) -> None:
        self._until(lambda: len(self.ingest.subjects) + self._stats()[0]["dropped"] >= len(self.answered))

    def drained(self) -> None:
        """Wait until the process has nothing left to send."""
        self._until(lambda: all(one["accepted"] + one["rejected"] >= one["spooled"] for one in self._stats()), "the spool is not empty")

    # --- what is known -----------------------------------------------------------------------------------------------------

    def final_stats(self) -> dict[str, Any]:
        """Return the sums over all processes that could be asked."""
        found = self._stats() or self._ended
        return {name: sum(one[name] for one in found) for name in ("dropped", "rejected", "retries", "recorded")}

    def rejected(self) -> list[list[str]]:
        return [pair for one in self._stats() for pair in one["told"]]

    def story(self) -> str:
        """Return what helps to understand a failure."""
        self._log.seek(0)
        lines = self._log.read().splitlines()[-15:]
        requests = [(request.status, request.events) for request in self.ingest.requests[-10:]]
        figures = f"{len(self.started)} calls, {len(self.answered)} answered, {len(self.ingest.subjects)} counted, last requests {requests}"
        return "\n    ".join([figures, *(str(one) for one in self._stats()), *lines])

    def close(self) -> None:
        for process, _ in self._processes:
            process.kill()
            process.wait(10)
        self._server.stop()
        self._log.close()

    # --- inside ------------------------------------------------------------------------------------------------------------

    def _refused(self) -> set[str]:
        return {subject for subject, _ in self.rejected()} if self.ingest.poison or self.ingest.reject else set()

    def _until(self, holds: Callable[[], bool], otherwise: str = "answered calls did not arrive") -> None:
        end = time.monotonic() + SETTLE_SECONDS
        while not holds():
            if time.monotonic() > end:
                raise ScenarioError(f"{otherwise} within {SETTLE_SECONDS:g} s")
            time.sleep(0.02)

    def _stats(self) -> list[dict[str, Any]]:
        return [_get(port, "/_stats") for process, port in self._processes if process.poll() is None]

    def _next(self, numbers: Any) -> bool:
        with self._lock:
            return next(numbers, None) is not None

    def _call(
        self,
        connection: http.client.HTTPConnection,
        *,
        method: str = "GET",
        path: str = "/orders/4711",
        body: str | None = None,
        subject: str = "",
        anonymous: bool = False,
        counts: bool = True,
    ) -> int:
        with self._lock:
            subject = subject or f"call-{next(self._numbers)}"
            if counts:
                self.started.add(subject)
        began = time.monotonic()
        connection.request(method, path, body=body, headers={} if anonymous else {"x-subject": subject})
        answer = connection.getresponse()
        answer.read()
        took = time.monotonic() - began
        with self._lock:
            self.longest = max(self.longest, took)
            if counts:
                self.answered.add(subject)
        return answer.status


def _compare(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for subject, shape in expected.items():
        data = found[subject]
        wanted = {
            "method": shape["method"],
            "status": shape["status"],
            "template": shape["template"],
            "quantity": shape.get("quantity", 1),
            "meter": shape.get("meter"),
            "tokens": shape.get("tokens"),
            "requestBytes": shape.get("request_bytes", 0),
            "responseBytes": shape.get("response_bytes", data["responseBytes"]),
        }
        seen = {name: data.get(name) for name in wanted}
        if seen != wanted:
            raise ScenarioError(f"{subject}: {seen} instead of {wanted}")
        if "durationMs" not in data:
            raise ScenarioError(f"{subject}: no duration")


def _get(port: int, path: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return answer
