"""The SDKs' example apps as processes: an API of the provider's own, whose middleware counts the calls."""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from embedded_servers import places

START_SECONDS = 20.0
STOP_SECONDS = 20.0
COMPILE_SECONDS = 3.0  # of waiting for a Go example that has been compiled in the background since the story began
KEY_HEADER = "X-Api-Key"


class MissingError(Exception):
    """The example cannot run on this machine; the message says why."""


@dataclass(frozen=True)
class Wiring:
    """Where an example app sends, as whom, and whose keys it knows."""

    url: str
    sender_key: str
    source: str
    keys: dict[str, str]  # key -> subscription id
    clock_offset_seconds: float

    def environment(self, folder: Path) -> dict[str, str]:
        """Write the keys into the app's folder and return its variables."""
        folder.mkdir(parents=True, exist_ok=True)
        keys = folder / "keys.json"
        keys.write_text(json.dumps({hashlib.sha256(key.encode()).hexdigest(): sid for key, sid in self.keys.items()}))
        return {
            **os.environ,
            "TURNPIKE_URL": self.url,
            "TURNPIKE_KEY": self.sender_key,
            "TURNPIKE_SOURCE": self.source,
            "TURNPIKE_SPOOL_DIR": "spool",
            "EXAMPLE_KEYS": str(keys),
            "CLOCK_OFFSET_SECONDS": str(self.clock_offset_seconds),
        }


class GoExample:
    """Compiled in the background from the story's beginning, at low priority: the first time takes long."""

    def __init__(self, folder: Path) -> None:
        self._binary = folder / "example"
        self._compiler: Process | None = None
        self._missing = ""

    async def begin(self) -> None:
        if shutil.which("go") is None:
            self._missing = "go not found"
            return
        self._binary.parent.mkdir(parents=True, exist_ok=True)
        command = [*(["nice"] if shutil.which("nice") else []), "go", "build", "-o", str(self._binary), "./example"]
        offline = {"CGO_ENABLED": "0", "GOPROXY": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod"}
        self._compiler = await asyncio.create_subprocess_exec(
            *command, cwd=places.checkout() / "sdks" / "go", env={**os.environ, **offline}, stdout=DEVNULL, stderr=DEVNULL
        )

    async def command(self) -> list[str]:
        """Return how to start it. Raises MissingError."""
        if self._compiler is None:
            raise MissingError(self._missing)
        try:
            async with asyncio.timeout(COMPILE_SECONDS):
                code = await self._compiler.wait()
        except TimeoutError:
            raise MissingError("it is still being compiled, which only the first time takes long") from None
        if code != 0:
            raise MissingError("this machine's go does not compile it (it needs 1.23)")
        return [str(self._binary)]

    async def end(self) -> None:
        if self._compiler is not None and self._compiler.returncode is None:
            self._compiler.kill()
            await self._compiler.wait()


def python_command() -> list[str]:
    return [sys.executable, str(places.checkout() / "sdks" / "python" / "example" / "app.py")]


def express_command() -> list[str]:
    """Return how to start it. Raises MissingError."""
    if shutil.which("node") is None:
        raise MissingError("node not found")
    return ["node", str(places.checkout() / "sdks" / "express" / "example" / "app.js")]


@contextlib.asynccontextmanager
async def running(command: list[str], folder: Path, wiring: Wiring) -> AsyncIterator[tuple[str, Process]]:
    """Run an example app in a folder of its own; yields its address and the process, which is gone afterwards."""
    environment = wiring.environment(folder)
    with (folder / "app.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(*command, cwd=folder, env=environment, stdin=DEVNULL, stdout=PIPE, stderr=log)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            words = (await process.stdout.readline()).split()
        if len(words) != 2 or words[0] != b"listening":
            raise MissingError(f"it does not start; see {folder / 'app.log'}")
        yield f"http://127.0.0.1:{int(words[1])}", process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def stop(process: Process) -> bool:
    """End an app as an orchestrator does; returns whether it ended by itself, having sent what it had."""
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(STOP_SECONDS):
        return await process.wait() in {0, -signal.SIGTERM}


async def call_many(client: httpx.AsyncClient, base: str, key: str, paths: list[str], *, parallel: int = 8) -> list[int]:
    """Make one call a path; returns the statuses."""
    waiting, statuses = iter(paths), list[int]()

    async def work() -> None:
        for path in waiting:
            statuses.append((await client.get(f"{base}{path}", headers={KEY_HEADER: key})).status_code)

    await asyncio.gather(*(work() for _ in range(parallel)))
    return statuses
