"""What an SDK adds to a call: `python3 overhead.py --app 'node app.js'`. Bare and counted runs alternate; medians of all rounds are shown.

Beside it stands what the disk takes to make 400 bytes durable, measured in between: no durable spool can be faster than that.
"""

import argparse
import json
import os
import shlex
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from statistics import median, quantiles

from fake_ingest import Ingest, Server
from world import KEY, SOURCE

REQUEST = b"GET /orders/4711 HTTP/1.1\r\nhost: x\r\nx-subject: sub-1\r\n\r\n"
WARM_UP = 200


def disk_milliseconds(folder: Path) -> float:
    taken = []
    with (folder / "probe").open("ab", buffering=0) as file:
        for _ in range(200):
            file.write(b"x" * 400)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - began) * 1000)
    return median(taken)


def client(port: int, calls: int, taken: list[float]) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(calls):
            began = time.perf_counter()
            connection.sendall(REQUEST)
            answer = b""
            while not answer.endswith(b'{"ok": true}\n'):
                answer += connection.recv(65536)
            taken.append((time.perf_counter() - began) * 1000)


def measure(port: int, clients: int, calls: int) -> dict[str, float]:
    """Return p50 and p99 in milliseconds and calls a second."""
    taken: list[float] = []
    client(port, WARM_UP, [])
    threads = [threading.Thread(target=client, args=(port, calls // clients, taken)) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    return {"p50": median(taken), "p99": quantiles(taken, n=100)[98], "per_second": len(taken) / seconds}


def one_round(app: list[str], kind: str, server: Server, clients: int, calls: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="turnpike-sdk-") as folder:
        variables = {
            "TURNPIKE_URL": f"http://127.0.0.1:{server.port}",
            "TURNPIKE_KEY": KEY,
            "TURNPIKE_SOURCE": SOURCE,
            "TURNPIKE_SPOOL_DIR": f"{folder}/spool",
            "TURNPIKE_OPTIONS": json.dumps({"durability": "process" if kind == "process" else "disk"}),
            **({"TURNPIKE_OFF": "1"} if kind == "bare" else {}),
        }
        process = subprocess.Popen(app, env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert process.stdout is not None
            return measure(int(process.stdout.readline().split()[1]), clients, calls)
        finally:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--app", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=3000)
    chosen = parser.parse_args()
    server = Server(Ingest(KEY, SOURCE))
    server.start()
    with tempfile.TemporaryDirectory(prefix="turnpike-sdk-") as folder:
        disk = median(disk_milliseconds(Path(folder)) for _ in range(chosen.rounds))
    print(f"the disk makes 400 bytes durable in {disk:.3f} ms (median); load {os.getloadavg()[0]:.1f}")
    for clients in (1, 16):
        found: dict[str, list[dict[str, float]]] = {"bare": [], "process": [], "disk": []}
        for _ in range(chosen.rounds):
            for kind, figures in found.items():
                figures.append(one_round(shlex.split(chosen.app), kind, server, clients, chosen.calls))
        for kind, figures in found.items():
            p50, p99, rate = (median(one[name] for one in figures) for name in ("p50", "p99", "per_second"))
            print(f"{clients:>3} connections  {kind:<8} p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  {rate:7.0f} calls/s", flush=True)
    server.stop()


if __name__ == "__main__":
    main()
